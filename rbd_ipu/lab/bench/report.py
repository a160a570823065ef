"""A measurement from start to end, and the document that keeps all of it."""

import contextlib
import os
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

from rbd_ipu import provenance
from rbd_ipu.errors import ConfigError
from rbd_ipu.lab.bench import rows
from rbd_ipu.lab.bench import runners as ceiling
from rbd_ipu.lab.bench.cases import TRAINER, Case
from rbd_ipu.lab.bench.runners import Runner, make, measure, peak_of

FORMAT = 1
NOTE = (
    "inputs are random images, one batch over and over; ms are medians over the rounds, with quartiles; ratios are "
    "medians of the ratios within a round; the ceiling is the fastest round of the fastest source alone"
)
Tell = Callable[[str], None]


def load() -> Any:
    """How many processes wanted to run in the last 1, 5 and 15 minutes; None where the system does not say."""
    return list(os.getloadavg()) if hasattr(os, "getloadavg") else None


def prepare(cases: Sequence[Case]) -> Dict[Any, Runner]:
    """Builds all cases, so that nothing is measured if one of them cannot be.

    Raises:
      ConfigError: quotes the case, and why it cannot be.
    """
    runners: Dict[Any, Runner] = {}
    for case in cases:
        try:
            runners[case] = make(case)
        except (ValueError, TypeError, ImportError, RuntimeError) as error:
            raise ConfigError(f"{case}: {error}") from error
    for kernel in ceiling.kernels(cases, runners):
        runners[kernel] = ceiling.Sketch(kernel)
    return runners


def measured(cases: Sequence[Case], rounds: int, seconds: float, tell: Tell) -> Tuple[Dict[str, Any], bool]:
    """Builds, times and describes the cases.

    Returns:
      The document, without peak memory, and whether all rounds were run.
    """
    began = load()
    runners = prepare(cases)
    with _quiet_tensorflow():
        times = measure(runners, rounds, seconds, tell)
    document = {
        "format": FORMAT,
        "note": NOTE,
        **surroundings(began),
        "rounds": len(next(iter(times.seconds.values()))),
        "seconds_a_burst": seconds,
        "rows": rows.rows_of(cases, runners, times),
        "ceilings": rows.ceiling_rows(runners, times),
    }
    return document, times.complete


def surroundings(began: Any) -> Dict[str, Any]:
    """Versions, code, machine, threads, and how busy the machine was, ``began`` being the load at the beginning."""
    return {
        **provenance.origin(),
        "threads": ceiling.threads(),
        "load_average": {"begin": began, "end": load()},
    }


@contextlib.contextmanager
def _quiet_tensorflow() -> Iterator[None]:
    """TensorFlow takes the loops of many Trainers for one function that is traced again and again, and warns."""
    from rbd_ipu._compat import tf

    logger = tf.get_logger()
    before = logger.level
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(before)


def add_memory(document: Dict[str, Any], wanted: Sequence[Case], tell: Tell) -> None:
    """Measures peak memory of these cases and of their plain SGD steps, each in a process of its own."""
    cases: List[Case] = [case for case in wanted if case.loop == TRAINER]
    cases = list(dict.fromkeys([*(case.baseline for case in cases), *cases]))
    peaks = {}
    for number, case in enumerate(cases, start=1):
        tell(f"memory {number}/{len(cases)}: {case}")
        peaks[case] = peak_of(case)
        if peaks[case] is None:
            tell(f"memory of {case} could not be measured")
    rows.add_memory(document["rows"], peaks)


def machine_line(document: Dict[str, Any]) -> str:
    """Machine, versions and code in one line."""
    machine, versions = document["machine"], document["versions"]
    commit = (document["commit"] or "no commit")[:10] + (" with changes" if document["modified"] else "")
    busy = document["load_average"]["begin"]
    return (
        f"{machine['processor']}, {machine['usable_cores']} cores, {document['threads']} threads, "
        f"load {'unknown' if busy is None else format(busy[0], '.1f')}; TensorFlow {versions['tensorflow']}, "
        f"Keras {versions['keras']}, rbd_ipu {versions['rbd_ipu']}, {commit}"
    )
