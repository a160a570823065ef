"""Keras callbacks that keep a run's results on disk, for ``Trainer.fit`` and ``model.fit``."""

import contextlib
import errno
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Union

from rbd_ipu._compat import keras, tf
from rbd_ipu.files import check_room, draft_of, installed, replacing
from rbd_ipu.process import Interrupt
from rbd_ipu.runs import metrics

Logs = Optional[Mapping[str, Any]]


def _row(epoch: int, logs: Logs) -> Dict[str, Any]:
    """The numbers of an epoch, counted from 1; Keras 3 makes floats of all, steps are whole."""
    row = {"epoch": epoch + 1, **(logs or {})}
    if "step" in row:
        row["step"] = int(row["step"])
    return row


class MetricsLog(keras.callbacks.Callback):
    """Appends one line of JSON an epoch to ``path``; ``epoch`` counts finished epochs, from 1.

    Raises:
      OSError: with the path, when the line cannot be written; the lines before stay.
    """

    def __init__(self, path: Union[str, Path]):
        super().__init__()
        self.path = Path(path)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        metrics.append(self.path, _row(epoch, logs))


class MetricsTable(MetricsLog):
    """The same as a table of comma-separated values.

    Keras' CSVLogger would not do: that of Keras 2 fails where an epoch measures less than the first one did.

    Raises:
      OSError: with the path, when the line cannot be written; the lines before stay.
    """

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        metrics.append_csv(self.path, _row(epoch, logs))


class AtomicCheckpoint(keras.callbacks.ModelCheckpoint):
    """Keras' ModelCheckpoint of the weights; ``path`` is whole at every moment.

    Args:
      path: ends in ``.weights.h5``; ``model.load_weights(path)`` reads it.
      monitor: a key of the epoch's logs; the file then holds the epoch where it was highest (an
        accuracy) or lowest (a loss). None: the last epoch.
      best: its best value so far, in a run that goes on; None: there is none.

    Raises:
      OSError: with the path, when the weights cannot be written (a full disk); the file before
        stays.
    """

    def __init__(self, path: Union[str, Path], monitor: Optional[str] = None, best: Optional[float] = None):
        self.path = Path(path)
        draft = str(draft_of(self.path)).replace("{", "{{").replace("}", "}}")  # Keras formats the name
        super().__init__(
            draft,
            monitor=monitor or "val_loss",
            mode="max" if monitor and "accuracy" in monitor else "min",
            save_best_only=monitor is not None,
            save_weights_only=True,
        )
        if best is not None:
            self.best = best

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        with replacing(self.path) as draft:
            _check_room(self.model, draft)
            super().on_epoch_end(epoch, logs)


def save_weights(model: Any, path: Union[str, Path]) -> None:
    """Writes a model's weights as one whole HDF5 file; ``path`` ends in ``.weights.h5``."""
    with replacing(path) as draft:
        _check_room(model, draft)
        model.save_weights(str(draft))


def save_model(model: Any, path: Union[str, Path]) -> None:
    """Writes a model as one whole file; ``path`` ends in ``.keras`` or ``.h5``."""
    with replacing(path) as draft:
        _check_room(model, draft)
        model.save(str(draft))


def _check_room(model: Any, draft: Path) -> None:
    # HDF5 adds less than 4 kB of headers for each weight.
    size = sum(weight.numpy().nbytes + 2**13 for weight in model.weights)
    check_room(draft, size + 2**16)


class Events(keras.callbacks.TensorBoard):
    """Keras' TensorBoard with the epochs' numbers only: no graph, no profile, no histograms."""

    def __init__(self, folder: Union[str, Path]):
        super().__init__(str(folder), histogram_freq=0, write_graph=False, update_freq="epoch", profile_batch=0)

    def set_model(self, model: Any) -> None:
        with self._writing():
            super().set_model(model)

    def on_train_begin(self, logs: Logs = None) -> None:
        with self._writing():
            super().on_train_begin(logs)

    def on_test_end(self, logs: Logs = None) -> None:
        with self._writing():
            super().on_test_end(logs)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        with self._writing():
            super().on_epoch_end(epoch + 1, logs)

    def on_train_end(self, logs: Logs = None) -> None:
        with self._writing():
            super().on_train_end(logs)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except tf.errors.OpError as error:  # what TensorFlow makes of a full disk
            raise OSError(errno.EIO, error.message.splitlines()[0], self.log_dir) from error


class StopOnInterrupt(keras.callbacks.Callback):
    """Ends the training between two chunks of steps once Ctrl-C has been pressed, or SIGTERM has come.

    Raises:
      KeyboardInterrupt: then.
    """

    def __init__(self, interrupt: Interrupt):
        super().__init__()
        self.interrupt = interrupt

    def _check(self) -> None:
        if self.interrupt.requested:
            raise KeyboardInterrupt(self.interrupt.number)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._check()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self._check()


def recorders(
    folder: Path,
    interrupt: Interrupt,
    rows: Sequence[Mapping[str, Any]] = (),
    checkpoints: Sequence[Any] = (),
    monitor: str = "val_accuracy",
) -> List[Any]:
    """The callbacks of a run that is kept in ``folder``; the order is that of their writing.

    TensorBoard events are left out where the tensorboard package is missing.

    Args:
      rows: the epochs that a run which goes on has recorded already.
      checkpoints: a :class:`rbd_ipu.checkpoints.Checkpoints`, or none: it must come after all that it counts on.
      monitor: by what the best epoch is known; an accuracy or a loss.
    """
    (folder / "checkpoints").mkdir(exist_ok=True)
    extreme = max if "accuracy" in monitor else min
    best = extreme((row[monitor] for row in rows if row.get(monitor) is not None), default=None)
    return [
        MetricsLog(folder / "metrics.jsonl"),
        MetricsTable(folder / "metrics.csv"),
        AtomicCheckpoint(folder / "checkpoints" / "last.weights.h5"),
        AtomicCheckpoint(folder / "checkpoints" / "best.weights.h5", monitor=monitor, best=best),
        *([Events(folder / "tensorboard")] if installed("tensorboard") else []),
        *checkpoints,
        StopOnInterrupt(interrupt),  # the last: an epoch that is over is recorded before the run stops
    ]
