"""A replay log: the messages of every step of a training, from which the weights of any step are made again.

theta_t follows from theta_0 and from what the workers have received: no data, no gradients. With the K messages q_k
of a step, ``update`` of the method, the basis P_t from its seed, and the inner optimizer::

    u_t         = update(P_t, q_1 ... q_K)
    theta_{t+1} = inner optimizer (theta_t, u_t) at the learning rate of the step

The file::

    "rbd-ipu replay"  14 bytes
    format            1 byte, this is 2
    length            4 bytes, of the header
    header            JSON, compressed by zlib: method, workers, shapes, SHA-256 of the starting weights
    SHA-256           32 bytes, of all before
    records           one for each step, all of one length:
      learning rate   float32
      messages        K times the bytes of one, as they cross the wire; one, where they are added up on the way
      CRC-32          4 bytes, of the record, begun with the number of the step

Numbers are stored lowest byte first. There is no code and no pickle in it. A record depends on its step alone, not on
how a training was cut into calls, or interrupted: a run that was killed and goes on has the file of one that was not.
"""

import hashlib
import json
import os
import struct
import time
import zlib
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple, Union

import numpy as np

from rbd_ipu import files
from rbd_ipu._compat import tf
from rbd_ipu.checkpoints import state
from rbd_ipu.delta import fingerprint, layout
from rbd_ipu.parallel.exchange import MPI, Alone, Simulated
from rbd_ipu.parallel.plan import Plan
from rbd_ipu.parallel.round import Form, form_of
from rbd_ipu.step import one_replayed, replay_steps

MAGIC, FORMAT = b"rbd-ipu replay", 2
OLDEST = 1
METHODS = ("rbd", "fpd", "compressed")
RATE, CHECKSUM = 4, 4  # bytes of a record beside the messages
_FORM = ("workers", "rows", "bytes")
# Of a log, so many bytes are unpacked at a time.
_CALL_BYTES, _CALL_STEPS = 2**26, 1024


class ReplayError(ValueError):
    """A replay log that cannot be kept or used; nothing has been changed."""


class Log(NamedTuple):
    """A file that was opened; its records are read, and checked, when they are asked for.

    Attributes:
      path: of the file.
      header: method, plan, workers, rows, bytes (of a row), D, d, layout, base, about.
      start: where the records begin.
      steps: how many whole ones there are.
      rest: bytes behind them, of a record that was not finished.
    """

    path: Path
    header: Dict[str, Any]
    start: int
    steps: int
    rest: int

    @property
    def record_bytes(self) -> int:
        """Of a step."""
        return RATE + self.header["rows"] * self.header["bytes"] + CHECKSUM

    def __str__(self) -> str:
        known = self.header
        sent = f"{known['rows']} x {known['bytes']:,}"
        return (
            f"{self.steps:,} steps, method {known['method']['name']}, workers {known['workers']}, "
            f"d = {known['d']:,} of D = {known['D']:,}\n"
            f"{self.record_bytes:,} bytes a step: {sent} for messages, {RATE + CHECKSUM} for learning rate and "
            f"checksum\nstarting weights with SHA-256 {known['base']}"
        )

    def records(self, first: int, last: int) -> np.ndarray:
        """The steps first ... last - 1 without their checksums: uint8 [n, record_bytes - 4].

        Raises:
          ReplayError: one of them is damaged; with its step.
        """
        size = self.record_bytes
        with files.naming(self.path), open(self.path, "rb") as file:
            file.seek(self.start + first * size)
            read = np.frombuffer(file.read((last - first) * size), np.uint8)
        if len(read) != (last - first) * size:
            raise ReplayError(f"{self.path}: ends before step {last}; it had {self.steps} steps when it was opened")
        found = read.reshape(last - first, size)
        for i, record in enumerate(found):
            (wanted,) = struct.unpack("<I", record[-CHECKSUM:].tobytes())
            has = _checksum(record[:-CHECKSUM], first + i)
            if has != wanted:
                raise ReplayError(
                    f"{self.path}: step {first + i} is damaged: its checksum is {has:08x}, and the file says "
                    f"{wanted:08x}"
                )
        return found[:, :-CHECKSUM]


def read_log(path: Union[str, Path]) -> Log:
    """Opens a replay log and checks its header.

    Args:
      path: of the file, or of the folder of a run, in which it is ``replay.log``.

    Raises:
      ReplayError: it is no replay log, of an unknown format, or its header is damaged; quotes what is there.
      OSError: it cannot be read; with the path.
    """
    path = Path(path)
    path = path / "replay.log" if path.is_dir() else path
    begin = len(MAGIC) + 5
    with files.naming(path), open(path, "rb") as file:
        head = file.read(begin)
        if not head.startswith(MAGIC):
            raise ReplayError(f"{path}: is no replay log of rbd_ipu: it begins with {head[: len(MAGIC)]!r}")
        form = head[len(MAGIC)] if len(head) == begin else FORMAT
        if not OLDEST <= form <= FORMAT:
            raise ReplayError(
                f"{path}: is of format {form}, and this version of rbd_ipu knows formats {OLDEST} to {FORMAT}"
            )
        size = os.fstat(file.fileno()).st_size
        length = struct.unpack("<I", head[-4:])[0] if len(head) == begin else size
        start = begin + length + 32
        if start > size:
            raise ReplayError(f"{path}: its header is cut off: the file has {size} bytes")
        packed = file.read(length)
        if hashlib.sha256(head + packed).digest() != file.read(32):
            raise ReplayError(f"{path}: its header is damaged: it does not have its SHA-256")
    try:
        header = json.loads(zlib.decompress(packed).decode("utf-8"))
        log = Log(path, header, start, 0, 0)
        steps, rest = divmod(size - start, log.record_bytes)
        Plan(**header["plan"]), header["method"]["name"], header["base"], header["layout"]
        if not (isinstance(header["about"], dict) and min(header["rows"], header["bytes"], header["workers"]) > 0):
            raise ValueError(f"rows, bytes or workers are not above 0, or about is {header['about']!r}")
    except (KeyError, TypeError, ValueError, ArithmeticError, RecursionError, zlib.error) as error:
        raise ReplayError(f"{path}: its header cannot be read: {error!r}") from None
    if form < FORMAT and str(header["method"].get("bits")).startswith("sign"):
        raise ReplayError(
            f"{path}: is of format {form}, in which values of one bit had slightly other sizes: only the version of "
            "rbd_ipu that wrote it makes the same weights of it"
        )
    return log._replace(steps=steps, rest=rest)


class ReplayLog:
    """Keeps the messages of a training, for :func:`replay_weights`: ``Trainer(..., replay_log=ReplayLog(path))``.

    It is for the methods ``rbd``, ``fpd`` and ``compressed``, where the update follows from the messages, with one
    worker, simulated ones, or ranks of MPI (of which worker 0 writes). A step takes 8 bytes and K times those of a
    message. A training that goes on, from a checkpoint or by a further ``fit``, goes on with its file; what the file
    has beyond the checkpoint's step is cut off.

    A single worker with a log projects, sends and expands as several do; without one it may take a shorter way, whose
    weights differ in the last bits.

    Args:
      path: of the file; None keeps nothing, as the workers beside the first one do.
      about: what to keep in the header, in the types JSON has.

    Raises:
      ReplayError: the log of such a training would not give its weights, or the path holds another log; from the
        Trainer, or from ``fit``, before the first step.

    Example:
      >>> import tempfile, numpy as np, rbd_ipu
      >>> from rbd_ipu import methods, models
      >>> def trainer(log=None):
      ...     model = models.build("fc", shape=(8, 8, 1), seed=0)
      ...     return rbd_ipu.Trainer(model, methods.create("rbd", learning_rate=1.0, dim=16), replay_log=log)
      >>> x = np.random.default_rng(0).random((64, 8, 8, 1), np.float32)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     trained, again = trainer(ReplayLog(f"{folder}/a.log")), trainer()
      ...     history = trained.fit((x, np.arange(64) % 10), epochs=3, verbose=0)
      ...     replay_weights(again, f"{folder}/a.log").step
      6
      >>> all((a == b).all() for a, b in zip(trained.model.get_weights(), again.model.get_weights()))
      True
    """

    def __init__(self, path: Union[None, str, Path] = None, about: Optional[Mapping[str, Any]] = None):
        self.path = None if path is None else Path(path)
        self.about = dict(about or {})
        self.steps = 0
        self._form: Optional[Form] = None
        self._hash = hashlib.sha256()
        self._bytes = 0

    def check(self, trainer: Any) -> None:
        """Refuses what cannot be replayed; called by the Trainer.

        Raises:
          ReplayError: with the reason.
        """
        method, exchange = trainer.method, trainer.device.exchange
        if method.name not in METHODS:
            raise ReplayError(
                f"replay_log is for the methods {', '.join(METHODS)}, whose small messages decide the step; got "
                f"method {method.name!r}"
            )
        if not method.parallel:
            raise ReplayError(f"replay_log: messages do not decide the step: {method.not_parallel_because}")
        if trainer.device.name not in ("cpu", "gpu") or not isinstance(exchange, (Alone, Simulated, MPI)):
            raise ReplayError(
                "replay_log is for device cpu or gpu, with one worker, simulate_workers, or workers of MPI; got "
                f"device {trainer.device.name} with {exchange.workers} workers ({type(exchange).__name__})"
            )
        if exchange.workers > 1 and exchange.plan.exchange == "update":
            raise ReplayError("replay_log keeps messages, and with exchange=update none are sent; use coordinates")
        moving = _moving(trainer.model)
        if moving:
            raise ReplayError(
                f"replay_log: {moving[0]} and {len(moving) - 1} more variables are not trained by messages, as the "
                "moving statistics of batch normalisation, which follow the data; freeze their layers "
                "(layer.trainable = False), or take a network without"
            )

    def begin(self, trainer: Any, resumed: bool) -> None:
        """Makes the file, or takes it back to the step of the trainer; called by ``Trainer.fit``.

        Args:
          trainer: before its next step.
          resumed: whether it has been taken back to a checkpoint, so that later steps in the file will be made again.

        Raises:
          ReplayError: the file does not belong to this training; nothing was changed.
          OSError: with the path.
        """
        exchange = trainer.device.exchange
        plan = exchange.plan._replace(exchange="coordinates")
        self._form = form_of(trainer.method, plan, exchange.workers)
        if self.path is None:
            return
        header = _described(trainer, plan, self._form, exchange.workers, self.about)
        step = trainer.step
        if not self.path.exists():
            if step:
                raise ReplayError(f"{self.path}: is not there, and the training is at step {step}; it begins at 0")
            with files.replacing(self.path) as draft:
                draft.write_bytes(_head(header))
        log = read_log(self.path)
        _check_same(log, header, ("base",) if step == 0 else ())
        if log.steps < step:
            raise ReplayError(f"{self.path}: has {log.steps} steps, and the training is at step {step}")
        if (log.steps > step or log.rest) and not resumed:
            raise ReplayError(
                f"{self.path}: holds {log.steps} steps already, and the training is at step {step}: choose another "
                "path, or go on from a checkpoint (fit(start=...))"
            )
        for first, last in _calls(step, self._form):
            log.records(first, last)
        self.steps, self._bytes, self._hash = step, log.start + step * log.record_bytes, hashlib.sha256()
        with files.naming(self.path), open(self.path, "rb+") as file:
            file.truncate(self._bytes)
            for part in iter(lambda: file.read(_CALL_BYTES), b""):
                self._hash.update(part)

    def append(self, rows: np.ndarray) -> None:
        """Adds the steps of a call: int32 [n, 1 + rows * words]; if that fails, the file is as before.

        Raises:
          OSError: with the path.
        """
        if self.path is None or not len(rows):
            return
        assert self._form is not None
        bodies = _packed(rows, self._form)
        content = b"".join(
            body.tobytes() + struct.pack("<I", _checksum(body, self.steps + i)) for i, body in enumerate(bodies)
        )
        files.append(self.path, content)
        self.steps += len(rows)
        self._bytes += len(content)
        self._hash.update(content)

    def extent(self) -> Dict[str, Any]:
        """How far the file has come, once it is safe on the disk: its length in bytes and its SHA-256."""
        if self.path is not None:
            with files.naming(self.path), open(self.path, "rb") as file:
                os.fsync(file.fileno())
        return {"bytes": self._bytes, "sha256": self._hash.hexdigest()}


class Replayed(NamedTuple):
    """What :func:`replay_weights` did.

    Attributes:
      step: whose weights these are.
      steps: how many the log has.
      record_bytes: of a step in the log.
      total_bytes: of the log.
      seconds: that the steps after the first took; the first one waits for TensorFlow to prepare itself.
      sha256: of the weights.
    """

    step: int
    steps: int
    record_bytes: int
    total_bytes: int
    seconds: float
    sha256: str

    def __str__(self) -> str:
        rate = f", {(self.step - 1) / self.seconds:,.0f} steps a second" if self.step > 1 else ""
        return (
            f"{self.total_bytes:,} bytes for {self.steps:,} steps, {self.record_bytes:,} a step\n"
            f"step {self.step:,} made again in {self.seconds:.2f} s{rate}\n"
            f"weights with SHA-256 {self.sha256}"
        )


def replay_weights(trainer: Any, path: Union[str, Path], step: Optional[int] = None) -> Replayed:
    """Makes the weights after a step again, from the starting weights and a replay log, without data::

        theta_{t+1} = inner optimizer (theta_t, update(P_t, q_1 ... q_K))        for t = 0 ... step - 1

    On the same machine and stack they have the bits of the training. On another stack each step is the same up to the
    rounding of float32.

    Args:
      trainer: a new :class:`rbd_ipu.Trainer` of the same method and of a model with the starting weights, on a device
        with one worker. Afterwards its model has the weights of ``step``, and its optimizer the state of then. What
        the workers remembered of their gradients is not in a log: to train on, use a checkpoint.
      path: of a file that a :class:`ReplayLog` has written, or of the folder of a run.
      step: how many updates, from 0; None for all that the log has.

    Returns:
      Which step, how many bytes, how long it took: a :class:`Replayed`.

    Raises:
      ReplayError: the file is damaged, of an unknown format, or for another method, network or starting weights, or
        ends before the step; quotes both. Nothing has been changed.
      TypeError: step is no whole number.
      OSError: the file cannot be read; with the path.

    Example:
      >>> import rbd_ipu
      >>> from rbd_ipu import methods, models
      >>> method = methods.create("rbd", learning_rate=1.0, dim=16)
      >>> trainer = rbd_ipu.Trainer(models.build("fc", shape=(8, 8, 1)), method)
      >>> replay_weights(trainer, __file__)
      Traceback (most recent call last):
      ...
      rbd_ipu.replay.ReplayError: ... is no replay log of rbd_ipu: ...
    """
    log = read_log(path)
    wanted = _step_of(log, step)
    plan, workers = Plan(**log.header["plan"]), int(log.header["workers"])
    if trainer.step:
        raise ReplayError(f"{log.path}: a replay begins at step 0, and the trainer is at step {trainer.step}")
    form = form_of(trainer.method, plan, workers)
    _check_same(log, _described(trainer, plan, form, workers, {}), ("base",))
    calls = _calls(wanted, form)
    for first, last in calls:
        log.records(first, last)  # a damaged one is found before the first weight changes
    kept = [(v, state.stored(v)) for members in state.variables(trainer).values() for _, v in members]
    repeat = one_replayed(trainer.method, trainer.optimizer, list(trainer.model.trainable_variables), plan, workers)
    with trainer.device:
        run = replay_steps(repeat, 1 + form.rows * form.words)
        started = time.perf_counter()
        for first, last in calls:
            if first == 1:
                started = time.perf_counter()
            good = int(run(tf.constant(_unpacked(log.records(first, last), form))))
            if good < last - first:
                for variable, value in kept:
                    variable.assign(tf.cast(value, variable.dtype))
                raise ReplayError(
                    f"{log.path}: step {first + good} is not finite, or the schedule of the learning rate gives "
                    f"another rate there than the {_rate(log, first + good):g} of the log; the weights are as before"
                )
        seconds = time.perf_counter() - started
    found = fingerprint(_weights(trainer.model))
    total = log.start + log.steps * log.record_bytes + log.rest
    return Replayed(wanted, log.steps, log.record_bytes, total, seconds, found)


def _step_of(log: Log, step: Optional[int]) -> int:
    if step is None:
        return log.steps
    if isinstance(step, bool) or not isinstance(step, (int, np.integer)):
        raise TypeError(f"step must be a whole number from 0, got {step!r}")
    if not 0 <= step <= log.steps:
        raise ReplayError(f"{log.path}: has {log.steps} steps, and step {step} is asked for")
    return int(step)


def _calls(steps: int, form: Form) -> List[Tuple[int, int]]:
    """(first, last) of the calls that make so many steps; the first call is of one."""
    n = max(1, min(_CALL_STEPS, _CALL_BYTES // (4 * form.rows * form.words)))
    rest = [(first, min(first + n, steps)) for first in range(1, steps, n)]
    return [(0, 1), *rest] if steps else []


def _described(trainer: Any, plan: Plan, form: Form, workers: int, about: Mapping[str, Any]) -> Dict[str, Any]:
    """The header of the log of a trainer, at its present weights."""
    method = trainer.method
    options = state.described(method)
    options.update(method.options._asdict() if hasattr(method, "options") else {})
    variables = list(trainer.model.trainable_variables)
    header = {
        "method": options,
        "plan": plan._asdict(),
        "workers": workers,
        "rows": form.rows,
        "bytes": form.bytes,
        "D": method.size,
        "d": method.dim,
        "layout": layout(variables, trainer.model.weights),
        "shapes": layout(variables),  # all that older logs have
        "base": fingerprint(_weights(trainer.model)),
        "about": dict(about),
    }
    return json.loads(files.line(header))


def _head(header: Mapping[str, Any]) -> bytes:
    packed = zlib.compress(json.dumps(header, separators=(",", ":")).encode("utf-8"), 9)
    head = MAGIC + bytes([FORMAT]) + struct.pack("<I", len(packed)) + packed
    return head + hashlib.sha256(head).digest()


def _check_same(log: Log, here: Mapping[str, Any], more: Tuple[str, ...]) -> None:
    """Refuses a log of another training: another method, network, number of workers, and ``more``."""
    there = log.header
    for name in dict.fromkeys([*here["method"], *there["method"]]):
        pair = [known["method"].get(name) for known in (there, here)]
        if pair[0] != pair[1]:
            raise ReplayError(f"{log.path}: is of a method with {name} {pair[0]!r}, and here it is {pair[1]!r}")
    said = {"layout": "variables with SHA-256", "base": "starting weights with SHA-256", "plan": "workers that share"}
    for name in ("D", "d", "layout", "plan", *_FORM, *more):
        accepted = [here[name], here["shapes"]] if name == "layout" else [here[name]]
        if there.get(name) not in accepted:
            raise ReplayError(
                f"{log.path}: is of a training with {said.get(name, name)} {there.get(name)}, and here it is "
                f"{here[name]}"
            )


def _weights(model: Any) -> List[np.ndarray]:
    return [np.asarray(v.numpy()) for v in model.weights]


def _moving(model: Any) -> List[str]:
    """The variables that training changes, and messages do not."""
    frozen = {id(v) for layer in model._flatten_layers() if not layer.trainable for v in layer.variables}
    return [str(getattr(v, "path", v.name)) for v in model.non_trainable_weights if id(v) not in frozen]


def _packed(rows: np.ndarray, form: Form) -> np.ndarray:
    """Records without checksums: int32 [n, 1 + rows * words] -> uint8 [n, 4 + rows * bytes]."""
    raw = np.ascontiguousarray(rows, "<i4").view(np.uint8).reshape(len(rows), -1)
    words = raw[:, RATE:].reshape(len(rows), form.rows, 4 * form.words)[:, :, : form.bytes]
    return np.concatenate([raw[:, :RATE], words.reshape(len(rows), -1)], axis=1)


def _unpacked(records: np.ndarray, form: Form) -> np.ndarray:
    """The inverse of :func:`_packed`; what fills up a word is zero."""
    n = len(records)
    words = np.zeros((n, form.rows, 4 * form.words), np.uint8)
    words[:, :, : form.bytes] = records[:, RATE:].reshape(n, form.rows, form.bytes)
    raw = np.concatenate([records[:, :RATE], words.reshape(n, -1)], axis=1)
    return np.ascontiguousarray(raw).view("<i4").astype(np.int32)


def _rate(log: Log, step: int) -> float:
    return float(np.frombuffer(log.records(step, step + 1)[0, :RATE].tobytes(), "<f4")[0])


def _checksum(record: np.ndarray, step: int) -> int:
    return zlib.crc32(record.tobytes(), step & 0xFFFFFFFF)


__all__ = ["Log", "ReplayError", "ReplayLog", "Replayed", "read_log", "replay_weights"]
