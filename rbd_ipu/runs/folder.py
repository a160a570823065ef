"""The folder of a run or a search, and the result of a run.

It is new, never written over, and whole at every moment.

====================  =================================================================
``config.yaml``       the resolved settings; ``rbd-ipu train --config`` repeats the run
``run.json``          command, versions, commit, machine, seed, d and D, times, outcome;
                      ``data``: the SHA-256 of every file that was trained on
``metrics.jsonl``     one line an epoch (``metrics.csv``: the same as a table)
``checkpoints/``      weights: ``last`` and ``best`` epoch; ``stopped`` where a run broke off;
                      ``step-...checkpoint``: all that ``--resume`` needs, the last few of them
``replay.log``        with ``replay_log: true``, the messages of every step, for ``rbd-ipu replay``
``tensorboard/``      events, where the tensorboard package is installed
``result.json``       final and best accuracies and losses
``sample.txt``        of a language model: 200 characters that it has written
``curves.png``        where matplotlib is installed
``.lock``             which process has the folder, while it has it
====================  =================================================================
"""

import datetime
import itertools
import json
import math
import os
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Union

from rbd_ipu import files, provenance
from rbd_ipu.config import Config
from rbd_ipu.config.yaml import dumps
from rbd_ipu.errors import ConfigError, say
from rbd_ipu.provenance import now


def summarise(
    rows: List[Dict[str, Any]], test: Optional[Mapping[str, float]], outcome: str, of_text: bool = False
) -> Dict[str, Any]:
    """The last and the best epoch on the validation images, and the test if it was reached.

    Of a language model the accuracy is that of the next character, the best epoch is that of the lowest loss, and
    beside each loss stands its ``perplexity``, exp(loss).

    Args:
      rows: the lines of metrics.jsonl.
      test: loss and accuracy of the final weights on the test images; None if it broke off.
      outcome: the word for how the run ended.
      of_text: whether it is of a language model.
    """
    last = rows[-1] if rows else {}
    best = max(rows, key=_minus_loss if of_text else _accuracy, default={})

    def numbers(found: Dict[str, Any]) -> Dict[str, Any]:
        return {**found, "perplexity": perplexity(found["loss"])} if of_text else found

    return {
        "outcome": outcome,
        "epochs": len(rows),
        "step": last.get("step", 0),
        "validation": numbers(_validation(last)),
        "best": {"epoch": best.get("epoch"), "validation": numbers(_validation(best))},
        "test": numbers(dict(test)) if test else None,
    }


def perplexity(loss: Optional[float]) -> Optional[float]:
    """exp(loss), of a mean cross entropy in nats; None where there is none, infinity beyond a float.

    Example:
      >>> perplexity(0.0), perplexity(None)
      (1.0, None)
    """
    if loss is None:
        return None
    return math.exp(loss) if loss < 700 else math.inf


def _minus_loss(row: Mapping[str, Any]) -> float:
    value = row.get("val_loss")
    return -math.inf if value is None else -value


def _accuracy(row: Mapping[str, Any]) -> float:
    value = row.get("val_accuracy")
    return -math.inf if value is None else value


def _validation(row: Mapping[str, Any]) -> Dict[str, Any]:
    return {"loss": row.get("val_loss"), "accuracy": row.get("val_accuracy")}


def check_free(path: Union[str, Path]) -> None:
    """Refuses a path that a new run cannot have; creates nothing.

    Args:
      path: where the run is to be.

    Raises:
      ConfigError: something lies there already, or its name is no text, which TensorFlow wants.

    Example:
      >>> check_free("nowhere")
    """
    path = Path(path)
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        raise ConfigError(
            f"--output {ascii(str(path))}: the name is not UTF-8, or this locale cannot read it; choose another, or "
            "set PYTHONUTF8=1"
        ) from None
    if path.is_dir() and not any(path.iterdir()):
        return
    if os.path.lexists(path):
        what = "exists and is not empty" if path.is_dir() else "would lie where a file is"
        if (path / "run.json").exists():
            what = "holds a run (`rbd-ipu train --resume` goes on in it)"
        raise ConfigError(
            f"--output {path}: the folder {what}; runs are never written over: choose another "
            "path, or leave --output out for a new folder under runs/"
        )


def new_folder(output: Optional[Union[str, Path]] = None, name: str = "run", claim: str = "run.json") -> Path:
    """Makes the folder for a run: at ``output``, or a new ``runs/<name>-<time>-<n>``.

    Args:
      output: where the user wants it.
      name: what its name begins with otherwise.
      claim: the file that marks the folder as taken, from now on; the run replaces it.

    Raises:
      ConfigError: ``output`` is taken.
      OSError: the folder cannot be made, with its path.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     [path.name for path in new_folder(f"{folder}/a").iterdir()]
      ['run.json']
    """
    if output is not None:
        path = Path(output)
        check_free(path)
        path.mkdir(parents=True, exist_ok=True)
        _claim(path / claim)
        return path
    stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    os.makedirs("runs", exist_ok=True)
    for number in itertools.count(1):
        path = Path("runs") / f"{name}-{stamp}-{number}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        _claim(path / claim)
        return path
    raise AssertionError("unreachable")


def _claim(path: Path) -> None:
    """Of two runs that found the same empty folder, lets one have it."""
    try:
        with files.naming(path), open(path, "x", encoding="utf-8") as file:
            try:
                file.write("{}\n")
                file.flush()
            except OSError:  # a full disk: the same command may come again
                path.unlink()
                raise
    except FileExistsError:
        raise ConfigError(f"--output {path.parent}: another run has just taken the folder") from None


def facts_of(path: Union[str, Path]) -> Dict[str, Any]:
    """What the JSON file of a search says; nothing where there is none yet.

    Args:
      path: of the file.

    Raises:
      ConfigError: it is no JSON.

    Example:
      >>> facts_of("nowhere.json")
      {}
    """
    try:
        facts = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ConfigError(f"{path}: no JSON: {error}") from None
    if not isinstance(facts, dict):
        raise ConfigError(f"{path}: a mapping was expected, and it holds {str(facts)[:40]}")
    return facts


def check_search(path: Union[str, Path], decisive: Mapping[str, Any], name: str = "--output") -> None:
    """Refuses to go on in the folder of another search; writes nothing.

    Args:
      path: the file with the facts of the search, in its folder.
      decisive: the settings that decide the numbers of a run.
      name: what the folder is called where it is given.

    Raises:
      ConfigError: that search has other settings, which are named; or its facts are damaged.

    Example:
      >>> check_search("nowhere/tune.json", {"dim": 3})
    """
    wanted = json.loads(files.line(decisive))  # as a file gives them back
    facts = facts_of(path)
    form = {"sittings": [files.MAPPING], "decisive": files.MAPPING}
    files.check(facts, {name: kind for name, kind in form.items() if name in facts}, str(path))
    known = facts.get("decisive", wanted)  # none yet: killed before it wrote them
    other = [
        f"{key} {known.get(key, 'as usual')} there and {wanted.get(key, 'as usual')} here"
        for key in sorted({*known, *wanted})
        if known.get(key) != wanted.get(key)
    ]
    if other:
        where = f"{name} {Path(path).parent}"
        raise ConfigError(f"{where}: a search with other settings is kept there: {', '.join(other)}")


class RunFolder:
    """Writes what is known before a run and after it.

    Args:
      path: a folder from :func:`new_folder`.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     RunFolder(new_folder(f"{folder}/a")).facts()
      {}
    """

    def __init__(self, path: Union[str, Path]):
        self.path = Path(path)
        self._facts: Dict[str, Any] = {}

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def begin(self, config: Config, facts: Mapping[str, Any], command: str) -> None:
        """Writes config.yaml and run.json; the outcome is "running" until :meth:`end`."""
        self._write_config(config)
        self._facts = {
            "command": command,
            "outcome": "running",
            "message": None,
            "started": now(),
            "ended": None,
            "seed": config.seed,
            **facts,
            **provenance.origin(),
            "resumed": [],
        }
        self._write_facts()

    def go_on(self, config: Config, facts: Mapping[str, Any], command: str, place: Mapping[str, int]) -> None:
        """Writes into run.json that the run goes on from a place, with what and where; see :meth:`begin`."""
        known = self.facts()
        entry = {"command": command, "started": now(), **place, **provenance.origin()}
        if not known.get("started"):  # killed before it wrote the first
            self.begin(config, facts, command)
            return
        self._write_config(config)
        before = known.get("resumed", [])
        if not isinstance(before, list):
            say(f"{self / 'run.json'}: resumed: must be a list, and is begun anew")
            before = []
        resumed = [*before, entry]
        self._facts = {**known, **facts, "outcome": "running", "message": None, "ended": None, "resumed": resumed}
        self._write_facts()

    def facts(self) -> Dict[str, Any]:
        """What run.json holds; nothing where it cannot be read."""
        try:
            return files.found(self / "run.json")
        except OSError:
            return {}

    def end(self, outcome: str, message: Optional[str]) -> None:
        """Writes into run.json how the run went."""
        self._facts.update(outcome=outcome, message=message, ended=now())
        self._write_facts()

    def _write_config(self, config: Config) -> None:
        header = "# The settings of this run; `rbd-ipu train --config` with this file repeats it.\n"
        files.write_text(self / "config.yaml", header + dumps(config.as_dict()))

    def _write_facts(self) -> None:
        files.write_text(self / "run.json", files.document(self._facts))
