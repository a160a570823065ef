"""``hadamard``: rows of a randomised Hadamard matrix, orthogonal directions at a cost that does not depend on d.

With N >= n the least order admitted (``orders.py``), H the symmetric Hadamard matrix of order N, s random signs in
{-1, +1}^N and R a set of d distinct rows, both from the seed, the raw directions are

    x_i = row R_i of H diag(s), its first n columns            entries +-1

    project   c = scale (H diag(s) pad(v))_R
    expand    u = scale diag(s) H (c placed at R), cropped

for O(N log N) time and O(N) memory, whatever d is (Ailon and Chazelle 2009, "The fast Johnson-Lindenstrauss
transform", without its sparse matrix; Yu et al. 2016, "Orthogonal random features").

K workers share s and the order of the rows: worker k has the rows of the ranks k d, k d + 1, ... modulo N. So their
directions are orthogonal to each other as long as K d <= N, all rows are used equally often where K d is larger, and
sum_k P_k c_k takes one transform, whatever K is.

What padding does. In R^N the directions are exactly orthogonal. Cropped to n columns

* their norms are exactly sqrt(n), as all entries are +-1: "unit" and "expected" both divide by sqrt(n), "none"
  leaves +-1, of second moment 1;
* two of them have cosines of root mean square sqrt((1 - n / N) / n), less than the sqrt(1 / n) of independent
  directions, and exactly 0 if n = N;
* E[P P^T] = (d / n) I for unit norms, as for every distribution;
* the gradient correlation of a step is sqrt(d / (n + d (1 - n / N))): sqrt(d / n) where little is padded;
* d may be anything up to N. At d = N, P P^T = (N / n) I: the gradient comes back exactly, but for that factor. At
  d = n the same holds if n = N, that is, n is a product of admitted orders (any power of two); else P P^T is only
  close to the identity, as the N - n rows that are left out are missing.
"""

from typing import Any

from rbd_ipu.directions.hadamard.orders import split
from rbd_ipu.directions.hadamard.source import Hadamard
from rbd_ipu.directions.sources import Source
from rbd_ipu.directions.structured import STRUCTURED, Structure


def make(source: str, groups: int, size: int, dim: int, normalize: str, rows: int, parameter: Any) -> Source:
    """The source for G bases; ``rows`` has no effect, as there are no blocks.

    "native" is machine code; every other source stands for TensorFlow operations.

    Raises:
      ValueError: there are fewer than ``dim`` rows.
    """
    a, b = split(size)
    if dim > a * b:
        raise ValueError(
            f"distribution 'hadamard' has {a * b} orthogonal directions for {size} parameters, so dim must be "
            f"at most that, got {dim}; other distributions take any dim"
        )
    if source == "native":
        from rbd_ipu.directions.hadamard.native import NativeHadamard

        return NativeHadamard(groups, size, dim, normalize)
    return Hadamard(groups, size, dim, normalize)


STRUCTURED.register("hadamard")(
    Structure("hadamard", make, None, "orthogonal directions at a cost that does not depend on dim")
)

__all__ = ["Hadamard", "make"]
