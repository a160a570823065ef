"""Seeds: two 32-bit words, derived by hashing the named parts of what they are for.

The contract, which tests hold on every device:

* A seed is an int32 pair. ``fold_in(seed, *data)`` hashes data into it, one part after the other:
  ``fold_in(s, a, b) == fold_in(fold_in(s, a), b)``.
* Parts are never added. ``seed + step + worker`` gives worker w at step t the directions of worker w + 1 at
  step t - 1 (as the first public implementation of the paper does); a hash gives them nothing in common.
* The hash is Threefry-2x32 with 20 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"),
  written in int32 additions, shifts and exclusive ors: an IPU has no unsigned integers.
* The same parts give the same words in eager mode, in a graph, under XLA, in NumPy, on every device.
"""

import functools
import hashlib
import itertools
import numbers
from typing import Any, Sequence, Tuple

import numpy as np

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA  # key-schedule constant of Threefry-2x32
_STRING = np.int32(-(2**31))  # marks the words of a string, so that no integer can collide with one


def _rotate_left(x: np.ndarray, bits: int) -> np.ndarray:
    # The right shift of a signed integer copies the sign: mask the copies away. NumPy 1 would widen a scalar that
    # meets a Python int, so every constant is an int32.
    left, right, mask = np.int32(bits), np.int32(32 - bits), np.int32((1 << bits) - 1)
    return (x << left) | ((x >> right) & mask)


def threefry(key: Tuple[Any, Any], counter: Tuple[Any, Any]) -> Tuple[Any, Any]:
    """Threefry-2x32-20 of two counter words under two key words, in NumPy: int32 arrays, broadcast."""
    k0, k1 = key
    x0, x1 = counter
    schedule = (k0, k1, k0 ^ k1 ^ np.int32(_PARITY))
    with np.errstate(over="ignore"):
        x0, x1 = x0 + k0, x1 + k1
        for group in range(5):
            for bits in _ROTATIONS[group % 2]:
                x0 = x0 + x1
                x1 = _rotate_left(x1, bits) ^ x0
            x0 = x0 + schedule[(group + 1) % 3]
            x1 = x1 + schedule[(group + 2) % 3] + np.int32(group + 1)
    return x0, x1


def _threefry_tensors(key: Tuple[Any, Any], counter: Tuple[Any, Any]) -> Tuple[Any, Any]:
    """The same for int32 tensors.

    In eager mode and in functions it is one call of one program, made once for all shapes: a hundred operations for
    each hash would take longer to make than the layers of a model. A ``tf.Graph`` of TensorFlow 1 has them itself.
    """
    from rbd_ipu._compat import inside_xla

    tf = _tf()
    if inside_xla() or not tf.compat.v1.executing_eagerly_outside_functions():
        return _threefry_operations(*key, *counter)
    shape = tf.broadcast_static_shape(key[0].shape, counter[0].shape)
    words = _threefry_program()(*key, *counter)
    for word in words:
        word.set_shape(shape)
    return tuple(words)


@functools.lru_cache(maxsize=1)
def _threefry_program() -> Any:
    from rbd_ipu._compat import program

    tf = _tf()
    with tf.init_scope():  # the first to ask may be tracing a program of its own
        return program(_threefry_operations).get_concrete_function(*[tf.TensorSpec(None, tf.int32)] * 4)


def _threefry_operations(k0: Any, k1: Any, x0: Any, x1: Any) -> Tuple[Any, Any]:
    """The operations of the hash.

    The five groups of rounds are a loop: unrolled, XLA copies the hash into every operation that reads its
    result, and compiling a step takes a minute.
    """
    tf = _tf()
    xor, shift_left = tf.bitwise.bitwise_xor, tf.bitwise.left_shift
    shift_right, both, either = tf.bitwise.right_shift, tf.bitwise.bitwise_and, tf.bitwise.bitwise_or
    shape = tf.broadcast_static_shape(k0.shape, x0.shape)
    if not shape.is_fully_defined():
        shape = tf.broadcast_dynamic_shape(tf.shape(k0), tf.shape(x0))
    k0, k1, x0, x1 = (tf.broadcast_to(x, shape) for x in (k0, k1, x0, x1))
    schedule = tf.stack([k0, k1, xor(xor(k0, k1), tf.constant(_PARITY, tf.int32))])
    rotations = tf.constant(_ROTATIONS, tf.int32)

    def rounds(group: Any, x0: Any, x1: Any) -> Tuple[Any, Any, Any]:
        left = tf.gather(rotations, group % 2)
        right, mask = 32 - left, shift_left(tf.ones_like(left), left) - 1
        for i in range(4):
            x0 = x0 + x1
            x1 = either(shift_left(x1, left[i]), both(shift_right(x1, right[i]), mask[i]))
            x1 = xor(x1, x0)
        x0 = x0 + tf.gather(schedule, (group + 1) % 3)
        x1 = x1 + tf.gather(schedule, (group + 2) % 3) + (group + 1)
        return group + 1, x0, x1

    _, x0, x1 = tf.while_loop(
        lambda group, *_: group < 5, rounds, (tf.constant(0), x0 + k0, x1 + k1), parallel_iterations=1
    )
    return x0, x1


def _tf() -> Any:
    from rbd_ipu._compat import tf  # late: the host twin below needs no TensorFlow

    return tf


def _wrap(value: int) -> np.int32:
    value &= 0xFFFFFFFF
    return np.int32(value - (1 << 32) if value >> 31 else value)


def _string_words(text: str) -> Tuple[np.int32, np.int32]:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    high, low = np.frombuffer(digest[:8], "<i4").astype(np.int32)
    return high | _STRING, low


def _is_integer(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, (bool, np.bool_))


def _host_words(part: Any) -> Any:
    """The two counter words of a part known on the host, or None if it is a tensor."""
    if isinstance(part, str):
        return _string_words(part)
    if _is_integer(part):
        if not -(2**31) <= part < 2**32:
            raise ValueError(f"a part folded into a seed must fit in 32 bits, got {part}")
        return np.int32(0), _wrap(int(part))
    if isinstance(part, np.ndarray) and part.dtype.kind in "iu":
        return np.int32(0), part.astype(np.int64).astype(np.uint32).view(np.int32)
    if isinstance(part, (bool, np.bool_, float, bytes, np.ndarray)) or part is None:
        raise TypeError(f"a part folded into a seed must be an int, a string or an integer tensor, got {part!r}")
    return None


def _host_seed(seed: Any) -> Any:
    """The two words of a seed known on the host, or None if it is a tensor."""
    if _is_integer(seed):
        if not -(2**63) <= seed < 2**64:
            raise ValueError(f"a seed must fit in 64 bits, got {seed}")
        return _wrap(int(seed) >> 32), _wrap(int(seed))
    if isinstance(seed, (list, tuple)):
        seed = np.asarray(seed)
    if isinstance(seed, np.ndarray):
        if seed.dtype.kind not in "iu" or seed.shape[-1:] != (2,):
            raise TypeError(f"a seed must be an int or int32 [2], got {seed.dtype} {list(seed.shape)}")
        words = _host_words(seed)[1]
        return words[..., 0], words[..., 1]
    if isinstance(seed, (bool, np.bool_, float, str, bytes)) or seed is None:
        raise TypeError(f"a seed must be an int or int32 [2], got {seed!r}")
    return None


def fold_in_numpy(seed: Any, *data: Any) -> np.ndarray:
    """:func:`fold_in` on the host, without TensorFlow: int32 [..., 2].

    Integer arrays among ``data`` broadcast against each other, which derives many seeds at once.

    Example:
      >>> fold_in_numpy(0, "step", np.arange(3)).shape
      (3, 2)
    """
    words = _host_seed(seed)
    if words is None:
        raise TypeError(f"a seed must be an int or int32 [2], got {seed!r}")
    for part in data:
        counter = _host_words(part)
        if counter is None:
            raise TypeError(f"a part must be an int, a string or an integer array, got {part!r}")
        words = threefry(words, counter)
    return np.stack(np.broadcast_arrays(*words), axis=-1).astype(np.int32)


def fold_in(seed: Any, *data: Any) -> Any:
    """Derives a seed by hashing ``data``, part by part, into ``seed``.

    Args:
      seed: an int of at most 64 bits, or an int32 tensor [..., 2].
      *data: ints of at most 32 bits, strings, or int32/int64 tensors; of an int64 tensor the low 32 bits count,
        which is what an IPU keeps of it. Tensors broadcast: folding in [n] gives [n, 2].

    Returns:
      An int32 tensor [..., 2]; [2] where every part is a scalar.

    Raises:
      TypeError: a part or the seed is of another type (a float, a bool, bytes, None).
      ValueError: an integer does not fit.

    Example:
      >>> import rbd_ipu
      >>> step_seed = rbd_ipu.fold_in(0, "step", 17, "worker", 3)
      >>> step_seed.shape.as_list()
      [2]
    """
    tf = _tf()
    words = _host_seed(seed)
    on_host = words is not None
    if not on_host:
        tensor = _integer_tensor(seed, "a seed must be an int or int32 [2]")
        if tensor.shape.rank is None or tensor.shape.rank < 1 or tensor.shape[-1] != 2:
            raise TypeError(f"a seed must be an int or int32 [2], got shape {tensor.shape}")
        words = tensor[..., 0], tensor[..., 1]
    counters = []  # of the parts from the first tensor on
    for part in data:
        counter = _host_words(part)
        if counter is None:
            tensor = _integer_tensor(part, "a part must be an int, a string or an integer tensor")
            counter = tf.zeros_like(tensor), tensor
            on_host = False
        if on_host:
            words = threefry(words, counter)
        else:
            counters.append(_as_tensors(counter))
    return tf.stack(_fold_tensors(_as_tensors(words), counters), axis=-1)


def _fold_tensors(words: Tuple[Any, Any], counters: Sequence[Tuple[Any, Any]]) -> Tuple[Any, Any]:
    """Hashes one pair of counter words after the other into a pair of words."""
    from rbd_ipu._compat import inside_xla

    tf = _tf()
    scalars = [words[0].shape.rank == 0, *(low.shape.rank == 0 for _, low in counters)]
    leading = len(list(itertools.takewhile(bool, scalars))) - 1  # of the counters, before the first tensor of rank 1
    if leading > 1 and inside_xla():
        # One loop: as many times the operations of a hash make a program that is long to compile.
        pairs = tf.stack([tf.stack(pair) for pair in counters[:leading]])

        def fold(i: Any, high: Any, low: Any) -> Tuple[Any, Any, Any]:
            pair = tf.gather(pairs, i)
            return (i + 1, *_threefry_operations(high, low, pair[0], pair[1]))

        words = tf.while_loop(lambda i, *_: i < leading, fold, (tf.constant(0), *words), parallel_iterations=1)[1:]
        counters = counters[leading:]
    for counter in counters:
        words = _threefry_tensors(words, counter)
    return words


def _as_tensors(pair: Tuple[Any, Any]) -> Tuple[Any, Any]:
    tf = _tf()
    return tf.convert_to_tensor(pair[0], tf.int32), tf.convert_to_tensor(pair[1], tf.int32)


def _integer_tensor(value: Any, wanted: str) -> Any:
    tf = _tf()
    tensor = tf.convert_to_tensor(value)
    if tensor.dtype not in (tf.int32, tf.int64):
        raise TypeError(f"{wanted}, got {tensor.dtype.name}")
    return tf.cast(tensor, tf.int32)


def permutation_numpy(size: int, seed: Any) -> np.ndarray:
    """A random order of ``0 .. size - 1``, int32 [size]: the indices, sorted by their hash.

    The hash of index i is the first word of ``fold_in(seed, i)``. Where two are equal, which 32
    bits do not rule out, the smaller index comes first.

    Example:
      >>> sorted(permutation_numpy(4, seed=0).tolist())
      [0, 1, 2, 3]
    """
    keys = fold_in_numpy(seed, np.arange(size, dtype=np.int32))[:, 0]
    return np.argsort(keys, kind="stable").astype(np.int32)


def permutation(size: int, seed: Any) -> Any:
    """:func:`permutation_numpy` in TensorFlow: the same numbers; the seed may be a tensor."""
    tf = _tf()
    return tf.argsort(fold_in(seed, tf.range(size))[:, 0], stable=True)
