"""The intrinsic dimensions of Li et al. 2018, searched for by ``rbd-ipu dimension``.

    python benchmarks/dimension.py mnist-fc200 mnist-lenet

A case is one search, in its folder under --output: what is done there is never repeated. After each case, and where
one is interrupted, its document goes into the file of results, a line for each case. The settings are those of the
code of Li et al. (100 epochs, batches of 128, no augmentation), but for the optimizer: they train by Adam, and this
is SGD with a momentum of 0.9, without their L2 penalty.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, Dict, Mapping, Sequence

from documents import rows as rows_of

from rbd_ipu import cli, files, text_table

#: data, network, D, d of Li et al. 2018, Table 1.
CASES = {
    "mnist-fc200": ("mnist", "fc200", 199_210, 750),
    "mnist-lenet": ("mnist", "lenet", 44_426, 290),
    "cifar10-lenet": ("cifar10", "lenet", 62_006, 2_900),
    "cifar10-fc200": ("cifar10", "fc200", 656_810, 9_000),
}
ARGUMENTS = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ARGUMENTS.add_argument("cases", nargs="+", choices=CASES, metavar="CASE", help=", ".join(CASES))
ARGUMENTS.add_argument("--epochs", type=int, default=100)
ARGUMENTS.add_argument("--seeds", type=int, default=1)
ARGUMENTS.add_argument("--jobs", type=int, default=1, help="runs at a time")
ARGUMENTS.add_argument("--data-dir", help="the folder of the data sets of TFDS (default $RBD_DATA_DIR)")
ARGUMENTS.add_argument("--output", type=Path, default=Path("runs/dimension"), help="for the folders of the searches")
ARGUMENTS.add_argument("--results", type=Path, default=Path("results/performance/dimension.jsonl"))


def words(case: str, options: argparse.Namespace) -> Sequence[str]:
    """The command line of a case."""
    dataset, network, *_ = CASES[case]
    settings = {"dataset": dataset, "network": network, "epochs": options.epochs, "batch_size": 128, "momentum": 0.9}
    settings.update(augment="false", **({"data_dir": options.data_dir} if options.data_dir else {}))
    given = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    looked_for = ["--seeds", str(options.seeds), "--jobs", str(options.jobs)]
    return ["dimension", *given, *looked_for, "--output", str(options.output / f"{case}-{options.epochs}")]


def keep(path: Path, case: str, document: Mapping[str, Any]) -> None:
    """Puts the document of a case into the file of results, in the place of an earlier one."""
    others = [row for row in rows_of(path) if row["case"] != case]
    kept = {key: value for key, value in document.items() if key != "sittings"}
    kept["settings"] = {key: value for key, value in kept["settings"].items() if key != "data_dir"}
    files.write_text(path, "".join(map(files.line, [*others, {"case": case, **kept}])))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The cases beside the numbers of Li et al., as Markdown."""
    lines = [["data", "network", "D", "epochs", "seeds", "full space", "d here", "d, Li et al."]]
    for row in sorted(rows, key=lambda row: list(CASES).index(row["case"])):
        dataset, network, size, theirs = CASES[row["case"]]
        full = "-" if row["full"]["accuracy"] is None else f"{100 * row['full']['accuracy']:.2f} %"
        epochs = str(row["settings"]["epochs"])
        lines.append([dataset, network, f"{size:,}", epochs, str(row["full"]["n"]), full, _found(row), f"{theirs:,}"])
    return text_table.markdown(lines, 2)


def _found(row: Mapping[str, Any]) -> str:
    below, dim = row["below"], row["dim"]
    if row["finished"]:
        return "none" if dim is None else f"{dim:,} ({below:,} does not reach)" if below else f"{dim:,}"
    return f"not finished: over {below:,}" + (f", at most {dim:,}" if dim is not None else "")


def main() -> int:
    """Makes the searches, or goes on; returns the worst exit status."""
    options = ARGUMENTS.parse_args()
    statuses: Dict[str, int] = {}
    for case in options.cases:
        command = words(case, options)
        statuses[case] = cli.main(command)
        document = files.found(Path(command[-1]) / "dimension.json")
        if "full" in document:
            options.results.parent.mkdir(parents=True, exist_ok=True)
            keep(options.results, case, document)
        if statuses[case] == 130:
            break
    return max(statuses.values())


if __name__ == "__main__":
    sys.exit(main())
