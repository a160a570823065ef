"""From direction to direction, for methods that try each of them: drawn in blocks, handed out one by one."""

from typing import Any, Callable, Sequence, Tuple

from rbd_ipu._stack import tf
from rbd_ipu.directions.repeat import repeat
from rbd_ipu.directions.sources import Source

# Floats of one block: small beside the activations of most networks, and large enough to be drawn at full speed.
BLOCK_FLOATS = 1 << 19


class Walk:
    """Goes through the directions of G equal compartments, at most a block of each in memory.

    Args:
      whole: D, the dimension of the full space.
      starts: where each of the G compartments begins in it.
      size, dim: n and d of one compartment.
      source: of their directions.
      jit: whether the drawing is to be compiled by XLA.
    """

    def __init__(self, whole: int, starts: Sequence[int], size: int, dim: int, source: Source, jit: bool):
        self.whole, self.size, self.dim = whole, size, dim
        self._starts = list(starts)
        self._draw = tf.function(source.directions, jit_compile=True) if jit else source.directions
        # A source whose stream is cut into blocks draws two of them for what is not one of them.
        self._rows = source.block_rows
        if self._rows:
            self._draw = source.block_at

    def __call__(self, function: Callable[[Any, int, Any], Any], width: int, seeds: Any, before: int) -> Any:
        """``function(phi [D], n, place) -> [width]`` of all directions: seeds int32 [G, 2] -> float32 [G, d, width].

        Block by block; within a block one compartment after the other. ``place`` counts the directions, from
        ``before`` on. Loops have constant lengths.
        """
        groups = len(self._starts)
        rows = self._rows or max(1, min(self.dim, BLOCK_FLOATS // (groups * self.size)))
        full, rest = divmod(self.dim, rows)

        def block(start: Any, count: int) -> Any:
            block = self._draw(seeds, start, self._rows or count)[:, :count]
            drawn = tf.reshape(block, [groups * count, self.size])

            def one(q: Any) -> Tuple[Any]:
                phi = self._embed(tf.gather(drawn, q), q // count)
                return (tf.reshape(function(phi, self.size, before + start * groups + q), [width]),)

            return tf.reshape(repeat(groups * count, one, [[width]])[0], [groups, count, width])

        blocks = []
        if full:
            stacked = repeat(full, lambda b: (block(b * rows, rows),), [[groups, rows, width]])[0]
            blocks.append(tf.reshape(tf.transpose(stacked, [1, 0, 2, 3]), [groups, full * rows, width]))
        if rest:
            blocks.append(block(tf.constant(full * rows), rest))
        return tf.concat(blocks, axis=1)

    def _embed(self, piece: Any, member: Any) -> Any:
        """A direction of a compartment in the full space, zero outside: [n] -> [D]."""
        if self.size == self.whole:
            return piece
        padded = tf.pad(piece, [[0, self.whole - self.size]])
        return tf.roll(padded, tf.gather(tf.constant(self._starts), member), axis=0)
