"""How coordinates become bits: values, scales, and which of a block were chosen. Pure functions, any device.

A message is about blocks of n coordinates each, of which k are sent. A block has

    a scale     8 bits: 0, a power of 2^(1/4) (for signs to 12 bits), or NaN; only where the values need one
    values      k codes of 32, 16, 8 or 1 bits
    indices     which k of the n, in rising order; nothing where k = n

and is filled up to whole bytes. Blocks of one shape are coded together; all of a step is one vector of int32 words
whose length is known before the step, so that one all-gather sends it.

Indices are coded in the shortest of three ways of fixed length. "Elias-Fano" (1974) takes about 2 + log2(n / k) bits
each, where log2 C(n, k) / k is the least: the lower l bits as they are, the upper bits as a bitmap of k + (n >> l).
"""

import math
from typing import Any, Callable, List, NamedTuple, Sequence, Tuple

import numpy as np

from rbd_ipu._compat import tf
from rbd_ipu.checks import Registry

#: What a scale's 8 bits stand for: 0, 2^-47.75 ... 2^15.5 in steps of 2^(1/4), NaN.
SCALES = np.concatenate([[0.0], 2.0 ** ((np.arange(1, 255) - 192) / 4), [np.nan]]).astype(np.float32)
# Between two scales, in logarithms: what is above rounds up.
_MIDDLES = (2.0 ** ((np.arange(1, 255) - 192.5) / 4)).astype(np.float32)
NOT_FINITE = 255


def _short(x: np.ndarray, bits: int) -> np.ndarray:
    """To so many bits of mantissa."""
    mantissa, exponent = np.frexp(x.astype(np.float64))
    return np.ldexp(np.round(mantissa * 2.0**bits) / 2.0**bits, exponent).astype(np.float32)


# Times an int8, 16 bits are exact in float32, whether or not a compiler fuses what follows.
_INT8_STEPS = _short(SCALES.astype(np.float64) / 127.0, 16)
# Sums of 4096 terms of one size are exact: what cancels is 0, and has no sign.
_SIGN_SIZES = _short(SCALES, 12)

VALUES = Registry("wire")
BLOCK = 4096  # coordinates that share a scale, where all are sent


class Values(NamedTuple):
    """A row: how the k values of a block are sent.

    Attributes:
      bits: of a value.
      scaled: whether a block has a scale.
      encode: values float32 [B, k] -> (codes int32 [B, k], scale codes int32 [B]).
      decode: (codes, scale codes) -> float32 [B, k].
      about: one line for the documentation.
    """

    bits: int
    scaled: bool
    encode: Callable[[Any], Tuple[Any, Any]]
    decode: Callable[[Any, Any], Any]
    about: str


def nearest_scale(x: Any) -> Any:
    """The code of the nearest scale, in logarithms: float32 [B] >= 0 -> int32 [B]."""
    return _counted(x, x[:, tf.newaxis] >= _MIDDLES)


def scale_above(x: Any) -> Any:
    """The code of the least scale that is not below x; the largest where none is."""
    return _counted(x, x[:, tf.newaxis] > SCALES[:255])


def _counted(x: Any, below: Any) -> Any:
    code = tf.minimum(tf.reduce_sum(tf.cast(below, tf.int32), axis=1), NOT_FINITE - 1)
    return tf.where(tf.math.is_finite(x), code, NOT_FINITE)


def scale_of(code: Any) -> Any:
    """The scale with this code: int32 [B] -> float32 [B]."""
    return tf.gather(tf.constant(SCALES), code)


def ordered_sum(x: Any) -> Any:
    """The sum over the last axis, halves added to halves: [B, k] -> [B], the same bits on every device."""
    k = x.shape[-1]
    width = 1 << (k - 1).bit_length()
    x = tf.pad(x, [[0, 0], [0, width - k]])
    while width > 1:
        width //= 2
        x = x[:, :width] + x[:, width:]
    return x[:, 0]


def _sign(unbiased: bool) -> Tuple[Callable, Callable]:
    def encode(values: Any) -> Tuple[Any, Any]:
        size = tf.abs(values)
        total = ordered_sum(size)
        if unbiased:
            safe = tf.where(tf.equal(total, 0.0), tf.ones_like(total), total)
            scale = ordered_sum(size * size) / safe
        else:
            scale = total / float(values.shape[-1])
        return tf.cast(values < 0, tf.int32), nearest_scale(scale)

    def decode(codes: Any, scale: Any) -> Any:
        return (1.0 - 2.0 * tf.cast(codes, tf.float32)) * tf.gather(tf.constant(_SIGN_SIZES), scale)[:, tf.newaxis]

    return encode, decode


def _encode_int8(values: Any) -> Tuple[Any, Any]:
    finite = tf.math.is_finite(tf.reduce_sum(values, axis=1))  # a maximum may pass over a NaN
    largest = tf.where(finite, tf.reduce_max(tf.abs(values), axis=1), math.nan)
    code = scale_above(largest)
    scale = tf.where((code == 0) | (code == NOT_FINITE), 1.0, scale_of(code))
    scaled = tf.clip_by_value(values / scale[:, tf.newaxis], -1.0, 1.0)
    scaled = tf.where(tf.math.is_finite(scaled), scaled, 0.0)
    return tf.bitwise.bitwise_and(tf.cast(tf.round(scaled * 127.0), tf.int32), 255), code


def _decode_int8(codes: Any, scale: Any) -> Any:
    signed = tf.where(codes > 127, codes - 256, codes)
    return tf.cast(signed, tf.float32) * tf.gather(tf.constant(_INT8_STEPS), scale)[:, tf.newaxis]


def _encode_bfloat16(values: Any) -> Tuple[Any, Any]:
    bits = tf.bitcast(values, tf.int32)
    even = tf.bitwise.bitwise_and(tf.bitwise.right_shift(bits, 16), 1)
    rounded = tf.bitwise.right_shift(bits + 0x7FFF + even, 16)  # to nearest, ties to even
    kept = tf.where(tf.math.is_finite(values), rounded, 0x7FC0)
    return tf.bitwise.bitwise_and(kept, 0xFFFF), _no_scale(values)


def _decode_bfloat16(codes: Any, scale: Any) -> Any:
    return tf.bitcast(tf.bitwise.left_shift(codes, 16), tf.float32)


def _no_scale(values: Any) -> Any:
    return tf.zeros([values.shape[0]], tf.int32)


VALUES.register("float32")(
    Values(
        32,
        False,
        lambda values: (tf.bitcast(values, tf.int32), _no_scale(values)),
        lambda codes, scale: tf.bitcast(codes, tf.float32),
        "as they are",
    )
)
VALUES.register("bfloat16")(Values(16, False, _encode_bfloat16, _decode_bfloat16, "8 bits of mantissa"))
VALUES.register("int8")(
    Values(8, True, _encode_int8, _decode_int8, "-127 to 127, in units of the largest of the block / 127")
)
VALUES.register("sign")(
    Values(1, True, *_sign(False), "the sign, times the mean of |c| over the block: least squares")
)
VALUES.register("sign-unbiased")(
    Values(1, True, *_sign(True), "the sign, times |c|^2 / |c|_1 over the block, as in DRIVE (2021)")
)


class Indices(NamedTuple):
    """How k of n indices are coded.

    Attributes:
      bits: of all of them.
      low: how many lower bits of each are sent as they are.
      bitmap: length of the bitmap of the upper ones; 0 where there is none.
    """

    bits: int
    low: int
    bitmap: int


def index_code(n: int, k: int) -> Indices:
    """The shortest code of k of n indices.

    Example:
      >>> index_code(4096, 32).bits, index_code(4096, 1).bits, index_code(10, 5).bits, index_code(10, 10).bits
      (287, 12, 10, 0)
    """
    if k == n:
        return Indices(0, 0, 0)
    plain = (n - 1).bit_length()
    found = [Indices(k * plain, plain, 0), Indices(n, 0, n)]
    for low in range(1, plain):
        bitmap = ((n - 1) >> low) + k
        found.append(Indices(k * low + bitmap, low, bitmap))
    return min(found, key=lambda code: code.bits)


class Shape(NamedTuple):
    """B blocks of n coordinates, k of them sent."""

    blocks: int
    n: int
    k: int


def all_of(m: int) -> List[Shape]:
    """All of m coordinates, in blocks of 4096.

    Example:
      >>> all_of(5000)
      [Shape(blocks=1, n=4096, k=4096), Shape(blocks=1, n=904, k=904)]
    """
    whole, rest = divmod(m, BLOCK)
    return [Shape(whole, BLOCK, BLOCK)] * (whole > 0) + [Shape(1, rest, rest)] * (rest > 0)


def cut(vector: Any, shapes: Sequence[Shape]) -> List["Chosen"]:
    """A vector of all coordinates in blocks of these shapes."""
    parts = tf.split(vector, [shape.blocks * shape.n for shape in shapes])
    return [(None, tf.reshape(part, [shape.blocks, shape.n])) for part, shape in zip(parts, shapes)]


def joined(blocks: Sequence[Any]) -> Any:
    """The blocks of all coordinates as one vector: the inverse of :func:`cut`, of [B, n] alone."""
    return tf.concat([tf.reshape(block, [-1]) for block in blocks], axis=0)


def block_bytes(wire: str, n: int, k: int) -> int:
    """Bytes of one block.

    Example:
      >>> block_bytes("sign", 4096, 32), block_bytes("float32", 4096, 32)
      (41, 164)
    """
    row = VALUES.get(wire)
    return -(-(8 * row.scaled + k * row.bits + index_code(n, k).bits) // 8)


def message_bytes(wire: str, shapes: Sequence[Shape]) -> int:
    """Bytes of a whole message, without what fills it up to words of 4 bytes."""
    return sum(shape.blocks * block_bytes(wire, shape.n, shape.k) for shape in shapes)


Chosen = Tuple[Any, Any]  # of one shape: indices int32 [B, k] (None where k = n), values float32 [B, k]
Coded = Tuple[Any, Any, Any]  # of one shape: indices, codes int32 [B, k], scale codes int32 [B]


def encode(wire: str, chosen: Sequence[Chosen]) -> List[Coded]:
    """Values to codes, shape by shape."""
    row = VALUES.get(wire)
    return [(index, *row.encode(values)) for index, values in chosen]


def decode(wire: str, coded: Sequence[Coded]) -> List[Chosen]:
    """Codes to the values that all receivers have."""
    row = VALUES.get(wire)
    return [(index, row.decode(codes, scale)) for index, codes, scale in coded]


def pack(wire: str, shapes: Sequence[Shape], coded: Sequence[Coded]) -> Any:
    """The message: int32 [words]."""
    row, bits = VALUES.get(wire), []
    for shape, (index, codes, scale) in zip(shapes, coded):
        code = index_code(shape.n, shape.k)
        parts = [_bits(scale, 8)] if row.scaled else []
        parts.append(_flat(_bits(codes, row.bits)))
        if code.low:
            parts.append(_flat(_bits(index, code.low)))
        if code.bitmap:
            rank = tf.range(shape.k) if code.low else 0
            parts.append(_bitmap(tf.bitwise.right_shift(index, code.low) + rank, code.bitmap))
        block = tf.concat(parts, axis=1)
        bits.append(tf.reshape(tf.pad(block, [[0, 0], [0, -block.shape[1] % 8]]), [-1]))
    whole = tf.concat(bits, axis=0)
    words = tf.reshape(tf.pad(whole, [[0, -whole.shape[0] % 32]]), [-1, 32])
    return tf.reduce_sum(tf.bitwise.left_shift(words, tf.range(32)), axis=1)  # bits do not meet: a sum is an or


def unpack(wire: str, shapes: Sequence[Shape], message: Any) -> List[Coded]:
    """The codes in a message: the inverse of :func:`pack`."""
    row, coded, start = VALUES.get(wire), [], 0
    whole = tf.reshape(_bits(message, 32), [-1])
    for shape in shapes:
        code, length = index_code(shape.n, shape.k), 8 * block_bytes(wire, shape.n, shape.k)
        block = tf.reshape(whole[start : start + shape.blocks * length], [shape.blocks, length])
        start += shape.blocks * length
        at = 8 if row.scaled else 0
        scale = _number(block[:, :at]) if at else tf.zeros([shape.blocks], tf.int32)
        codes = _number(tf.reshape(block[:, at : at + shape.k * row.bits], [shape.blocks, shape.k, row.bits]))
        at += shape.k * row.bits
        index: Any = None
        if code.low:
            index = _number(tf.reshape(block[:, at : at + shape.k * code.low], [shape.blocks, shape.k, code.low]))
            at += shape.k * code.low
        if code.bitmap:
            set_bits = _set_bits(block[:, at : at + code.bitmap], shape.k)
            upper = set_bits - tf.range(shape.k) if code.low else set_bits
            index = tf.bitwise.left_shift(upper, code.low) + (0 if index is None else index)
        coded.append((index, codes, scale))
    return coded


def _bits(x: Any, width: int) -> Any:
    """The lowest bits of integers, lowest first: [...] -> int32 [..., width] of 0 and 1."""
    return tf.bitwise.bitwise_and(tf.bitwise.right_shift(x[..., tf.newaxis], tf.range(width)), 1)


def _number(bits: Any) -> Any:
    """Integers of their bits: int32 [..., width] -> [...]."""
    return tf.reduce_sum(tf.bitwise.left_shift(bits, tf.range(bits.shape[-1])), axis=-1)


def _flat(x: Any) -> Any:
    return tf.reshape(x, [x.shape[0], -1])


def _bitmap(places: Any, length: int) -> Any:
    """1 at every place: int32 [B, k] -> int32 [B, length]."""
    count = places.shape[0]
    flat = tf.reshape(places + length * tf.range(count)[:, tf.newaxis], [-1])
    return tf.reshape(tf.math.unsorted_segment_sum(tf.ones_like(flat), flat, count * length), [count, length])


def _set_bits(bits: Any, k: int) -> Any:
    """The places of the k ones, rising: int32 [B, length] -> [B, k]."""
    length = bits.shape[1]
    score = tf.cast(bits * (length - tf.range(length)), tf.float32)
    return length - tf.cast(tf.math.top_k(score, k).values, tf.int32)
