"""Trials one after the other in this process, or several at once in processes of their own.

A worker is ``python -m rbd_ipu.lab.tuning_workers``: it reads one line of JSON, the settings of a trial, from its
standard input, and writes one, the Trial, to its standard output. It ends when its standard input does, so that no
worker outlives a search that is killed.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Callable, Dict, Generator, List, NamedTuple

from rbd_ipu import files
from rbd_ipu.config import Config, resolve
from rbd_ipu.cores import usable
from rbd_ipu.errors import ConfigError
from rbd_ipu.lab.trials import Trial


class Order(NamedTuple):
    """A trial to be made: settings, exponent of the rate, and whether it may not be stopped early."""

    config: Config
    exponent: int
    again: bool = False


def one_by_one(following: Callable[[], List[Order]]) -> Generator[Trial, None, None]:
    """Makes trials in this process until ``following()``, asked anew after each, has no more."""
    from rbd_ipu.lab.trials import train

    while True:
        orders = following()
        if not orders:
            return
        yield train(*orders[0])


def at_once(following: Callable[[], List[Order]], jobs: int) -> Generator[Trial, None, None]:
    """The same with up to ``jobs`` at a time, each in a process that has its share of the cores.

    Yields trials as they end. Leaving the loop, by an error or Ctrl-C too, ends the workers.

    Raises:
      ConfigError: a worker refused its settings.
      RuntimeError: a worker failed otherwise; with the end of what it said.
    """
    workers: Dict[Order, subprocess.Popen] = {}
    running: Dict[Future, Order] = {}
    with contextlib.ExitStack() as cleaning:
        pool = cleaning.enter_context(ThreadPoolExecutor(jobs))
        cleaning.callback(_kill, workers)
        while True:
            waiting = [order for order in following() if order not in running.values()]
            for order in waiting[: jobs - len(running)]:
                workers[order] = _started(jobs)
                running[pool.submit(_answer, workers[order], order)] = order
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                del workers[running.pop(future)]
                yield future.result()


def _kill(workers: Dict[Order, subprocess.Popen]) -> None:
    for worker in workers.values():
        worker.kill()


def _started(jobs: int) -> subprocess.Popen:
    """A worker that waits for its settings, held to its share of the cores."""
    share = str(max(1, len(usable()) // jobs))
    threads = ("OMP_NUM_THREADS", "RBD_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    environment = {**os.environ, **{name: share for name in threads if name not in os.environ}}
    # A child finds the package where this process did, installed or not.
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, "-m", "rbd_ipu.lab.tuning_workers"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the search; it ends its workers
    )


def _answer(worker: subprocess.Popen, order: Order) -> Trial:
    """Hands a worker its settings and waits for its Trial; the standard input stays open until then."""
    said: List[str] = []
    assert worker.stdin and worker.stdout and worker.stderr
    listener = threading.Thread(target=lambda: said.extend(worker.stderr or []))
    listener.start()
    try:
        with contextlib.suppress(BrokenPipeError):  # it died already: its last words say why
            worker.stdin.write(files.line([order.config.as_dict(), order.exponent, order.again]))
            worker.stdin.flush()
        answer = worker.stdout.readline()
    finally:
        with contextlib.suppress(BrokenPipeError):
            worker.stdin.close()
        worker.wait()
        listener.join()
        worker.stdout.close()
        worker.stderr.close()
    if not answer:
        words = "".join(said[-20:]).strip()
        raise RuntimeError(f"the trial at 2**{order.exponent} ended without a result: {words or worker.returncode}")
    facts = json.loads(answer)
    if "refused" in facts:
        raise ConfigError(facts["refused"])
    return Trial.of(facts)


def main() -> None:
    """A worker's life."""
    settings, exponent, again = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    facts: Any
    try:
        from rbd_ipu.lab.trials import train

        facts = train(resolve(settings), exponent, again).as_dict()
    except ConfigError as error:
        facts = {"refused": str(error)}
    answer.write(files.line(facts))
    answer.flush()


def _end_with_input() -> None:
    while os.read(0, 4096):  # not by sys.stdin, whose lock Python wants to have when it ends
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
