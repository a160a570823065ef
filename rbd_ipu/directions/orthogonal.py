"""``orthogonalize=True``: the d directions of a dense basis made orthonormal, which the paper leaves for later.

With X [d, n] the raw directions, a Gram matrix G = X X^T and its Cholesky factor G = L L^T, the rows of L^-1 X are
orthonormal (the same that Gram and Schmidt would find, in the order of the directions), and

    c = L^-1 X v                 u = X^T L^-T c

so that X need not be stored: it is drawn in tiles of columns, once to sum up G and X v, once for u. That is
2 d^2 n operations for G, twice the drawing, d^2 + d * tile numbers of memory.

Rounding errors grow with the condition number of G, ((sqrt(n) + sqrt(d)) / (sqrt(n) - sqrt(d)))^2: at d <= n / 4
at most 9. Where d is larger, or n tiny (so that +-1 directions may coincide), X is small and is held and reflected
instead (Householder), which has no such limit.
"""

from typing import Any, Tuple

from rbd_ipu._compat import program, tf
from rbd_ipu.directions.source import Source
from rbd_ipu.directions.stream import DISTRIBUTIONS, Distribution, schedule
from rbd_ipu.seeds import fold_in

# At d = 1,024 and n = 122,570 the Gram matrix takes 2.6e11 operations: seconds. More would be no step of a descent.
MOST_DIRECTIONS = 1024
TILE_FLOATS = 1 << 21
SMALLEST_TILED = 64


def check(distribution: str, normalize: str) -> None:
    """Refuses directions that cannot be made orthonormal, or already are.

    Raises:
      ValueError: the message says why.
    """
    if distribution.partition(":")[0] not in ("normal", "uniform", "rademacher"):
        why = {
            "hadamard": "its directions are orthogonal by construction",
            "sparse": "orthogonal directions would not be sparse",
            "blocks": "its directions are orthonormal by construction",
            "groups": "its directions are orthogonal by construction",
            "bernoulli-0.5": "its directions share their mean, which is what it is there to reproduce",
        }.get(distribution.partition(":")[0], "it is not known here")
        raise ValueError(
            f"orthogonalize takes distribution 'normal', 'uniform' or 'rademacher', not {distribution!r}: {why}"
        )
    if normalize != "unit":
        raise ValueError(f"orthogonalize makes directions of norm 1: normalize must be 'unit', got {normalize!r}")


def make(groups: int, size: int, dim: int, distribution: str, normalize: str) -> Source:
    """The source for G bases; orthonormal whatever source draws the numbers.

    Raises:
      ValueError: the directions cannot be orthonormal, already are, or would take too long; the message says why.
    """
    check(distribution, normalize)
    if dim > size:
        raise ValueError(
            f"no more than {size} directions can be orthogonal in a space of {size} parameters, got dim {dim}"
        )
    if dim > MOST_DIRECTIONS:
        raise ValueError(
            f"orthogonalize takes at most {MOST_DIRECTIONS} directions (its time grows with their square), got dim "
            f"{dim}; distribution 'hadamard' has orthogonal directions at no cost"
        )
    held = 4 * dim > size or size < SMALLEST_TILED
    return (Held if held else Tiled)(groups, size, dim, DISTRIBUTIONS.get(distribution))


class Orthogonal(Source):
    """What both ways share: the raw directions."""

    def __init__(self, groups: int, size: int, dim: int, distribution: Distribution):
        self.groups, self.size, self.dim = groups, size, dim
        self._draw = distribution.draw

    def _keys(self, seeds: Any) -> Any:
        return schedule(fold_in(seeds[:, tf.newaxis, :], tf.range(self.dim)))  # [G, d, 2]


class Held(Orthogonal):
    """Holds X and makes it orthonormal by reflections; signs are those of Gram and Schmidt."""

    def _orthonormal(self, seeds: Any) -> Any:
        """[G, d, n]."""
        Q, R = tf.linalg.qr(tf.linalg.matrix_transpose(self._draw(self._keys(seeds), self.size)))
        signs = tf.where(tf.linalg.diag_part(R) < 0.0, -1.0, 1.0)
        return tf.linalg.matrix_transpose(Q * signs[:, tf.newaxis, :])

    def directions(self, seeds: Any, start: int, count: int) -> Any:
        return self._orthonormal(seeds)[:, start : start + count]

    def project(self, vectors: Any, seeds: Any) -> Any:
        return tf.linalg.matvec(self._orthonormal(seeds), vectors)

    def expand(self, coordinates: Any, seeds: Any) -> Any:
        return tf.linalg.matvec(self._orthonormal(seeds), coordinates, transpose_a=True)

    def sketch(self, vectors: Any, seeds: Any) -> Tuple[Any, Any]:
        basis = self._orthonormal(seeds)
        coordinates = tf.linalg.matvec(basis, vectors)
        return coordinates, tf.linalg.matvec(basis, coordinates, transpose_a=True)


class Tiled(Orthogonal):
    """Draws X in tiles of columns, [G, d, tile].

    The passes over the tiles are compiled; the factorisation is not, as XLA:CPU has no library for it.
    """

    def __init__(self, groups: int, size: int, dim: int, distribution: Distribution):
        super().__init__(groups, size, dim, distribution)
        self.tile = min(size, max(256, TILE_FLOATS // (groups * dim)))
        self._tiles = -(-size // self.tile)
        self._gram = program(self._gram_and_dots, jit=True)
        self._combine = program(self._combine_tiles, jit=True)

    def directions(self, seeds: Any, start: int, count: int) -> Any:
        L = self._factor(tf.zeros([self.groups, self.size]), seeds)[0]
        X = self._draw(self._keys(seeds), self.size)
        return tf.linalg.triangular_solve(L, X)[:, start : start + count]

    def project(self, vectors: Any, seeds: Any) -> Any:
        return self._factor(vectors, seeds)[1]

    def expand(self, coordinates: Any, seeds: Any) -> Any:
        L = self._factor(tf.zeros([self.groups, self.size]), seeds)[0]
        return self._back(L, coordinates, seeds)

    def sketch(self, vectors: Any, seeds: Any) -> Tuple[Any, Any]:
        L, coordinates = self._factor(vectors, seeds)
        return coordinates, self._back(L, coordinates, seeds)

    def _factor(self, vectors: Any, seeds: Any) -> Tuple[Any, Any]:
        """L [G, d, d] and c = L^-1 X v [G, d]."""
        gram, dots = self._gram(vectors, seeds)
        L = tf.linalg.cholesky(gram)
        return L, tf.linalg.triangular_solve(L, dots[..., tf.newaxis])[..., 0]

    def _back(self, L: Any, coordinates: Any, seeds: Any) -> Any:
        """X^T L^-T c."""
        solved = tf.linalg.triangular_solve(L, coordinates[..., tf.newaxis], adjoint=True)
        return self._combine(solved[..., 0], seeds)

    def _padded(self, vectors: Any) -> Any:
        return tf.pad(vectors, [[0, 0], [0, self._tiles * self.tile - self.size]])

    def _tile_at(self, keys: Any, start: Any) -> Any:
        """Columns start ... start + tile - 1 of X; zeros beyond the last."""
        inside = start + tf.range(self.tile) < self.size
        return tf.where(inside, self._draw(keys, self.tile, start), 0.0)

    def _gram_and_dots(self, vectors: Any, seeds: Any) -> Tuple[Any, Any]:
        """X X^T [G, d, d] and X v [G, d]."""
        keys, padded = self._keys(seeds), self._padded(vectors)

        def body(t: Any, gram: Any, dots: Any) -> Tuple[Any, Any, Any]:
            X = self._tile_at(keys, t * self.tile)
            v = tf.slice(padded, [0, t * self.tile], [self.groups, self.tile])
            return t + 1, gram + tf.matmul(X, X, transpose_b=True), dots + tf.linalg.matvec(X, v)

        zeros = tf.zeros([self.groups, self.dim, self.dim])
        return self._over_tiles(body, zeros, tf.zeros([self.groups, self.dim]))

    def _combine_tiles(self, coefficients: Any, seeds: Any) -> Any:
        """X^T a: [G, d] -> [G, n]."""
        keys = self._keys(seeds)
        pieces = tf.TensorArray(tf.float32, self._tiles, element_shape=[self.groups, self.tile])

        def body(t: Any, pieces: Any) -> Tuple[Any, Any]:
            X = self._tile_at(keys, t * self.tile)
            return t + 1, pieces.write(t, tf.linalg.matvec(X, coefficients, transpose_a=True))

        (pieces,) = self._over_tiles(body, pieces)
        joined = tf.transpose(pieces.stack(), [1, 0, 2])
        return tf.reshape(joined, [self.groups, self._tiles * self.tile])[:, : self.size]

    def _over_tiles(self, body: Any, *carry: Any) -> Any:
        """A loop with a constant trip count and a bare condition: on an IPU, a Poplar Repeat."""
        return tf.while_loop(lambda t, *_: t < self._tiles, body, (tf.constant(0), *carry), parallel_iterations=1)[1:]
