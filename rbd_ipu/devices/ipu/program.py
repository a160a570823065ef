"""The programs that an IPU runs: loops of constant length, fed and read by queues; the integer hash in them.

They are plain functions of what they are given, so that they can be traced anywhere: ``next(iterator)`` is an infeed
where the iterator was made in the scope of an ``IPUStrategy`` (element i R + r is the i-th of replica r), and
``enqueue`` that of an outfeed. A validation sees all examples, each once, although the batches of a dataset are of
one size but for the last: two programs, one for each size, read them; where batches do not deal out evenly to the
replicas, some are read twice, and the host leaves the second reading out.

By the hash a program draws directions of source "counter", bit by bit those of a CPU.
``codelets/hash_codelets.cpp`` hashes on the tiles, ``codelets/hash_op.cpp`` deals the work out to them; TensorFlow
calls it by ``precompiled_user_op`` (the record has its signature, and the kernel of ``IpuUserOp``). The C++ of both
is compiled and run in the tests, on a stub of Poplar, and held to NumPy bit for bit; nothing of it has run on an IPU.
Equal bits are promised for the words. Of the entries that are made of them, ``uniform``, ``rademacher`` and
``bernoulli-0.5`` are exact in float32; ``normal`` is a quotient of polynomials, whose last bits are the device's.
"""

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from rbd_ipu._compat import as_it_is, tensors, tf
from rbd_ipu.data.batches import stored_form
from rbd_ipu.devices.ipu.ipu_config import cache_root
from rbd_ipu.directions.stream import FIRST, hash32
from rbd_ipu.objective import REPORTED, Objective
from rbd_ipu.step import MEASURES, Step


def fingerprint(variables: Sequence[Any]) -> Any:
    """sum_j hash32(bits of w_j + j * FIRST), over all entries of all float32 variables: int32 scalar.

    Addition wraps around and does not depend on the order, so that a device may sum as it likes.

    Example:
      >>> first, same, other = (int(fingerprint([tf.Variable(w)])) for w in ([1.0, 2.0], [1.0, 2.0], [2.0, 1.0]))
      >>> first == same, first == other
      (True, False)
    """
    total, before = tf.constant(0), 0
    for variable in tensors(variables):
        words = tf.bitcast(tf.reshape(tf.cast(variable, tf.float32), [-1]), tf.int32)
        count = int(words.shape[0])
        total += tf.reduce_sum(hash32(words + (before + tf.range(count)) * FIRST))
        before += count
    return total


class Stream:
    """A dataset that was asked for, before it is an infeed: a program is bound to the infeed it was compiled with.

    Args:
      dataset: batches, in the order in which the replicas of this process take them.
      copies: each batch is for so many replicas.
      finish: what the program makes (x, y) of a batch with; None: it is one already.
    """

    def __init__(self, dataset: Any, copies: int = 1, finish: Optional[Callable[..., Any]] = None):
        self.dataset = dataset
        self.finish = finish
        self.copies = copies


class Infeed:
    """The infeed of a training, made anew only where the data change: a new one means a new compilation.

    A finite dataset that every epoch reads to its end is repeated in place of being started again.
    """

    def __init__(self) -> None:
        self._stream: Optional[Stream] = None
        self._iterator: Optional[Any] = None
        self._taken = 0  # batches of the dataset that were read by the present iterator

    def iterator(self, stream: Stream, batches: int) -> Any:
        """The iterator for so many batches of the stream; to be called in the scope of the strategy.

        A new stream begins at its first batch.

        Raises:
          ValueError: a batch is not of a static shape.
          TypeError: a batch is of a type that no IPU has.
        """
        if not self._goes_on(stream):
            self._iterator = iter(each(check_static(stream.dataset).repeat(), stream.copies))
            self._taken = 0
        self._stream = stream
        self._taken += batches
        return self._iterator

    def _goes_on(self, new: Stream) -> bool:
        if self._iterator is None or self._stream is None:
            return False
        if new is self._stream:
            return True
        # Started again, exactly where the repeated one stands at its first batch.
        length = int(new.dataset.cardinality())
        same = new.dataset is self._stream.dataset and new.copies == self._stream.copies
        return same and length > 0 and self._taken % length == 0


def each(dataset: Any, copies: int) -> Any:
    """Every element so many times in a row."""
    if copies == 1:
        return dataset
    return dataset.flat_map(lambda *batch: tf.data.Dataset.from_tensors(batch).repeat(copies))


def check_static(dataset: Any) -> Any:
    """The dataset, if an IPU can be fed from it.

    Raises:
      ValueError, TypeError: see :meth:`Infeed.iterator`; the message says what to do.
    """
    for spec in tf.nest.flatten(dataset.element_spec):
        if not spec.shape.is_fully_defined():
            raise ValueError(
                f"an IPU needs batches of one static shape, got {spec.shape}: use "
                "dataset.batch(size, drop_remainder=True)"
            )
        if spec.dtype not in (tf.float32, tf.float16, tf.int32, tf.bool, tf.int8, tf.uint8):
            raise TypeError(
                f"an IPU takes float32, float16, int32, bool, int8 or uint8, got {spec.dtype.name}: cast the dataset"
            )
    return dataset


#: What a step tells the host, in order: float32.
TOLD = (*MEASURES, "finite")


def train_program(
    step: Step,
    steps: int,
    enqueue: Callable[[Any], Any],
    compared: Sequence[Any] = (),
    finish: Optional[Callable[..., Any]] = None,
) -> Callable[[Any, Any], None]:
    """The compiled function ``(iterator, done)`` that trains for ``steps`` steps.

    The length is a Python int, so that the loop is a Poplar Repeat; another length is another program. A loop of
    constant length cannot stop: after a step whose loss or update is not finite, the others change no weights.

    Args:
      step: one update, :func:`rbd_ipu.step.one_step`.
      steps: how many.
      enqueue: called once, with what every step tells the host: a dict of ``measures``, float32 in the order of
        TOLD, and, where there are ``compared``, their ``fingerprint`` after the step, int32.
      compared: variables that all replicas should hold alike.
      finish: ``finish(*batch)`` is (x, y), where the iterator's batches are images as stored.

    Returns:
      A ``tf.function`` of the iterator of this program's batches, and of the number of steps before it in the epoch,
      an int32 scalar tensor. It can be traced on any TensorFlow, with any iterator: ``get_concrete_function``.
    """

    def run(iterator: Any, done: Any) -> None:
        def body(i: Any, alive: Any) -> Any:
            new = step.run(lambda: _batch(iterator, finish), done + i, alive > 0.0)
            sent = {"measures": tf.stack([new[name] for name in TOLD])}
            if compared:
                sent["fingerprint"] = fingerprint(compared)
            enqueue(sent)
            return i + 1, new["finite"]

        tf.while_loop(lambda i, _: i < steps, body, (tf.constant(0), tf.constant(1.0)), parallel_iterations=1)

    return tf.function(as_it_is(run), jit_compile=True)


def _batch(iterator: Any, finish: Optional[Callable[..., Any]]) -> Any:
    batch = next(iterator)
    return batch if finish is None else finish(*batch)


def evaluate_program(
    objective: Objective, steps: int, enqueue: Callable[[Any], Any], finish: Optional[Callable[..., Any]] = None
) -> Callable[[Any], None]:
    """The compiled function ``(iterator)`` that looks at ``steps`` batches, without learning.

    ``enqueue`` is called once, with each batch's sums, float32 in the order of REPORTED. ``finish`` as in
    :func:`train_program`.
    """

    def run(iterator: Any) -> None:
        def body(i: Any) -> Any:
            batch = _batch(iterator, finish)
            loss, outputs = objective(batch, training=False)
            report = objective.report(batch, outputs, loss)
            enqueue(tf.concat([report, tf.zeros([len(REPORTED) - report.shape[0]])], axis=0))
            return (i + 1,)

        tf.while_loop(lambda i: i < steps, body, (tf.constant(0),), parallel_iterations=1)

    return tf.function(as_it_is(run), jit_compile=True)


class Reading(NamedTuple):
    """Batches of one size, ready to be read again and again.

    Attributes:
      size: examples of a batch.
      batches: how many of them there are.
      iterator: over them, padded to full rounds of the replicas, without end.
      read: what runs the program on the iterator and gives [>= batches, REPORTED], in order; None where there are no
        numbers.
    """

    size: int
    batches: int
    iterator: Any
    read: Callable[[Any], Optional[np.ndarray]]


class Evaluation:
    """The function ``dataset -> sums`` in the order of REPORTED, on an IPU.

    Args:
      objective: what is evaluated.
      replicas: how many read an infeed.
      make: ``(steps -> enqueue -> program) -> (iterator -> values [steps * replicas, REPORTED])``, the device's part.
    """

    def __init__(
        self,
        objective: Objective,
        replicas: int,
        make: Callable[[Callable[[Any], Any]], Callable[[Any], Optional[np.ndarray]]],
    ):
        self._objective = objective
        self._replicas = replicas
        self._make = make
        self._known: Dict[int, Tuple[Any, List[Reading]]] = {}

    def __call__(self, dataset: Any) -> List[float]:
        """Sums over a finite dataset of batches; to be called in the scope of the strategy."""
        if id(dataset) not in self._known:  # the dataset is kept with them, so that its id stays its own
            self._known[id(dataset)] = (dataset, self._readings(dataset))
        total = np.zeros(len(REPORTED))
        for reading in self._known[id(dataset)][1]:
            sent = reading.read(reading.iterator)
            if sent is None:
                total[:] = float("nan")
            else:
                total += sent[: reading.batches].astype(np.float64).sum(axis=0)
        return total.tolist()

    def _readings(self, dataset: Any) -> List[Reading]:
        dataset, finish = stored_form(dataset)
        sizes = _sizes(dataset)
        full = sizes.count(sizes[0]) if sizes else 0
        if set(sizes[:full]) | set(sizes[full + 1 :]) > set(sizes[:1]):
            raise ValueError(f"on an IPU all batches but the last must be of one size, got sizes {sizes}")
        parts = [(sizes[0], dataset.take(full), full)] if full else []
        parts += [(size, dataset.skip(full), 1) for size in sizes[full:]]
        return [self._reading(*part, finish) for part in parts]

    def _reading(self, size: int, dataset: Any, batches: int, finish: Any) -> Reading:
        steps = -(-batches // self._replicas)
        fixed = dataset.map(lambda *parts: tf.nest.map_structure(lambda part: _of_size(part, size), parts))
        rounds = check_static(fixed).repeat().take(steps * self._replicas).repeat()
        read = self._make(lambda enqueue: evaluate_program(self._objective, steps, enqueue, finish))
        return Reading(size, batches, iter(rounds), read)


def _sizes(dataset: Any) -> List[int]:
    """The number of examples of each batch, without an iterator: here that would be an infeed."""
    with tf.device("/device:CPU:0"):
        sizes = dataset.map(lambda *parts: tf.shape(tf.nest.flatten(parts)[0])[0]).reduce(
            tf.zeros([0], tf.int32), lambda found, size: tf.concat([found, [size]], axis=0)
        )
    return [int(size) for size in sizes]


def _of_size(batch: Any, size: int) -> Any:
    return tf.ensure_shape(batch, [size, *batch.shape[1:]])


SOURCES = Path(__file__).resolve().parent / "codelets"
LIBRARY, CODELETS = "librbd_hash.so", "hash_codelets.cpp"


class Hash:
    """The two operations; the host's part of them is compiled when the first is asked for.

    Args:
      ipu: the package ``tensorflow.python.ipu``.
    """

    def __init__(self, ipu: Any):
        self._ipu = ipu
        self._library = ""

    def words(self, pairs: Any, places: Any) -> Any:
        """As :func:`rbd_ipu.directions.stream.word_at`: pairs int32 [..., 2], places int32 [m] -> int32 [..., m]."""
        return self._call("Words", pairs, places, [])

    def keys(self, seeds: Any, parts: Any) -> Any:
        """``schedule(fold_in(seed, part))``: seeds int32 [..., 2], parts int32 [m] -> int32 [..., m, 2]."""
        return self._call("Keys", seeds, parts, [2])

    def _call(self, name: str, heads: Any, tail: Any, item: List[int]) -> Any:
        self._library = self._library or str(library())
        lead, m = heads.shape[:-1].as_list(), int(tail.shape[0])
        rows = tf.reshape(heads, [-1, 2])
        outs = {"output_types": [tf.int32], "output_shapes": [tf.TensorShape([int(rows.shape[0]), m, *item])]}
        (found,) = self._ipu.custom_ops.precompiled_user_op(
            [rows, tail], self._library, gp_path=str(SOURCES / CODELETS), outs=outs, name=f"Rbd{name}", op_name=name
        )
        return tf.reshape(found, [*lead, m, *item])


def library() -> Path:
    """The compiled host's part, made by g++ with the headers of the Poplar SDK, once for each version of either.

    Raises:
      RuntimeError: the SDK is not enabled, there is no g++, or it fails; the message has what it said.
    """
    sdk = os.environ.get("POPLAR_SDK_ENABLED")
    if not sdk:
        raise RuntimeError('source "counter" on an IPU needs the Poplar SDK once: source its enable script first')
    source = SOURCES / "hash_op.cpp"
    version = hashlib.sha256(source.read_bytes() + os.path.realpath(sdk).encode()).hexdigest()[:16]
    made = Path(cache_root()) / "codelets" / version / LIBRARY
    if made.is_file():
        return made
    made.parent.mkdir(parents=True, exist_ok=True)
    draft = made.with_name(f"{os.getpid()}.so")
    command = ["g++", "-std=c++17", "-O2", "-fPIC", "-shared", str(source), f"-I{sdk}/include", f"-L{sdk}/lib"]
    try:
        done = subprocess.run([*command, "-lpoplar", "-o", str(draft)], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise RuntimeError('source "counter" on an IPU needs g++ once, and there is none') from None
    if done.returncode:
        raise RuntimeError(f"{source} cannot be compiled: {' '.join(command)}\n{done.stderr}")
    os.replace(draft, made)  # several processes may make it at once
    return made
