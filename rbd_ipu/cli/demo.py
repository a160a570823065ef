"""``rbd-ipu demo``: the comparison of :mod:`rbd_ipu.lab.demo`, with its table on the screen."""

import argparse
import sys
import time
from pathlib import Path

from rbd_ipu.files import missing
from rbd_ipu.provenance import command_line
from rbd_ipu.runs import check_free, new_folder


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("--output", metavar="DIR", type=Path, help="the folder to make; default runs/demo-TIME-N")
    parser.add_argument(
        "--text",
        action="store_true",
        help="a language model on characters of Shakespeare, in place of the digits; the embedded excerpt",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="few epochs and two seeds, to see that it works; the numbers mean little",
    )


def run(arguments: argparse.Namespace) -> int:
    """Trains, prints the table, writes the picture; returns the exit status."""
    from rbd_ipu.lab import demo

    if arguments.output is not None:
        check_free(arguments.output)
    full, quick = (demo.TEXT, demo.QUICK_TEXT) if arguments.text else (demo.FULL, demo.QUICK)
    plan = quick if arguments.quick else full
    configs = demo.configs(plan)
    demo.check(configs)
    folder = new_folder(arguments.output, "demo", claim="demo.json")
    command = command_line(arguments.words)
    print(
        f"SGD moves in all dimensions, RBD and FPD along d = {plan.dim} random directions.\n"
        f"{len(configs)} runs on {plan.about}, {plan.epochs} epochs each:"
    )
    runs, status, began = [], 0, time.perf_counter()
    try:
        for number, config in enumerate(configs, start=1):
            done = demo.train(config)
            runs.append(done)
            demo.write_numbers(folder, runs, command)  # what is done is kept, whatever comes next
            found = f"{100 * done.test['accuracy']:.1f} %"
            if arguments.text:
                found = f"{done.test['loss']:.3f} nats"
            print(
                f"  {number}/{len(configs)}  {config.method} seed {config.seed}: {found} in {done.seconds:.1f} s",
                flush=True,
            )
    except KeyboardInterrupt:
        print("\nrbd-ipu: interrupted by Ctrl-C; this is what was done", file=sys.stderr)
        status = 130
    if runs:
        demo.write_picture(folder, runs)
        print(f"\n{demo.render(demo.table(runs))}\n")
    for line in missing():
        print(f"rbd-ipu: {line}")
    print(f"{time.perf_counter() - began:.0f} s of training; curves and numbers are in {folder}")
    return status
