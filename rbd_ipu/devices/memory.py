"""What fits into an IPU: the arithmetic that bounds a block of directions.

A block of B directions over D parameters is a [B, D] temporary, spread evenly over the tiles of the IPU. Code,
activations, weights and the rearranged operands of the products share the same memory, and the block may be there
two or three times for a moment; so it is kept to about a tenth of the memory:

    B D <= budget      2e7 float32 on a GC200, 7e6 on a GC2; twice as many float16

The tiles and memories are Graphcore's published ones; the tenth is an estimate that nothing here has been able to
measure (``pytest -m ipu`` does, on hardware).
"""

from typing import Dict, NamedTuple

from rbd_ipu.placement import block_rows

BYTES = {"float32": 4, "float16": 2}  # of one entry of a direction


class Chip(NamedTuple):
    """One generation of IPU.

    Attributes:
      tiles: processors, each with a memory of its own.
      memory: bytes of all tiles together.
      floats: the largest block, in float32 entries.
      version: what Poplar calls it where it compiles for it without having one.
    """

    tiles: int
    memory: int
    floats: int
    version: str


# A Bow IPU has the tiles and, as far as could be established, the memory of a GC200.
CHIPS: Dict[str, Chip] = {
    "gc2": Chip(1216, 300_000_000, 7_000_000, "ipu1"),
    "gc200": Chip(1472, 900_000_000, 20_000_000, "ipu2"),
    "bow": Chip(1472, 900_000_000, 20_000_000, "ipu21"),
}


def block_entries(chip: Chip, precision: str = "float32") -> int:
    """The largest B D for which a block keeps to its share of the chip's memory.

    Example:
      >>> block_entries(CHIPS["gc200"]), block_entries(CHIPS["gc200"], "float16")
      (20000000, 40000000)
    """
    return chip.floats * BYTES["float32"] // BYTES[precision]


def bytes_per_tile(rows: int, size: int, chip: Chip, precision: str = "float32") -> int:
    """What a [rows, size] block takes of each tile's memory, evenly spread.

    Example:
      >>> bytes_per_tile(16, 1_000_000, CHIPS["gc200"])
      43479
    """
    return -(-rows * size * BYTES[precision] // chip.tiles)


def share(rows: int, size: int, chip: Chip, precision: str = "float32") -> float:
    """The part of the chip's memory that a [rows, size] block takes, once.

    Example:
      >>> round(share(16, 1_000_000, CHIPS["gc200"]), 3)
      0.071
    """
    return rows * size * BYTES[precision] / chip.memory


__all__ = ["BYTES", "CHIPS", "Chip", "block_entries", "block_rows", "bytes_per_tile", "share"]
