"""Source ``poprand``: blocks of directions from the random generator of the device, for IPUs.

On an IPU, ``tf.random.stateless_normal`` and ``stateless_uniform`` are Poplar's generator, poprand: the hardware of
every tile draws its own part of a block. What it draws depends on the seed, on the number of elements and on the
tiles, and on nothing else, so that a block comes out the same, bit for bit, whenever the same operation draws it with
the same seed and the same shape. From this follows the contract:

    block seed        fold_in(compartment seed, b)        int32 [2], for each (step, worker, compartment, block)
    block b           draw([rows, n], block seed)         directions b * rows ... (b + 1) * rows - 1

* Every block has the same shape. The last one is drawn in full, and what lies beyond d is not used: two draws of one
  seed and different sizes would share most of their numbers.
* Seeds are hashed, never counted: the generator is linear, and neighbouring seeds would give related streams.
* The height of a block follows from the memory of the device, so directions depend on it: "poprand" stands for the
  20,000,000 entries of a GC200, "poprand:B" for blocks of at most B entries.

``ipu.rand_ops.dropout``, the one generator that Graphcore's ``rand_ops`` holds, is not used: its mask depends on the
tile layout of its input, so two places of a program may draw different masks from one seed, and the compiler may
merge two equal calls into one, and keep what should be drawn again.

The same operations exist on every device, with numbers of their own: a CPU cannot give those of an IPU.
"""

from rbd_ipu.directions.poprand.draws import DRAWS
from rbd_ipu.directions.poprand.source import PopRand
from rbd_ipu.directions.sources import SOURCES, Source
from rbd_ipu.place import BLOCK_ENTRIES, here


def name_here() -> str:
    """The source on the device at hand: "poprand", or "poprand:B" where its blocks are bounded otherwise."""
    entries = here().entries
    return "poprand" if entries == BLOCK_ENTRIES else f"poprand:{entries}"


def parse(text: str) -> int:
    """B of "poprand:B".

    Raises:
      ValueError: it is not an integer >= 1.

    Example:
      >>> parse("7000000")
      7000000
    """
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise ValueError(f"source 'poprand:B' needs an integer B >= 1, the entries of a block; got 'poprand:{text}'")
    return int(text)


@SOURCES.register("poprand")
def make(
    groups: int,
    size: int,
    dim: int,
    distribution: str,
    normalize: str,
    rows: int = 0,
    entries: int = BLOCK_ENTRIES,
) -> Source:
    """The source for G bases of ``dim`` directions in R^size.

    Args:
      rows: directions of a block; 0 for as many as make blocks of nearly equal height within ``entries``.
      entries: B, the largest block.

    Raises:
      ValueError: a single direction is longer than B; the distribution is unknown here.
    """
    from rbd_ipu.devices.memory import block_rows  # late: rbd_ipu.devices imports what trains

    if distribution not in DRAWS:
        accepted = ", ".join(repr(name) for name in DRAWS)
        raise ValueError(f"source 'poprand' cannot draw distribution {distribution!r}; accepted: {accepted}")
    return PopRand(groups, size, dim, distribution, normalize, min(rows, dim) or block_rows(size, dim, entries))


__all__ = ["DRAWS", "PopRand", "make", "name_here", "parse"]
