"""Going on in the folder of a run that has ended, wherever and however it did."""

import contextlib
import dataclasses
import shutil
from pathlib import Path
from typing import Any, Dict, List, Mapping

from rbd_ipu import checkpoints, files
from rbd_ipu.checkpoints.file import Checkpoint, CheckpointError, Found, search
from rbd_ipu.config import FIELDS, SIZES, Config, from_file, resolve
from rbd_ipu.errors import ConfigError
from rbd_ipu.runs import metrics
from rbd_ipu.runs.experiment import Experiment
from rbd_ipu.runs.folder import RunFolder

#: Settings that a run may go on with at other values: they decide how far, where and how safely it goes. (On another
#: device, or with another number of cores, it is right and the bits are others.)
MAY_CHANGE = ("epochs", "device", "data_dir", "checkpoint_seconds", "keep_checkpoints", "worker_timeout")

# Of these null is no value of its own: a run finds them when it begins, and keeps them.
_LOOKED_UP = ("learning_rate", "sgd_learning_rate", "switch_epoch")
# What a run writes into its folder before its settings, in the order of removal.
_CLAIM = (files.draft_of("config.yaml").name, "run.json", files.NAME)


def settings(folder: RunFolder, given: Mapping[str, Any]) -> Config:
    """The settings of the run in a folder, with those that the user has changed and may change.

    Args:
      folder: with a config.yaml.
      given: from :func:`rbd_ipu.config.from_file` and ``from_assignments``; what is not given stays.

    Raises:
      ConfigError: there is no run; or a setting would change that has decided its numbers so far.
    """
    if not (folder / "config.yaml").exists():
        begun = (folder / "run.json").exists()
        why = "was ended before it had written anything: remove the folder" if begun else "is not there"
        raise ConfigError(
            f"--resume --output {folder.path}: the run {why}; without --resume, or with --resume auto, one begins"
        )
    stored = resolve(from_file(folder / "config.yaml"))
    known = dataclasses.asdict(stored)
    wanted = {key: _meant(key, checked, known) for key, checked in _checked(given).items()}
    check_same(known, wanted, f"--resume --output {folder.path}: the run goes on with its own settings")
    changed = dataclasses.replace(stored, **wanted)
    if changed.all_workers != stored.all_workers:
        raise ConfigError(
            f"--resume --output {folder.path}: device: {stored.device} -> {changed.device}; a run goes on "
            f"with as many workers as it began with, {stored.all_workers}"
        )
    return changed


def clear_abandoned(path: Path) -> None:
    """Empties a folder that a run had taken when it was killed, before it wrote anything; others stay as they are.

    Raises:
      ConfigError: the run is at work.
    """
    if not _is_abandoned(path):
        return
    with files.locked(path):
        if not _is_abandoned(path):  # another process has just begun a run there, and ended it
            return
        shutil.rmtree(path / "tune", ignore_errors=True)  # the search of learning_rate=auto, which is made again
        for name in _CLAIM:  # the lock is the last: whoever is killed here leaves what can be cleared again
            with contextlib.suppress(FileNotFoundError):
                (path / name).unlink()


def _is_abandoned(path: Path) -> bool:
    """Whether a folder has nothing but what a run leaves that is killed before it has settings."""
    there = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    claimed = "run.json" in there or files.NAME in there
    return claimed and there <= {*_CLAIM, "tune"} and not RunFolder(path).facts()


def _checked(given: Mapping[str, Any]) -> Dict[str, Any]:
    """The given values in their own types, without the rules between keys: the stored settings have passed those."""
    found: Dict[str, Any] = {}
    for key, entry in given.items():
        if key not in FIELDS:
            resolve({key: entry})  # raises, and says what is accepted
        facts = FIELDS[key]
        if entry.value is None and facts["default"] is None:
            found[key] = None
            continue
        try:
            found[key] = facts["kind"].check(entry.value)
        except ConfigError as error:
            raise ConfigError(f"{entry.origin}: {error}") from None
    return found


def _meant(key: str, value: Any, known: Mapping[str, Any]) -> Any:
    """What a given value stands for in this run: null for what a run without the setting has."""
    if value is not None or known[key] is None:
        return value
    return known[key] if key in _LOOKED_UP else SIZES.get(key)


def check_same(known: Mapping[str, Any], wanted: Mapping[str, Any], message: str) -> None:
    """Refuses settings that differ where they may not.

    Raises:
      ConfigError: the message, with the difference.

    Example:
      >>> check_same({"dim": 9, "epochs": 1}, {"dim": 9, "epochs": 2}, "")
      >>> check_same({"dim": 9}, {"dim": 10}, "the run goes on with its own settings")
      Traceback (most recent call last):
      ...
      rbd_ipu.errors.ConfigError: the run goes on with its own settings; these differ: dim: 9 -> 10; only
      epochs, device, data_dir, checkpoint_seconds, keep_checkpoints, worker_timeout may
    """
    before = {**{key: facts["default"] for key, facts in FIELDS.items()}, **known}
    differences = [
        f"{key}: {before.get(key)} -> {value}"
        for key, value in wanted.items()
        if key not in MAY_CHANGE and value != before.get(key)
    ]
    if differences:
        raise ConfigError(f"{message}; these differ: {', '.join(differences)}; only {', '.join(MAY_CHANGE)} may")


def is_finished(folder: RunFolder, config: Config) -> bool:
    """Whether the run has come to its end, its result written. More epochs than it had make it go on.

    Raises:
      ConfigError: fewer epochs are wanted than are recorded.
    """
    path = folder / "metrics.jsonl"
    done = path.read_bytes().count(b"\n") if path.exists() else 0
    if done > config.epochs:
        raise ConfigError(f"epochs: {config.epochs} are wanted, but {done} are recorded in {path} already")
    return done == config.epochs and folder.facts().get("outcome") == "finished"


def find(experiment: Experiment, folder: RunFolder) -> Found:
    """The checkpoint to go on from: the latest one that is whole and of this very run.

    Raises:
      ConfigError: there are checkpoints, and none can be used, with the reason for each; or there is none, and yet
        the run has recorded epochs.
    """
    fingerprint = experiment.fingerprint()

    def check(checkpoint: Checkpoint) -> None:
        _check(checkpoint, experiment, folder, fingerprint)

    try:
        found = search(folder / "checkpoints", check)
    except CheckpointError as error:
        raise ConfigError(f"{error}\nNothing has been changed") from None
    if found.checkpoint is None and metrics.extent(folder / "metrics.jsonl")["bytes"]:
        raise ConfigError(
            f"{folder / 'checkpoints'}: there is no checkpoint to go on from, though the run has recorded epochs; "
            "nothing has been changed"
        )
    return found


def _check(checkpoint: Checkpoint, experiment: Experiment, folder: RunFolder, fingerprint: str) -> None:
    from rbd_ipu.checkpoints.state import check

    about = checkpoint.about
    if not {"config", "data", "metrics"} <= set(about):
        raise CheckpointError("it is not from a run of `rbd-ipu train`")
    try:
        check_same(about["config"], _plain(experiment.config), "it is from a run with other settings")
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    workers = experiment.trainer.device.exchange.workers  # replicas of IPUs are not among the settings
    if about.get("workers", workers) != workers:
        raise CheckpointError(f"it is from a run with {about['workers']} workers, and here there are {workers}")
    if about["data"] != fingerprint:
        raise CheckpointError("it was trained on other images than are there now")
    if not metrics.holds(folder / "metrics.jsonl", about["metrics"]):
        raise CheckpointError("metrics.jsonl does not begin with the epochs that it had when this was written")
    if experiment.config.replay_log and not metrics.holds(folder / "replay.log", about["replay_log"]):
        raise CheckpointError("replay.log does not begin with the steps that it had when this was written")
    check(experiment.trainer, checkpoint)


def rewind(experiment: Experiment, folder: RunFolder, start: Checkpoint) -> List[Dict[str, Any]]:
    """Takes the trainer and the metrics to where the checkpoint was written; gives the rows of the epochs before."""

    checkpoints.restore(experiment.trainer, start)
    return metrics.cut(folder / "metrics.jsonl", folder / "metrics.csv", start.about["metrics"])


def keeper(experiment: Experiment, folder: RunFolder) -> Any:
    """The callback that writes the checkpoints of a run."""

    config, data = experiment.config, experiment.fingerprint()

    def about() -> Dict[str, Any]:
        found = {"config": _plain(config), "data": data, "metrics": metrics.extent(folder / "metrics.jsonl")}
        found["workers"] = experiment.trainer.device.exchange.workers
        if experiment.trainer.replay_log is not None:
            found["replay_log"] = experiment.trainer.replay_log.extent()
        return found

    return checkpoints.Checkpoints(
        folder / "checkpoints", experiment.trainer, config.checkpoint_seconds, config.keep_checkpoints, about
    )


def _plain(config: Config) -> Dict[str, Any]:
    return dataclasses.asdict(config)
