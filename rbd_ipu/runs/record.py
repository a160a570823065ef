"""One recorded run: trains an experiment; its folder is complete however the training ends.

What `rbd-ipu replay` needs is here too: where a run keeps its replay log, and the model and Trainer of a log again.
"""

import contextlib
import signal
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from rbd_ipu import devices, files, methods, models, plots, training
from rbd_ipu.checkpoints import Checkpoint
from rbd_ipu.config import resolve
from rbd_ipu.delta import weights_of
from rbd_ipu.errors import Dismissed, NonFiniteError
from rbd_ipu.files import installed
from rbd_ipu.process import SIGNALS, deferred
from rbd_ipu.replay import Log, ReplayError
from rbd_ipu.runs import metrics, resume
from rbd_ipu.runs.callbacks import recorders, save_weights
from rbd_ipu.runs.experiment import Experiment
from rbd_ipu.runs.folder import RunFolder, summarise
from rbd_ipu.runs.resume import MAY_CHANGE


class Outcome(NamedTuple):
    """How a run ended: a word for run.json, the exit status, what to tell the user."""

    name: str
    status: int
    message: Optional[str] = None


def record(
    experiment: Experiment, folder: RunFolder, command: str, verbose: int = 1, start: Optional[Checkpoint] = None
) -> Tuple[Outcome, Dict[str, Any]]:
    """Trains, evaluates on the test images and writes the folder.

    A run that breaks off (Ctrl-C, SIGTERM, a number that is not finite, a disk that is full) keeps its
    finished epochs, the weights it has, the result so far and the picture; and checkpoints, to go on from.

    Args:
      experiment: from :func:`rbd_ipu.runs.experiment.prepare`.
      folder: a new folder, or one to go on in; the caller has locked it.
      command: the command line, for run.json.
      verbose: as in Keras: 0 silent, 1 a progress bar, 2 a line an epoch.
      start: the checkpoint that the run goes on from, one of :func:`rbd_ipu.runs.resume.find`.

    Returns:
      the outcome and the result (what result.json holds). Errors that are not of these kinds leave
      as they are, once the folder is complete.
    """
    with deferred() as interrupt:
        ending = _Ending(experiment, folder)
        try:
            facts = {"d": experiment.method.dim, "D": experiment.method.size, "data": dict(experiment.data.files)}
            rows: List[Dict[str, Any]] = []
            if start is None:
                folder.begin(experiment.config, facts, command)
            else:
                place = {"step": start.step, "epochs": start.progress.epoch}
                folder.go_on(experiment.config, facts, command, place)
                rows = resume.rewind(experiment, folder, start)
            _keep_messages(experiment, folder)
            monitor = "val_loss" if experiment.data.of_text else "val_accuracy"
            callbacks = recorders(folder.path, interrupt, rows, [resume.keeper(experiment, folder)], monitor)
            experiment.fit(callbacks=callbacks, verbose=verbose, start=start and start.progress)
            ending.test = experiment.test()
        except KeyboardInterrupt as error:
            return ending.write(_interrupted(interrupt.number, elsewhere=getattr(error, "agreed", False)))
        except Dismissed as error:
            number = error.status - 128
            return ending.write(
                _interrupted(number) if number in SIGNALS else Outcome("failed", error.status, str(error))
            )
        except NonFiniteError as error:
            return ending.write(Outcome("not finite", 3, str(error)))
        except OSError as error:
            return ending.write(_not_written(error, folder.path))
        except BaseException as error:
            ending.write(_failed(error))
            raise
        return ending.write(Outcome("finished", 0))


def _interrupted(number: int, elsewhere: bool = False) -> Outcome:
    if elsewhere and not number:
        return Outcome("terminated", 128 + signal.SIGTERM, "ended with another instance, which was asked to stop")
    if number == signal.SIGTERM:
        return Outcome("terminated", 128 + number, "ended by SIGTERM")
    return Outcome("interrupted", 130, "interrupted by Ctrl-C")


def _failed(error: BaseException) -> Outcome:
    return Outcome("failed", 1, f"{type(error).__name__}: {error}")


def _not_written(error: OSError, folder: Path) -> Outcome:
    what = "to the standard output" if isinstance(error, BrokenPipeError) else error.filename or folder
    return Outcome("not written", 4, f"cannot write {what}: {error.strerror or error}")


class _Ending:
    """Writes what a folder has at its end, as far as the disk takes it."""

    def __init__(self, experiment: Experiment, folder: RunFolder):
        self.experiment, self.folder = experiment, folder
        self.test: Optional[Dict[str, float]] = None
        self.rows: List[Dict[str, Any]] = []
        self.result: Dict[str, Any] = {}
        self.outcome = Outcome("running", 0)

    def write(self, outcome: Outcome) -> Tuple[Outcome, Dict[str, Any]]:
        """Takes every step, even after one that fails; the first error is the outcome's."""
        self.outcome = outcome
        steps: List[Callable[[], None]] = [self._rows, self._result, self._picture, self._sample]
        steps.insert(0, self._not_stopped if outcome.name == "finished" else self._stopped)
        unexpected: Optional[Exception] = None
        for step in [*steps, self._facts]:
            try:
                step()
            except OSError as error:
                if self.outcome.status == 0:
                    self.outcome = _not_written(error, self.folder.path)
            except Exception as error:
                unexpected = unexpected or error
                self.outcome = _failed(error)
        if unexpected is not None:
            raise unexpected
        return self.outcome, self.result

    def _stopped(self) -> None:
        save_weights(self.experiment.model, self.folder / "checkpoints" / "stopped.weights.h5")

    def _not_stopped(self) -> None:
        """Of a run that broke off, went on and is finished, these weights are of no more use."""
        with contextlib.suppress(FileNotFoundError):
            (self.folder / "checkpoints" / "stopped.weights.h5").unlink()

    def _rows(self) -> None:
        if (self.folder / "metrics.jsonl").exists():
            self.rows = metrics.read(self.folder / "metrics.jsonl")

    def _result(self) -> None:
        of_text = self.experiment.data.of_text
        self.result = summarise(self.rows, self.test, self.outcome.name, of_text)
        files.write_text(self.folder / "result.json", files.document(self.result))

    def _picture(self) -> None:
        if self.rows and installed("matplotlib"):
            plots.plot_run(self.folder / "curves.png", self.rows, self.experiment.title)

    def _sample(self) -> None:
        if self.experiment.data.of_text and self.outcome.name == "finished":
            files.write_text(self.folder / "sample.txt", self.experiment.sample())

    def _facts(self) -> None:
        self.folder.end(self.outcome.name, self.outcome.message)


def _keep_messages(experiment: Experiment, folder: RunFolder) -> None:
    """Lets the training write its messages into ``replay.log`` of the folder, where its settings want it."""
    log = experiment.trainer.replay_log
    if log is not None:
        settings = {k: v for k, v in experiment.config.as_dict().items() if k not in MAY_CHANGE}
        data = experiment.data
        log.path = folder / "replay.log"
        log.about = {"settings": settings, "shape": list(data.shape), "classes": data.classes}


def trainer_of(log: Log, device: str = "cpu", weights: Optional[Path] = None) -> Any:
    """A new Trainer of the network and method of a run, at its starting weights.

    Args:
      log: of ``rbd-ipu train --set replay_log=true``.
      device: where to compute.
      weights: a file of the starting weights, or of a model with them; None: those of the run's seed.

    Raises:
      ReplayError: the log is not of such a run.
      ConfigError: its settings are unknown to this version.
      ValueError, OSError: the device, or the file of weights, is not as it must be.
    """
    about: Dict[str, Any] = log.header["about"]
    if not {"settings", "shape", "classes"} <= set(about):
        raise ReplayError(
            f"{log.path}: is not of a run of `rbd-ipu train`: use rbd_ipu.replay_weights with its Trainer"
        )
    config = resolve(about["settings"])
    opened = devices.open_device(device)
    with opened:
        model = models.build(config.network, tuple(about["shape"]), about["classes"], config.seed, **config.sizes())
        if weights is not None:
            model.set_weights(weights_of(weights, model))
    return training.Trainer(model, methods.create(config.method, **config.options()), opened)
