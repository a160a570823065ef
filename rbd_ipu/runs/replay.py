"""The replay log of a run: what stands in it, and the run's network and method again from it, without data."""

from pathlib import Path
from typing import Any, Dict, Optional

from rbd_ipu.config import resolve
from rbd_ipu.delta import weights_of
from rbd_ipu.replay import Log, ReplayError
from rbd_ipu.runs.experiment import Experiment
from rbd_ipu.runs.folder import RunFolder
from rbd_ipu.runs.resume import MAY_CHANGE


def keep(experiment: Experiment, folder: RunFolder) -> None:
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
    from rbd_ipu import devices, methods, models, training

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
