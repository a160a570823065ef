"""A fine-tune in a fixed subspace as a file of d numbers: theta = theta_base + P c, and P comes from a seed.

The file::

    "rbd-ipu delta"   13 bytes
    format            1 byte, this is 1
    length            4 bytes, of the header
    header            JSON, compressed by zlib: basis, d, D, shapes of the variables by path, SHA-256 of the base
    coordinates       float32 [d], lowest byte first
    SHA-256           32 bytes, of all before

It holds no code and no pickle. A header that would be longer than 900 bytes leaves the variables' paths out, then
their shapes too, of which it keeps a SHA-256: a file has at most 4 d + 1,000 bytes.
"""

import hashlib
import json
import math
import os
import struct
import weakref
import zlib
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from rbd_ipu import files
from rbd_ipu._compat import create_variables, keras, tensors, tf
from rbd_ipu.compartments import describe
from rbd_ipu.optimizers import FixedProjectionDescent, SubspaceOptimizer
from rbd_ipu.subspace import BasisSpec, Subspace, subspace_of

MAGIC, FORMAT = b"rbd-ipu delta", 1
MOST_HEADER = 900
#: What of a change may lie outside of the subspace: more than rounding, and it is not a change in it.
OUTSIDE = 1e-3
#: Each step rounds the weights to float32: what of them that may come to, for each step and in all.
ROUNDING, MOST_ROUNDING = 2.0**-24, 1e-4
# Steps of conjugate gradients towards the coordinates, where directions are not orthonormal.
STEPS = 200

Base = Union[Any, str, Path]


class DeltaError(ValueError):
    """A file that is no delta, is damaged, or does not fit; nothing has been changed."""


class Delta(NamedTuple):
    """What a file holds.

    Attributes:
      basis: which fixed basis; its ``dim`` is d.
      coordinates: c, float32 [d].
      size: D, entries of the variables that it changes.
      shapes: of these variables, by their paths; None where the file has a SHA-256 of them alone.
      layout: SHA-256 of their places among the weights of the model, and their shapes.
      base: SHA-256 of the weights that it is for.
    """

    basis: BasisSpec
    coordinates: np.ndarray
    size: int
    shapes: Optional[Dict[str, Tuple[int, ...]]]
    layout: str
    base: str

    def __str__(self) -> str:
        basis = {key: value for key, value in self.basis.as_dict().items() if key not in ("redraw_every", "source")}
        lines = [f"d = {len(self.coordinates):,} of D = {self.size:,}; |c| = {np.linalg.norm(self.coordinates):.6g}"]
        lines.append("basis: " + ", ".join(f"{key}={value}" for key, value in basis.items()))
        lines.append(f"for the weights with SHA-256 {self.base}")
        for path, shape in (self.shapes or {}).items():
            lines.append(f"  {path}  {' x '.join(map(str, shape)) or 1}")
        return "\n".join(lines)


def save_delta(path: Union[str, Path], model: Any, base: Base) -> Delta:
    """Writes what a training in a fixed subspace has made of a model.

    c is the solution of P c = theta - theta_base: P^T (theta - theta_base) where P is orthonormal, else by conjugate
    gradients. :func:`apply_delta` gives theta_base + P c, which is theta up to rounding.

    Args:
      path: of the file; at most 4 d + 1,000 bytes.
      model: compiled with a :class:`rbd_ipu.FixedProjectionDescent`, or a :class:`rbd_ipu.SubspaceOptimizer` with
        ``select="all"`` and ``redraw_every=0``, and trained.
      base: what it started from: a model, or a file of weights (of ``save_weights``), or of a model.

    Returns:
      What was written.

    Raises:
      ValueError: the optimizer has no fixed subspace; a variable has fewer than 32 bits; weights have changed outside
        of it, or variables that are not trained; the base has other shapes; a weight is not finite. Nothing has been
        written.
      OSError: with the path, when it cannot be written.

    Example:
      >>> import tempfile, numpy as np, rbd_ipu
      >>> from rbd_ipu._compat import keras
      >>> model = keras.Sequential([keras.layers.InputLayer((4,)), keras.layers.Dense(3)])
      >>> base = keras.models.clone_model(model)
      >>> base.set_weights(model.get_weights())
      >>> model.compile(optimizer=rbd_ipu.FixedProjectionDescent(0.1, dim=5), loss="mse")
      >>> history = model.fit(np.ones((8, 4)), np.ones((8, 3)), epochs=2, verbose=0)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     delta = save_delta(f"{folder}/a.delta", model, base)
      ...     apply_delta(base, f"{folder}/a.delta")
      >>> bool(np.allclose(base.get_weights()[0], model.get_weights()[0], atol=1e-6))
      True
    """
    basis, variables = _subspace_of(model)
    short = [v for v in variables if tf.as_dtype(v.dtype).size < 4]
    if short:
        raise ValueError(
            f"{_path(short[0])} is {tf.as_dtype(short[0].dtype).name}, so that each step has rounded it out of the "
            "subspace: a delta needs variables of float32 or float64 (mixed precision has them)"
        )
    before = weights_of(base, model)
    after = [np.asarray(v.numpy()) for v in model.weights]
    trained = {id(v) for v in tensors(variables)}
    moved = []
    for variable, old, new in zip(model.weights, before, after):
        if old.shape != new.shape:
            raise ValueError(f"the base has {list(old.shape)} where {_path(variable)} is {list(new.shape)}")
        if id(tensors([variable])[0]) in trained:
            moved.append((new.astype(np.float64) - old.astype(np.float64)).ravel())
        elif not np.array_equal(old, new) and "seed_generator" not in _path(variable):
            raise ValueError(
                f"{_path(variable)} differs from the base, and is not in the subspace: a delta holds what happened "
                "in the subspace only (moving statistics of batch normalisation belong to the base)"
            )
    change = np.concatenate(moved)
    if not np.isfinite(change).all():
        count = int((~np.isfinite(change)).sum())
        raise ValueError(
            f"{count:,} of {len(change):,} weights are not finite: the training or the base has diverged"
        )
    space = subspace_of(basis, variables)
    coordinates = _coordinates(space, basis.seed, change)
    rest = float(np.linalg.norm(change - _expanded(space, basis.seed, coordinates)))
    length = float(np.linalg.norm(change))
    if rest > OUTSIDE * length + _rounding(int(model.optimizer.iterations), variables):
        raise ValueError(
            f"a part of the change, {rest / length:.1%}, lies outside the subspace of {basis}: the "
            "model was not trained from this base in this subspace"
        )
    shapes = {describe(v, i).name: tuple(int(n) for n in v.shape) for i, v in enumerate(variables)}
    places = layout(variables, model.weights)
    delta = Delta(basis, coordinates, len(change), shapes, places, fingerprint(before))
    with files.replacing(path) as draft:
        Path(draft).write_bytes(encoded(delta))
    return delta


def apply_delta(model: Any, path: Union[str, Path]) -> None:
    """Makes of a base model the fine-tuned one: theta = theta_base + P c.

    Several deltas of one base can be applied in turn: the base's weights are kept beside a model that one has been
    applied to, and the next one begins from them. The same file gives the same bits on the same machine and stack.

    Args:
      model: with the weights of the base, or those of a delta applied to it before. The variables that were
        trained must be its trainable ones.
      path: of a file of :func:`save_delta`.

    Raises:
      DeltaError: the file is damaged, of an unknown format, or for another base or other variables; quotes both.
        Nothing has been changed.

    Example:
      >>> from rbd_ipu._compat import keras
      >>> model = keras.Sequential([keras.layers.InputLayer((4,)), keras.layers.Dense(3)])
      >>> apply_delta(model, __file__)
      Traceback (most recent call last):
      ...
      rbd_ipu.delta.DeltaError: ... is no delta of rbd_ipu: ...
    """
    delta = load_delta(path)
    variables = list(model.trainable_variables)
    if delta.layout not in (layout(variables, model.weights), layout(variables)):
        own = {describe(v, i).name: tuple(int(n) for n in v.shape) for i, v in enumerate(variables)}
        theirs = delta.shapes if delta.shapes is not None else f"others, with SHA-256 {delta.layout}"
        raise DeltaError(f"{path}: is for variables {theirs}, and the model trains {own}")
    now = [np.asarray(v.numpy()) for v in model.weights]
    base = now
    if fingerprint(now) != delta.base:
        kept = _BASES.get(model)
        if kept is None or kept[1] != fingerprint(now):
            raise DeltaError(
                f"{path}: is for a base with SHA-256 {delta.base}, and the model's weights have {fingerprint(now)}"
            )
        base = kept[0]
        if fingerprint(base) != delta.base:
            raise DeltaError(
                f"{path}: is for a base with SHA-256 {delta.base}, and the model's base has {fingerprint(base)}"
            )
    try:
        space = subspace_of(delta.basis, variables)
    except (TypeError, ValueError) as error:
        raise DeltaError(f"{path}: {error}") from None
    if (space.size, space.dim) != (delta.size, len(delta.coordinates)):  # machine code trusts these numbers
        raise DeltaError(
            f"{path}: has {len(delta.coordinates)} coordinates for {delta.size} weights; its basis has {space.dim} "
            f"directions in the {space.size} weights that the model trains"
        )
    u = _expanded(space, delta.basis.seed, delta.coordinates)
    places = {id(tensors([v])[0]): old for v, old in zip(model.weights, base)}
    cut = np.cumsum([0] + [int(np.prod(v.shape)) for v in variables])
    values = []
    for i, variable in enumerate(variables):
        old = places[id(tensors([variable])[0])]
        step = u[cut[i] : cut[i + 1]].reshape(old.shape)
        values.append((old.astype(np.float64) + step).astype(old.dtype))
    for variable, value in zip(variables, values):
        variable.assign(value)
    _BASES[model] = (base, fingerprint([np.asarray(v.numpy()) for v in model.weights]))


def load_delta(path: Union[str, Path]) -> Delta:
    """Reads and checks a file of :func:`save_delta`.

    Raises:
      DeltaError: it is damaged, cut off, no delta, or of a format that this version does not know.
      OSError: it cannot be read.
    """
    with files.naming(path):
        data = Path(path).read_bytes()
    if not data.startswith(MAGIC):
        raise DeltaError(f"{path}: is no delta of rbd_ipu: it begins with {data[:13]!r}")
    if len(data) < len(MAGIC) + 5 + 32 or hashlib.sha256(data[:-32]).digest() != data[-32:]:
        raise DeltaError(f"{path}: is damaged or cut off: its {len(data)} bytes do not have their SHA-256")
    version = data[len(MAGIC)]
    if version != FORMAT:
        raise DeltaError(f"{path}: is of format {version}, and this version of rbd_ipu knows format {FORMAT}")
    start = len(MAGIC) + 5
    (length,) = struct.unpack("<I", data[start - 4 : start])
    try:
        header = json.loads(zlib.decompress(data[start : start + length]).decode("utf-8"))
        basis = BasisSpec(**header["basis"])
        shapes = header.get("variables")
        coordinates = np.frombuffer(data[start + length : -32], "<f4").astype(np.float32)
        known = None if shapes is None else {name: tuple(shape) for name, shape in shapes.items()}
        delta = Delta(basis, coordinates, int(header["D"]), known, header["layout"], header["base"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, zlib.error) as error:
        raise DeltaError(f"{path}: its header cannot be read: {error}") from None
    if len(coordinates) != header.get("d"):
        raise DeltaError(f"{path}: has {len(coordinates)} coordinates, and its header says d = {header.get('d')}")
    if not np.isfinite(coordinates).all():
        raise DeltaError(f"{path}: has coordinates that are not finite")
    return delta


def encoded(delta: Delta) -> bytes:
    """The bytes of the file."""
    header = {
        "basis": delta.basis.as_dict(),
        "d": len(delta.coordinates),
        "D": delta.size,
        "layout": delta.layout,
        "base": delta.base,
    }
    with_paths = {**header, "variables": delta.shapes}
    packed = zlib.compress(json.dumps(with_paths, separators=(",", ":")).encode("utf-8"), 9)
    if len(packed) > MOST_HEADER:
        packed = zlib.compress(json.dumps(header, separators=(",", ":")).encode("utf-8"), 9)
    body = MAGIC + bytes([FORMAT]) + struct.pack("<I", len(packed)) + packed
    body += np.asarray(delta.coordinates, "<f4").tobytes()
    return body + hashlib.sha256(body).digest()


def fingerprint(weights: Sequence[np.ndarray]) -> str:
    """SHA-256 of weights: their types, shapes and bits, in order."""
    found = hashlib.sha256()
    for weight in weights:
        array = np.ascontiguousarray(weight)
        found.update(f"{array.dtype} {array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()


_BASES: "weakref.WeakKeyDictionary[Any, Tuple[List[np.ndarray], str]]" = weakref.WeakKeyDictionary()


def layout(variables: Sequence[Any], weights: Optional[Sequence[Any]] = None) -> str:
    """SHA-256 of the shapes of variables, in order, and of their places among the weights of a model.

    Two layers of one shape differ by their places alone. Files of before 2026-12 have the SHA-256 without places.
    """
    found: List[Any] = [tuple(int(n) for n in v.shape) for v in variables]
    if weights is not None:
        places = {id(v): i for i, v in enumerate(tensors(weights))}
        found = [places[id(v)] for v in tensors(variables)] + found
    return hashlib.sha256(repr(found).encode()).hexdigest()


def _rounding(steps: int, variables: Sequence[Any]) -> float:
    """What the rounding of the trained weights, at each step, may have added up to."""
    squares = (float(np.sum(np.square(v.numpy(), dtype=np.float64))) for v in variables)
    return min(ROUNDING * steps, MOST_ROUNDING) * math.sqrt(sum(squares))


def _path(variable: Any) -> str:
    return str(getattr(variable, "path", variable.name))


def _subspace_of(model: Any) -> Tuple[BasisSpec, List[Any]]:
    """The fixed basis that a model was trained in, and the variables of it.

    Raises:
      ValueError: there is none.
    """
    optimizer, variables = getattr(model, "optimizer", None), list(model.trainable_variables)
    if optimizer is None:
        raise ValueError(
            "the model is not compiled: a delta is of what an optimizer with a fixed subspace has trained"
        )
    if "LossScale" in type(optimizer).__name__:  # which Keras puts around it for mixed_float16
        optimizer = optimizer.inner_optimizer
    if isinstance(optimizer, FixedProjectionDescent):
        return optimizer.basis_spec, variables
    if isinstance(optimizer, SubspaceOptimizer):
        config = optimizer.get_config()
        whole = config["include"] is None and config["exclude"] is None
        if config["select"] == "all" and config["redraw_every"] == 0 and whole and config["distribution"] != "blocks":
            names = [name for name in BasisSpec.names() if name not in ("dim", "redraw_every")]
            if not getattr(optimizer, "built", True):
                create_variables(optimizer, variables)
            dim = optimizer.sketch_of(optimizer.described(variables)).dim
            return BasisSpec(dim=dim, **{name: config[name] for name in names}), variables
    raise ValueError(
        f"{type(optimizer).__name__} has no fixed subspace of all trainable variables; a delta is of a model "
        "compiled with FixedProjectionDescent, or with SubspaceOptimizer(select='all', redraw_every=0) and a "
        "distribution of d directions"
    )


def weights_of(base: Base, model: Any) -> List[np.ndarray]:
    """The weights of a model, or of a file of one or of its weights, in the order of the model's.

    Raises:
      ValueError: it has another number of weights; the file is of none of these, or of another model.
      OSError: it cannot be read.
    """
    if isinstance(base, (str, Path)):
        with files.naming(base):
            os.stat(base if os.path.exists(base) else f"{base}.index")  # weights in the format of TensorFlow
        try:
            base = keras.models.load_model(str(base), compile=False)
        except Exception:
            base = _with_weights(model, base)
    found = [np.asarray(v.numpy()) for v in base.weights]
    if len(found) != len(model.weights):
        raise ValueError(f"the base has {len(found)} weights, and the model {len(model.weights)}")
    return found


def _with_weights(model: Any, path: Union[str, Path]) -> Any:
    """Another model as this one, with the weights of a file.

    Raises:
      ValueError: it cannot be made; it says why, and what to give instead.
    """
    try:
        other = type(model).from_config(model.get_config())  # a clone would be compiled, and read an optimizer
        if not other.weights:
            other.build(model.input_shape)
        other.load_weights(str(path))
    except Exception as error:
        raise ValueError(
            f"{path}: the base cannot be read into another {type(model).__name__}: "
            f"{str(error) or type(error).__name__}; "
            "give a file of a whole model, or the base model itself"
        ) from None
    return other


def _expanded(space: Subspace, seed: int, coordinates: np.ndarray) -> np.ndarray:
    return np.asarray(space.expand(tf.constant(coordinates, tf.float32), seed), np.float64)


def _coordinates(space: Subspace, seed: int, change: np.ndarray) -> np.ndarray:
    """The least-squares solution of P c = change, by conjugate gradients on P^T P c = P^T change: float32 [d]."""

    def project(v: np.ndarray) -> np.ndarray:
        return np.asarray(space.project(tf.constant(v, tf.float32), seed), np.float64)

    c = np.zeros(space.dim)
    rest = change.copy()
    r = project(rest)
    p, rr = r.copy(), r @ r
    least = 1e-14 * max(change @ change, 1e-300)
    for _ in range(min(STEPS, 4 * space.dim)):
        if rr <= least:
            break
        u = _expanded(space, seed, p)
        step = rr / max(u @ u, 1e-300)
        c += step * p
        rest -= step * u
        r = project(rest)
        r, rr, before = r, r @ r, rr
        p = r + rr / before * p
    return c.astype(np.float32)


__all__ = ["Delta", "DeltaError", "apply_delta", "load_delta", "save_delta"]
