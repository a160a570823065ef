"""What a description would set, in words and tables, for people who have no IPU at hand."""

import json
from typing import Any, List

from rbd_ipu.devices import memory
from rbd_ipu.devices.ipu import description as rules
from rbd_ipu.devices.ipu import ipu_config, sdk_record
from rbd_ipu.devices.ipu.description import Description
from rbd_ipu.text_table import text

EXAMPLE_DIM = 250  # the paper's d for FC and CNN
EXAMPLE_SIZES = (101_770, 467_194, 2_000_000)  # FC on MNIST, ResNet-32, and something larger


def listing(description: Description) -> str:
    """All that the description decides: the IPUs, the memory of a block, the flags, the options.

    Example:
      >>> from rbd_ipu.devices.ipu import description
      >>> print(listing(description.check({"device": "cpu"})))
      device  cpu
    """
    if description.device != "ipu":
        return f"device  {description.device}"
    parts = [text(_facts(description), left=2), text(_options(description), left=4)]
    return "\n\n".join(parts + [f"note: {line}" for line in notes(description)])


def notes(description: Description) -> List[str]:
    """What the user should know before trusting the results."""
    lines = []
    if description.emulator:
        lines.append("the emulator draws the same random numbers for every seed: it cannot validate random subspaces")
    if description.connection == "pre_compile":
        lines.append("nothing is computed: the results are zeros, and the program goes into the cache")
    if description.instances > 1:
        lines.append("PopDist chooses the IPUs and fills in the processes: start it by scripts/poprun.sh")
    if "select_ipus" in description.options:
        lines.append(f"whether the device of select_ipus has {description.ipus} IPUs shows on the machine only")
    for path in description.options:
        new = sdk_record.options()["options"][path].get("replaced_by")
        if new:
            lines.append(f"{path} is deprecated: use {new}")
    return lines


def _facts(d: Description) -> List[List[str]]:
    chip = d.chip
    bytes_ = d.block_entries * memory.BYTES[d.precision]
    where = "Poplar's emulator" if d.emulator else d.hardware
    rows = [
        ["device", f"ipu: {where}"],
        ["IPUs", f"{d.ipus} = {d.replicas} (replicas) x {d.ipus_per_replica}; processes: {d.instances}"],
        ["execution", f"{d.steps_per_execution} batches a replica"],
        ["block", f"B D <= {d.block_entries:,} {d.precision}, {100 * bytes_ / chip.memory:.0f} % of the memory"],
    ]
    for size in EXAMPLE_SIZES:
        if size <= d.block_entries:
            height = d.block_rows(size, EXAMPLE_DIM)
            tile = memory.bytes_per_tile(height, size, chip, d.precision)
            rows.append(["", f"B = {height} at D = {size:,}, d = {EXAMPLE_DIM}: {tile / 1000:.0f} KB a tile"])
    flags = ipu_config.environment(d)
    return rows + [[name, value] for name, value in flags.items()]


def _options(d: Description) -> List[List[str]]:
    known = sdk_record.options()["options"]
    rows = [["IPUConfig", "value", "default", "set by"]]
    for path, value in ipu_config.settings(d).items():
        origin = "options" if path in d.options else rules.KEYS[path]
        rows.append([path, _written(value), _written(known[path]["default"]), origin])
    return rows


def _written(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)
