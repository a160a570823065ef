"""The machine: R replicas, what each of them has of its own, and how one traced program runs on all of them."""

import threading

import numpy as np

from rbd_ipu._compat import tf
from standin import strict

_present = []


def begin():
    _present.append(Machine())
    return _present[-1]


def end():
    _present.pop()


def present():
    assert _present, "the stand-in is not installed"
    return _present[-1]


class Program:
    """A function, traced once.

    Attributes:
      function: the concrete function (replica index, *tensors) -> results.
      index: the replica's index while it is traced.
      queues: (queue of replica 0, r -> queue of replica r) of all collectives and outfeeds and infeeds in it.
    """

    def __init__(self):
        self.function = None
        self.index = None
        self.own = []
        self.collectives = []
        self.enqueued = 0

    def differs(self, handle, of_replica):
        """Says that a handle captured by the traced graph is another one on replica r."""
        self.own.append((handle, of_replica))


class Machine:
    """What has been configured, and the programs that were compiled.

    Attributes:
      config: the IPUConfig that was configured.
      replicas: R; known once it was.
      programs: by function and arguments, as TensorFlow keeps traces.
      tracing: the program that is being traced, or None.
      runs: how many programs were run.
    """

    def __init__(self):
        self.config = None
        self.replicas = 0
        self.programs = {}
        self.tracing = None
        self.runs = 0
        self._copies = {}  # id of a variable's handle -> the handle, and what replicas 1, 2, ... have
        self._seen = {}  # id of a variable's handle -> the value on replica 0 after the last run

    def configure(self, config, ipus):
        if self.config is not None:
            raise RuntimeError("the IPU system is configured already; one process can do it once")
        self.config, self.replicas = config, ipus

    def run(self, function, args, context):
        """Traces ``function`` if it has not seen such arguments before, then runs it; results of replica 0."""
        tensors = [x for x in tf.nest.flatten(args) if isinstance(x, tf.Tensor)]
        key = (id(function), _kind(args))
        if key not in self.programs:
            # The function and the arguments are kept, so that their ids stay theirs.
            self.programs[key] = (self._trace(function, args, context), function, args)
        program = self.programs[key][0]
        self.runs += 1
        if self.compiles_only:
            zeros = [tf.zeros(x.shape, x.dtype) for x in program.function.outputs]
            return zeros or None
        return self._execute(program, tensors)

    @property
    def compiles_only(self):
        """Whether it has no IPUs: programs are compiled, and every result is zero."""
        kind = self.config.device_connection.type  # its default is recorded by name
        return getattr(kind, "name", kind) == "PRE_COMPILE"

    def _trace(self, function, args, context):
        program = Program()
        flat = tf.nest.flatten(args)
        places = [i for i, x in enumerate(flat) if isinstance(x, tf.Tensor)]
        python = function.python_function

        def traced(index, *tensors):
            given = list(flat)
            for place, tensor in zip(places, tensors):
                given[place] = tensor
            program.index = index
            with context():
                return python(*tf.nest.pack_sequence_as(args, given))

        specs = [tf.TensorSpec([], tf.int32)] + [tf.TensorSpec(flat[i].shape, flat[i].dtype) for i in places]
        assert self.tracing is None, "a program inside a program"
        self.tracing = program
        try:
            with _xla_context():
                program.function = tf.function(traced, autograph=function._autograph).get_concrete_function(*specs)
        finally:
            self.tracing = None
        strict.check(program.function.graph)
        return program

    def _execute(self, program, tensors):
        function = program.function
        variables = self._variables(program)
        self._spread(variables)
        results, errors = [None] * self.replicas, []

        def replica(r):
            try:
                captured = [self._own(program, x, r) for x in function.captured_inputs]
                results[r] = function._call_flat([tf.constant(r), *tensors], captured)
            except BaseException as error:
                errors.append(error)
                for queue in program.collectives:
                    queue.close(cancel_pending_enqueues=True)

        threads = [threading.Thread(target=replica, args=(r,)) for r in range(1, self.replicas)]
        for thread in threads:
            thread.start()
        replica(0)
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        for handle in variables:
            self._seen[id(handle)] = _value(handle)
        return results[0]

    def _own(self, program, captured, r):
        if r == 0:
            return captured
        for handle, of_replica in program.own:
            if handle is captured:
                return of_replica(r)
        if id(captured) in self._copies:
            return self._copies[id(captured)][1][r - 1].handle
        return captured

    def _variables(self, program):
        """The handles of all variables that a program reads or writes, those of an optimizer's state too."""
        other = {id(handle) for handle, _ in program.own}
        handles = [x for x in program.function.captured_inputs if x.dtype == tf.resource and id(x) not in other]
        return [handle for handle in handles if handle._handle_data is not None and handle._handle_data.is_set]

    def _spread(self, handles):
        """Every replica has its own variables, and the host's value where the host has written since the last run."""
        for handle in handles:
            key, value = id(handle), _value(handle)
            if key not in self._copies:
                self._copies[key] = handle, [tf.Variable(value, trainable=False) for _ in range(1, self.replicas)]
            elif value.tobytes() != self._seen[key].tobytes():
                for copy in self._copies[key][1]:
                    copy.assign(value)

    def copies(self, variable):
        """A variable as replicas 1, 2, ... have it."""
        return self._copies[id(getattr(variable, "_primary", variable).handle)][1]

    def weights(self, variable):
        """The value of a variable on every replica: [R, ...]. The real machine shows that of replica 0 only."""
        return np.stack([variable.numpy(), *(copy.numpy() for copy in self.copies(variable))])


def _value(handle):
    kind = tf.as_dtype(handle._handle_data.shape_and_type[0].dtype)
    return tf.raw_ops.ReadVariableOp(resource=handle, dtype=kind).numpy()


def _kind(args):
    return tuple(
        (x.shape.as_list().__str__(), x.dtype.name)
        if isinstance(x, tf.Tensor)
        else ("object", id(x))
        if not isinstance(x, (int, float, str, bool, type(None)))
        else ("value", x)
        for x in tf.nest.flatten(args)
    )


def _xla_context():
    """Code that asks whether it is being compiled by XLA is told that it is."""
    from tensorflow.python.eager import def_function

    class Context(def_function.OptionalXlaContext):
        pass

    return Context(True)
