"""Runners: a case made ready, so that ``run(n)`` does n steps and says how long they took."""

import time
from typing import Any, Optional

import numpy as np

from rbd_ipu.bench.cases import KERAS_JIT, TRAINER, WORKLOADS, Case

# So small that the network stays what it is, and all rounds do the same work.
RATE = 2.0**-30
CLASSES = 10


class Runner:
    """Something to time.

    Attributes:
      parameters: D; 0 where there are none.
      dim: d, the number of coordinates of a step; None where there are none.
      samples: random numbers that a step draws, sum_k d_k n_k over compartments; None where a step does not draw
        its directions entry by entry (sgd, hadamard, sparse).
    """

    parameters: int = 0
    dim: Optional[int] = None
    samples: Optional[int] = None

    def run(self, steps: int) -> float:
        """Does ``steps`` steps; returns seconds."""
        raise NotImplementedError


class TrainerSteps(Runner):
    """Steps by :class:`rbd_ipu.Trainer`, as every user gets them: an epoch of ``fit`` without callbacks.

    The time is that of the whole epoch, with the few milliseconds that its beginning takes.
    """

    def __init__(self, case: Case):
        from rbd_ipu import methods, models
        from rbd_ipu.training import Trainer

        network, shape = WORKLOADS[case.network]
        method = methods.create(case.method, learning_rate=RATE, **case.options())
        self._trainer = Trainer(models.build(network, shape, CLASSES), method, "cpu")
        self._data = images(shape, case.batch_size)
        self.parameters = method.size
        cut = getattr(getattr(method, "subspace", None), "compartments", None)
        if cut is not None:
            self.dim = method.dim
            if _drawn_entry_by_entry(case.distribution):
                self.samples = sum(piece.size * piece.dim for piece in cut)

    def run(self, steps: int) -> float:
        history = self._trainer.fit(self._data, steps_per_epoch=steps, epochs=1, verbose=0).history
        return history["seconds"][-1]


class KerasSteps(Runner):
    """Steps by Keras' own ``fit``, timed from the begin to the end of an epoch, as the Trainer does.

    Plain SGD is Keras' SGD, the other methods are our optimizers. The loop of the case says whether XLA compiles the
    step, a choice that only Keras 3 gives.
    """

    def __init__(self, case: Case):
        from rbd_ipu import models
        from rbd_ipu._stack import KERAS_3, keras

        class Stopwatch(keras.callbacks.Callback):
            """Measures the last epoch."""

            seconds = 0.0

            def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
                self.started = time.perf_counter()

            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                self.seconds = time.perf_counter() - self.started

        network, shape = WORKLOADS[case.network]
        self._model = models.build(network, shape, CLASSES)
        self._model.compile(
            optimizer=_optimizer(case),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            **({"jit_compile": case.loop == KERAS_JIT} if KERAS_3 else {}),
        )
        self._data = images(shape, case.batch_size)
        self._watch = Stopwatch()
        self.parameters = self._model.count_params()

    def run(self, steps: int) -> float:
        # A dataset is never shuffled by Keras; its latest releases warn unless told that this is understood.
        self._model.fit(
            self._data, steps_per_epoch=steps, epochs=1, verbose=0, shuffle=False, callbacks=[self._watch]
        )
        return self._watch.seconds


def make(case: Case) -> Runner:
    """The runner of a case.

    Raises:
      ValueError, TypeError, ImportError: the case makes no sense or cannot run here; the message says why.
    """
    return TrainerSteps(case) if case.loop == TRAINER else KerasSteps(case)


def _optimizer(case: Case) -> Any:
    from rbd_ipu import optimizers
    from rbd_ipu._stack import keras

    if case.method == "sgd":
        return keras.optimizers.SGD(RATE)
    make_one = {"rbd": optimizers.RandomBasesDescent, "fpd": optimizers.FixedProjectionDescent}[case.method]
    return make_one(RATE, **case.options())


def images(shape: Any, batch_size: int) -> Any:
    """One batch of random images and labels, over and over."""
    from rbd_ipu._stack import tf, untuned

    generator = np.random.default_rng(0)
    x = generator.random((batch_size, *shape)).astype(np.float32)
    y = generator.integers(CLASSES, size=batch_size).astype(np.int32)
    return untuned(tf.data.Dataset.from_tensors((x, y)).repeat())


def _drawn_entry_by_entry(distribution: Optional[str]) -> bool:
    from rbd_ipu.directions import DISTRIBUTIONS

    return distribution in DISTRIBUTIONS
