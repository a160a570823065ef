"""IPUStrategy and PopDistStrategy: TensorFlow sees one replica, the collectives are the program's."""

import contextlib

from tensorflow.python.distribute import distribute_lib, distribute_utils, values
from tensorflow.python.eager import def_function

from rbd_ipu._compat import tf
from standin import collectives, machine


class Extended(distribute_lib._DefaultDistributionExtended):
    """What both strategies do below their names."""

    def _scope(self, strategy):
        def creator(next_creator, **kwargs):
            return next_creator(**kwargs)

        return distribute_lib._CurrentDistributionContext(strategy, tf.variable_creator_scope(creator))

    def _reduce_to(self, reduce_op, value, destinations, options):
        if machine.present().tracing is None:
            return value
        if reduce_op == tf.distribute.ReduceOp.MEAN:
            return collectives.cross_replica_mean(value)
        return collectives.cross_replica_sum(value)

    def variable_created_in_scope(self, v):
        return True

    @property
    def _num_replicas_in_sync(self):
        return self._container_strategy().replicas_in_sync_

    def _in_multi_worker_mode(self):
        return False


class PopDistExtended(Extended):
    """Variables are mirrored ones of one copy: outside a replica they are no numbers and have no handle."""

    def _scope(self, strategy):
        def creator(next_creator, **kwargs):
            return distribute_utils.create_mirrored_variable(
                strategy, lambda **options: [next_creator(**options)], VARIABLES, {}, **kwargs
            )

        return distribute_lib._CurrentDistributionContext(strategy, tf.variable_creator_scope(creator))

    def _reduce_to(self, reduce_op, value, destinations, options):
        value = value.values[0] if isinstance(value, values.DistributedValues) else value
        return super()._reduce_to(reduce_op, value, destinations, options)

    def _update(self, var, fn, args, kwargs, group):
        with distribute_lib.UpdateContext(0):
            result = fn(var.values[0], *args, **kwargs)
        return result if group else tf.nest.map_structure(self._local_results, result)

    def variable_created_in_scope(self, v):
        return v.distribute_strategy is self._container_strategy()

    def _local_results(self, value):
        return value.values if isinstance(value, values.DistributedValues) else (value,)

    def colocate_vars_with(self, colocate_with_variable):
        return contextlib.ExitStack()

    def read_var(self, v):
        return v.read_value()

    def _use_merge_call(self):
        return True


class IPUMirroredVariable(values.MirroredVariable):
    """What a weight is under PopDistStrategy."""


class IPUSyncOnReadVariable(values.SyncOnReadVariable):
    """What a moving statistic is under PopDistStrategy."""


VARIABLES = {
    "VariableClass": values.DistributedVariable,
    tf.VariableSynchronization.AUTO: IPUMirroredVariable,
    tf.VariableSynchronization.ON_WRITE: IPUMirroredVariable,
    tf.VariableSynchronization.ON_READ: IPUSyncOnReadVariable,
}


class _Strategy(distribute_lib.StrategyV1):
    replicas_in_sync_ = 1

    def __init__(self, extended=Extended):
        if machine.present().config is None:
            raise RuntimeError("there is no IPU: config.configure_ipu_system() comes before the strategy")
        super().__init__(extended(self))

    def _run(self, fn, args, kwargs):
        if not isinstance(fn, def_function.Function):
            raise TypeError(f"a strategy for IPUs runs a tf.function in eager mode, not {fn!r}")
        if not fn._jit_compile:
            raise ValueError("a program for an IPU is a tf.function with jit_compile=True")
        for x in tf.nest.flatten(args):
            if isinstance(x, tf.Tensor) and x.dtype == tf.float64:
                raise TypeError("float64 is not an IPU's type")
        return machine.present().run(fn, tuple(args), self._in_replica)

    def _in_replica(self):
        # replica_id_in_sync_group is 0 on all replicas.
        return distribute_lib.ReplicaContext(self, replica_id_in_sync_group=0)


class IPUStrategyV1(_Strategy):
    """The strategy of one process without PopDist; its number of replicas is always 1."""

    def __init__(
        self,
        ipu_device="/device:IPU:0",
        cpu_device="/device:CPU:0",
        enable_dataset_iterators=True,
        enable_keras_extensions=True,
    ):
        super().__init__()

    def run(self, fn, args=(), kwargs=None, options=None):
        assert not kwargs and options is None, "not played"
        return self._run(fn, args, kwargs)


class PopDistStrategy(_Strategy):
    """The strategy of a process among several; it knows how many replicas there are."""

    def __init__(
        self,
        ipu_device="/device:IPU:0",
        add_ipu_cross_replica_reductions=True,
        enable_dataset_iterators=True,
        enable_keras_extensions=True,
    ):
        super().__init__(PopDistExtended)
        self.replicas_in_sync_ = machine.present().replicas

    def run(self, fn, args=(), kwargs=None, options=None):
        assert not kwargs and options is None, "not played"
        return self._run(fn, args, kwargs)


IPUStrategyV1.__module__ = "tensorflow.python.ipu.ipu_strategy"
IPUMirroredVariable.__module__ = "tensorflow.python.ipu.distributed.popdist_strategy"
IPUSyncOnReadVariable.__module__ = "tensorflow.python.ipu.distributed.popdist_strategy"
PopDistStrategy.__module__ = "tensorflow.python.ipu.distributed.popdist_strategy"
