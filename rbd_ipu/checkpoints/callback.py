"""The callback that saves while a training goes on."""

import contextlib
import time
from pathlib import Path
from typing import Any, Callable, List, Mapping, Optional, Tuple, Union

from rbd_ipu import checks
from rbd_ipu._compat import keras
from rbd_ipu.checkpoints.file import clean, listed, newest, path_for, prune
from rbd_ipu.checkpoints.state import restore, save
from rbd_ipu.files import NAME, locked

#: Of the time of a run, at most this much is spent on saving: after a save that took 1 s, the next 99 s are free.
SHARE = 0.01


class Checkpoints(keras.callbacks.Callback):
    """Saves the state of a Trainer at its first step, while it trains, and where it stops; keeps the last few.

    A checkpoint is due when ``seconds`` have passed since the last one, and at the end of every epoch; neither
    before the last one's cost is down to 1 % of the time. Put this last of the callbacks that keep results, so that
    a checkpoint never counts an epoch that they have not seen the end of.

    Args:
      folder: of the checkpoints; made if it is missing. One run at a time can have it.
      trainer: the Trainer that is being fitted.
      seconds: a number from 0; 0 saves after every call of the loop, whatever it costs.
      keep: how many files stay, at least 1. Damaged ones that were there before are not counted and stay as well.
      about: what to keep beside the state, or a function without arguments that gives it, called at each save.

    Raises:
      TypeError, ValueError: an argument is not as above, or another run is at work in the folder.
      OSError: with the path, when a checkpoint cannot be written; those before stay.

    Example:
      >>> import tempfile, numpy as np, rbd_ipu
      >>> from rbd_ipu import checkpoints, methods, models
      >>> def trained(folder, epochs):
      ...     model = models.build("fc", shape=(8, 8, 1), seed=0)
      ...     trainer = rbd_ipu.Trainer(model, methods.create("rbd", learning_rate=1.0, dim=16), "cpu")
      ...     found = checkpoints.newest(folder)
      ...     start = checkpoints.restore(trainer, found) if found else None
      ...     keeper = checkpoints.Checkpoints(folder, trainer)
      ...     x = np.random.default_rng(0).random((64, 8, 8, 1), np.float32)
      ...     trainer.fit((x, np.arange(64) % 10), epochs=epochs, start=start, callbacks=[keeper], verbose=0)
      ...     return trainer.step
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     trained(folder, epochs=1), trained(folder, epochs=3)  # the second goes on where the first stopped
      (2, 6)
    """

    def __init__(
        self,
        folder: Union[str, Path],
        trainer: Any,
        seconds: float = 60.0,
        keep: int = 3,
        about: Union[None, Mapping[str, Any], Callable[[], Mapping[str, Any]]] = None,
    ):
        super().__init__()
        self.folder = Path(folder)
        self.trainer = trainer
        self.seconds = checks.finite_float("seconds", seconds)
        self.keep = checks.positive_int("keep", keep)
        self._about = about if callable(about) else lambda: about
        self._kept: List[Path] = []
        self._seen: Tuple[Any, int] = (None, 0)  # the place that all callbacks before this one have seen
        self._saved: Optional[Tuple[Any, int]] = None
        self._last = self._cost = 0.0
        self._held = contextlib.ExitStack()

    def on_train_begin(self, logs: Any = None) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._held.enter_context(locked(self.folder))
        clean(self.folder)
        self._last, self._cost = time.monotonic(), 0.0
        self._seen = self._place()
        first = path_for(self.folder, self.trainer.step)
        # Of files from before, those of later steps were refused: they are not this run's to remove.
        self._kept = [path for path in reversed(listed(self.folder)) if path <= first]
        if first not in self._kept:
            self._save()
        self._saved = self._seen

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._seen = self._place()
        self._save_if(self.seconds)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._seen = self._place()
        self._save_if(0.0)

    def on_train_end(self, logs: Any = None) -> None:
        with self._held:
            # After an error in the loop or in another callback the place is not the one that all have seen: what is
            # on disk already is the last state that is whole.
            if self._place() == self._seen != self._saved:
                self._save()

    def _place(self) -> Tuple[Any, int]:
        return self.trainer.progress, self.trainer.step

    def _save_if(self, seconds: float) -> None:
        passed = time.monotonic() - self._last
        if self.seconds == 0 or passed >= max(seconds, self._cost * (1 / SHARE - 1)):
            self._save()

    def _save(self) -> None:
        if not self.trainer.method.saveable(self.trainer.step):  # parts are in other processes until the epoch ends
            return
        started = time.monotonic()
        path = path_for(self.folder, self.trainer.step)
        save(path, self.trainer, self._about())
        self._kept = prune([*(kept for kept in self._kept if kept != path), path], self.keep)
        self._saved = self._seen
        self._last = time.monotonic()
        self._cost = self._last - started


class Backup(Checkpoints):
    """Keras' BackupAndRestore for a Trainer: its folder, and when it saves; of the Trainer, all that it goes on from.

    Where a fit was killed, the same fit goes on from its last backup and ends with the weights of one that was not,
    also where the backup is of the middle of an epoch. A fit that ends by an error keeps its backup, as in Keras.

    Args:
      callback: a ``keras.callbacks.BackupAndRestore``.
      trainer: the Trainer that is being fitted. Of several workers the first one writes, and all restore.

    Attributes:
      keeps: whether the backup stays when the training is over.
    """

    def __init__(self, callback: Any, trainer: Any):
        double = getattr(callback, "double_checkpoint", False)
        super().__init__(str(callback.backup_dir), trainer, keep=2 if double else 1)
        frequency = getattr(callback, "save_freq", "epoch")  # Keras 2 knows no other
        self.by_epoch = frequency == "epoch"
        self.every = 0 if self.by_epoch else int(frequency)
        self.keeps = not getattr(callback, "delete_checkpoint", True)
        self._writes = trainer.device.exchange.shards[0][0] == 0
        self._begun = 0

    def restore(self, steps_per_epoch: int) -> Optional[Any]:
        """Gives the Trainer what the folder has of it; the place to go on at, or None.

        Raises:
          ValueError: the folder holds the backup of another training, or of a ``model.fit``; nothing was changed.
        """
        other = [self.folder / name for name in ("latest.weights.h5", "chief") if (self.folder / name).exists()]
        if other:
            raise ValueError(f"{other[0]} is the backup of a model.fit: give Trainer.fit a folder of its own")
        found = newest(self.folder)
        if found is None:
            return None
        found.progress.within(steps_per_epoch)
        return restore(self.trainer, found)

    def on_train_begin(self, logs: Any = None) -> None:
        self._begun = self.trainer.step
        if self._writes:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._held.enter_context(locked(self.folder))
            clean(self.folder)
            self._kept = list(reversed(listed(self.folder)))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._writes and self.every and (self.trainer.step - self._begun) % self.every == 0:
            self._save()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self._writes and self.by_epoch:
            self._save()

    def on_train_end(self, logs: Any = None) -> None:
        with self._held:
            if self._writes and not self.keeps:
                for path in (*listed(self.folder), self.folder / NAME):
                    path.unlink()
                with contextlib.suppress(OSError):  # it holds something else
                    self.folder.rmdir()
