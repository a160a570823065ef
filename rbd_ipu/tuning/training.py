"""Trains one rate, on three quarters of the training images; the rest says how good it is."""

import dataclasses
import time
from typing import Any

from rbd_ipu.config import Config, ConfigError
from rbd_ipu.experiment import Experiment, prepare
from rbd_ipu.tuning.trial import FINISHED, NOT_FINITE, STOPPED, Trial, hopeless

HELD_OUT = 0.25  # of the training images (Section C.1)


def prepared(config: Config) -> Experiment:
    """The experiment of a Config, with a quarter of its training images in the place of its validation images.

    Neither the validation images nor the test images take part.

    Raises:
      ConfigError: as :func:`rbd_ipu.experiment.prepare`, or fewer images are left than a batch takes.
    """
    experiment = prepare(config)
    data = experiment.data.for_tuning(HELD_OUT)
    if config.batch_size > len(data.train):
        raise ConfigError(
            f"batch_size {config.batch_size} is more than the {len(data.train)} images of {config.dataset} that are "
            "left to train on, a quarter of them being held out"
        )
    batches = data.batches(config.batch_size, seed=config.seed, augment=config.augment)
    return experiment._replace(data=data, batches=batches)


def train(config: Config, exponent: int, again: bool = False) -> Trial:
    """Trains at the rate 2**exponent, whatever rate the Config has.

    Args:
      config: the settings; its epochs are those of a trial.
      exponent: of the rate.
      again: without stopping early, for a rate that was stopped and might yet win.

    Raises:
      ConfigError: see :func:`prepared`.
    """
    from rbd_ipu.training import NonFiniteError

    began = time.perf_counter()
    experiment = prepared(dataclasses.replace(config, learning_rate=2.0**exponent))
    held_out = experiment.evaluation("validation")
    initial = experiment.trainer.evaluate(held_out)["loss"]
    stop = _stop_when_hopeless(initial, config.epochs)
    try:
        history = experiment.fit(callbacks=[] if again else [stop], verbose=0)
        outcome = STOPPED if stop.given_up else FINISHED
    except NonFiniteError as error:
        history, outcome = error.history, NOT_FINITE
    logs = history.history
    return Trial(
        exponent=exponent,
        outcome=outcome,
        initial_loss=initial,
        losses=[float(loss) for loss in logs.get("val_loss", [])],
        accuracies=[float(accuracy) for accuracy in logs.get("val_accuracy", [])],
        train_losses=[float(loss) for loss in logs.get("loss", [])],
        epochs=config.epochs,
        seconds=time.perf_counter() - began,
        again=again,
    )


def _stop_when_hopeless(initial: float, epochs: int) -> Any:
    """The Keras callback that ends the training by the rule of :func:`rbd_ipu.tuning.hopeless`."""
    from rbd_ipu._stack import keras

    class StopWhenHopeless(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.losses: Any = []
            self.train_losses: Any = []
            self.given_up = False

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.losses.append(logs["val_loss"])
            self.train_losses.append(logs["loss"])
            if hopeless(initial, self.losses, self.train_losses, epochs):
                self.given_up = self.model.stop_training = True

    return StopWhenHopeless()
