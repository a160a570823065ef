"""From settings to something that trains: data, network, method and Trainer of one run."""

import dataclasses
import hashlib
from typing import Any, Dict, NamedTuple

import numpy as np

from rbd_ipu import models
from rbd_ipu.config import Config
from rbd_ipu.errors import ConfigError, WorkersError

EVALUATION_BATCH = 256  # images at a time when nothing is learned, at most; decides memory and speed only


class Experiment(NamedTuple):
    """All parts of a run, checked and built; nothing has been trained or written.

    Attributes:
      config: the settings.
      data: the :class:`rbd_ipu.data.ImageData` or :class:`rbd_ipu.data.TextData`.
      batches: its training stream.
      model: the network.
      method: how it descends; ``method.dim`` is d and ``method.size`` is D.
      trainer: the :class:`rbd_ipu.Trainer` of all these.
    """

    config: Config
    data: Any
    batches: Any
    model: Any
    method: Any
    trainer: Any

    def fit(self, **options: Any) -> Any:
        """Trains and validates every epoch; ``options`` go to ``Trainer.fit``."""
        validation = self.evaluation("validation")
        epochs = self.config.epochs
        return self.trainer.fit(self.batches, validation=validation, epochs=epochs, **options)

    def test(self) -> Dict[str, float]:
        """Loss and accuracy on the test images, or on the test text."""
        return self.trainer.evaluate(self.evaluation("test"))

    def evaluation(self, which: str) -> Any:
        """The images of a split, to evaluate on, in batches of one size where that can be."""
        return self.data.evaluation(which, even_batch(len(getattr(self.data, which))))

    def sample(self, length: int = 200) -> str:
        """Text that a language model writes after a new line, by the seed of the run; it ends with one.

        A copy of the network writes it, where TensorFlow computes by itself: a device may be busy, or slow at this.
        """
        from rbd_ipu.gpt import generate

        config, data = self.config, self.data
        copied = models.build(config.network, data.shape, data.classes, config.seed, **config.sizes())
        copied.set_weights(self.model.get_weights())
        first = "\n" if "\n" in data.characters else data.characters[0]
        return data.decode(generate(copied, data.encode(first), length, config.seed)) + "\n"

    def fingerprint(self) -> str:
        """A SHA-256 over all images and labels (or texts) in their splits: what a resumed run must find again."""
        found = hashlib.sha256()
        for split in (self.data.train, self.data.validation, self.data.test):
            for array in split.arrays:
                found.update(f"{array.dtype} {array.shape}".encode())
                found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()

    @property
    def title(self) -> str:
        """One line that says what is trained."""
        config, method = self.config, self.method
        size = f"D = {method.size:,}"
        if method.dim < method.size:
            size = f"d = {method.dim:,} of {size}"
        rate = f"learning rate {config.learning_rate:g}"
        return f"{config.network} on {config.dataset}, {config.method}, {size}, {rate}"


def even_batch(images: int, most: int = EVALUATION_BATCH) -> int:
    """The most images at a time of which batches are equal, so that an IPU needs one program for them and not two.

    Where that is under a quarter of ``most``, it is ``most``.

    Example:
      >>> even_batch(10_000), even_batch(300), even_batch(10_007)
      (250, 150, 256)
    """
    even = next(size for size in range(min(most, images), 0, -1) if images % size == 0)
    return even if 4 * even >= min(most, images) else most


def prepare(config: Config) -> Experiment:
    """Loads the data and builds network, method and trainer.

    Raises:
      ConfigError: TensorFlow, the device or the data set is missing, or a part refuses its
        settings; the message is the part's.
      WorkersError: not all workers of a cluster have come.
    """
    try:
        from rbd_ipu import data, devices, methods, replay, training

        device = devices.open_device(config.device, **config.place())
        if device.name == "ipu" and config.source == "native":
            raise ConfigError("source=native is code for a CPU; on an IPU it must be auto, poprand or counter")
        config = dataclasses.replace(config, seed=device.shared_seed(config.seed))
    except WorkersError:
        raise
    except (ImportError, RuntimeError, ValueError) as error:  # RuntimeError: no such device here
        raise ConfigError(str(error)) from error
    try:
        images: Any = data.load(config.dataset, data_dir=config.data_dir)
        if config.context is not None:
            images = images.with_context(config.context)
        if not config.hold_out:
            images = images.joined()
        if config.batch_size > len(images.train):
            raise ConfigError(
                f"batch_size {config.batch_size} is more than the {len(images.train)} training "
                f"{images.examples} of {config.dataset}"
            )
        batches = images.batches(config.batch_size, seed=config.seed, augment=config.augment)
        with device:
            model = models.build(config.network, images.shape, images.classes, config.seed, **config.sizes())
        steps_per_epoch = batches.shard(*device.exchange.shards[0]).steps_per_epoch
        method = methods.create(config.method, **config.options(steps_per_epoch))
        log = replay.ReplayLog() if config.replay_log else None
        trainer = training.Trainer(model, method, device=device, replay_log=log)
        experiment = Experiment(config, images, batches, model, method, trainer)
        if device.exchange.workers > 1:
            device.compare({**_alike(config), "SHA-256 of the images": experiment.fingerprint()})
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise ConfigError(str(error)) from error
    return experiment


def _alike(config: Config) -> Dict[str, Any]:
    """The settings that must be the same on all workers; each may have its images in a folder of its own."""
    return {key: value for key, value in dataclasses.asdict(config).items() if key != "data_dir"}
