"""What can be timed, and how: cases made ready, and timed in rounds, taking turns.

A case that is ready has ``run(n)``, which does n steps and says how long they took.

The ceiling of a distribution is the speed of :meth:`rbd_ipu.RandomBasis.sketch` (draw d D numbers, take their dot
products with a vector, add them up) without a network around it, for the fastest source, in its fastest round. Peak
memory of a case is that of a process of its own: ``python -m rbd_ipu.lab.bench.runners CASE-AS-JSON``.
"""

import itertools
import json
import random
import subprocess
import sys
import time
from typing import (
    Any,
    Callable,
    Dict,
    Hashable,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
)

import numpy as np

from rbd_ipu import models
from rbd_ipu.compartments import parse_scheme
from rbd_ipu.errors import ConfigError
from rbd_ipu.process import for_children
from rbd_ipu.provenance import machine

# Name -> network and shape of its images.
WORKLOADS: Dict[str, Tuple[str, Tuple[int, int, int]]] = {
    f"{network}-{images}": (network, shape)
    for images, shape in (("digits", (8, 8, 1)), ("mnist", (28, 28, 1)), ("cifar10", (32, 32, 3)))
    for network in ("fc", "cnn")
}

# Who runs the steps: our Trainer, or Keras' ``fit`` as a plain graph or compiled by XLA.
TRAINER, KERAS, KERAS_JIT = "trainer", "keras", "keras-jit"


class Case(NamedTuple):
    """One kind of step.

    Attributes:
      network: a key of WORKLOADS.
      method: a row of the registry of methods.
      dim, distribution, source, compartments: options of the method; None where it takes none.
      batch_size: images a step.
      loop: TRAINER, KERAS or KERAS_JIT.

    Example:
      >>> print(Case("cnn-cifar10", "rbd", dim=10000, distribution="normal", source="native"))
      cnn-cifar10 rbd d=10,000 normal native
    """

    network: str
    method: str
    dim: Optional[int] = None
    distribution: Optional[str] = None
    source: Optional[str] = None
    compartments: Optional[str] = None
    batch_size: int = 32
    loop: str = TRAINER

    def options(self) -> Dict[str, Any]:
        """What the method is told beside its learning rate."""
        names = ("dim", "distribution", "source", "compartments")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def __str__(self) -> str:
        words = [self.network, self.method]
        words += [f"d={self.dim:,}"] if self.dim else []
        words += [word for word in (self.distribution, self.source) if word]
        words += [self.compartments] if self.compartments not in (None, "global") else []
        words += {TRAINER: [], KERAS: ["by Keras fit"], KERAS_JIT: ["by Keras fit, XLA"]}[self.loop]
        return " ".join(words)

    @property
    def baseline(self) -> "Case":
        """The plain SGD step that this case is compared with."""
        return Case(self.network, "sgd", batch_size=self.batch_size)


class Choices(NamedTuple):
    """The values to combine; ``dims`` is None where the user has named none."""

    networks: Sequence[str]
    methods: Sequence[str]
    distributions: Sequence[str]
    sources: Sequence[str]
    compartments: Sequence[str]
    dims: Optional[Sequence[int]] = None
    batch_size: int = 32


DEFAULT_DIMS = (10, 250, 10_000)


def grid(choices: Choices) -> List[Case]:
    """All sensible combinations, each once, with a plain SGD step for each network.

    Raises:
      ConfigError: an unknown name, or dims that nothing chosen takes; quotes what is accepted.
    """
    check(choices)
    cases: List[Case] = []
    for network in choices.networks:
        cases.append(Case(network, "sgd", batch_size=choices.batch_size))
        for method in choices.methods:
            plain = Case(network, method, batch_size=choices.batch_size)
            cases += [plain._replace(**options) for options in _options(method, choices)]
    if choices.dims is not None and all(case.dim is None for case in cases):
        raise ConfigError(
            f"--dims {','.join(map(str, choices.dims))}: nothing takes them: method sgd has no directions, "
            "and compartments factor:F fix their number"
        )
    return list(dict.fromkeys(cases))


def _options(method: str, choices: Choices) -> Iterable[Dict[str, Any]]:
    """Combinations of the options that a method takes."""
    from rbd_ipu.directions import resolve
    from rbd_ipu.methods import METHODS
    from rbd_ipu.methods.base import options_of

    accepted, _ = options_of(METHODS.get(method))
    dims: Sequence[Optional[int]] = DEFAULT_DIMS if choices.dims is None else choices.dims
    sources = [resolve(source) for source in choices.sources]
    order = itertools.product(choices.distributions, sources, choices.compartments, dims)
    for distribution, source, compartments, dim in order:
        options = {
            "dim": None if compartments.startswith("factor:") else dim,
            "distribution": distribution,
            "source": source,
            "compartments": compartments,
        }
        yield {name: value for name, value in options.items() if name in accepted}


def check(choices: Choices) -> None:
    """Refuses unknown names before anything is built."""
    from rbd_ipu.directions import check_distribution, resolve
    from rbd_ipu.methods import METHODS

    for option, check_name in (
        ("networks", _check_network),
        ("methods", METHODS.get),
        ("distributions", check_distribution),
        ("sources", resolve),
        ("compartments", parse_scheme),
    ):
        for name in getattr(choices, option):
            try:
                check_name(name)
            except ValueError as error:
                raise ConfigError(f"--{option}: {error}") from None


def _check_network(name: str) -> None:
    if name not in WORKLOADS:
        raise ValueError(f"unknown network {name!r}; accepted: {', '.join(map(repr, WORKLOADS))}")


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
        from rbd_ipu import methods
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
        from rbd_ipu._compat import KERAS_3, keras

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
    from rbd_ipu._compat import keras

    if case.method == "sgd":
        return keras.optimizers.SGD(RATE)
    make_one = {"rbd": optimizers.RandomBasesDescent, "fpd": optimizers.FixedProjectionDescent}[case.method]
    return make_one(RATE, **case.options())


def images(shape: Any, batch_size: int) -> Any:
    """One batch of random images and labels, over and over."""
    from rbd_ipu._compat import tf, untuned

    generator = np.random.default_rng(0)
    x = generator.random((batch_size, *shape)).astype(np.float32)
    y = generator.integers(CLASSES, size=batch_size).astype(np.int32)
    return untuned(tf.data.Dataset.from_tensors((x, y)).repeat())


def _drawn_entry_by_entry(distribution: Optional[str]) -> bool:
    from rbd_ipu.directions import DISTRIBUTIONS

    return distribution in DISTRIBUTIONS


Key = TypeVar("Key", bound=Hashable)

LEAST_STEPS = 3


class Times(NamedTuple):
    """What the rounds gave.

    Attributes:
      seconds: for each runner its seconds a step, one number a round.
      steps: for each runner the steps of a burst.
      complete: False if the user stopped the rounds early.
    """

    seconds: Dict[Any, List[float]]
    steps: Dict[Any, int]
    complete: bool


def burst(runner: Any, seconds: float) -> int:
    """How many steps last about ``seconds``, at least 3; the first steps, which compile, are run and not counted."""
    runner.run(1)
    steps = LEAST_STEPS
    taken = runner.run(steps)
    while taken < seconds / 2:
        # A short burst tells little of a long one, which pays for its beginning once: go up in small leaps.
        steps *= max(2, min(8, int(seconds / 2 / max(taken, 1e-9))))
        taken = runner.run(steps)
    return max(LEAST_STEPS, round(steps * seconds / taken))


def measure(
    runners: Mapping[Key, Any], rounds: int, seconds: float, say: Callable[[str], None] = lambda text: None
) -> Times:
    """Times every runner once a round, in another order each time: what runs before one leaves its mark on it.

    Args:
      runners: what to time; ``run(steps) -> seconds``.
      rounds: how many.
      seconds: how long a burst of each should last.
      say: is called with a line of text on progress.

    Ctrl-C ends the measurement after the last whole round; before the first, it goes on to the caller.

    Example:
      >>> class Fixed:
      ...     def run(self, steps):
      ...         return steps / 1024
      >>> times = measure({"a": Fixed()}, rounds=2, seconds=0.5)
      >>> times.seconds["a"], times.steps["a"]
      ([0.0009765625, 0.0009765625], 512)
    """
    keys = list(runners)
    steps = {}
    for number, key in enumerate(keys, start=1):
        say(f"warming up {number}/{len(keys)}: {key}")
        steps[key] = burst(runners[key], seconds)
    whole: List[Dict[Any, float]] = []
    try:
        for r in range(rounds):
            say(f"round {r + 1}/{rounds}")
            order = random.Random(r).sample(keys, len(keys))
            whole.append({key: runners[key].run(steps[key]) / steps[key] for key in order})
    except KeyboardInterrupt:
        if not whole:
            raise
    return Times({key: [one[key] for one in whole] for key in keys}, steps, len(whole) == rounds)


# Random numbers of one sketch: enough to make all overheads small.
SAMPLES = 2.5e8


class Kernel(NamedTuple):
    """A sketch to time alone: who draws what, and D."""

    distribution: str
    source: str
    size: int

    def __str__(self) -> str:
        return f"the ceiling of {self.distribution}, {self.source}, D={self.size:,}"


class Sketch(Runner):
    """Sketches of random vectors, with new directions each time."""

    def __init__(self, kernel: Kernel, samples: float = SAMPLES):
        from rbd_ipu._compat import tf
        from rbd_ipu.basis import RandomBasis

        self.parameters = kernel.size
        self.dim = max(1, round(samples / kernel.size))
        self.samples = self.dim * kernel.size
        self._basis = RandomBasis(kernel.size, self.dim, kernel.distribution, source=kernel.source)
        self._vector = tf.constant(np.random.default_rng(0).normal(size=kernel.size).astype(np.float32))
        self._next = 0

    def run(self, steps: int) -> float:
        from rbd_ipu._compat import tf

        seeds = [tf.constant([self._next + i, 0]) for i in range(steps)]
        self._next += steps
        started = time.perf_counter()
        for seed in seeds:
            self._basis.sketch(self._vector, seed)[1].numpy()  # waits until it is there
        return time.perf_counter() - started


def kernels(cases: Iterable[Case], runners: Dict[Case, Runner]) -> List[Kernel]:
    """What has to be timed for these cases: their own kernels, and ``native`` wherever it can run."""
    from rbd_ipu.directions import native

    wanted = []
    for case in cases:
        if runners[case].samples:
            sources = [str(case.source), *(["native"] if native.available() else [])]
            wanted += [Kernel(str(case.distribution), source, runners[case].parameters) for source in sources]
    return list(dict.fromkeys(wanted))


def threads() -> int:
    """How many threads the sources may use."""
    from rbd_ipu._compat import tf
    from rbd_ipu.directions import native

    if native.available():
        from rbd_ipu.directions.native.threads import thread_count

        return thread_count()
    return tf.config.threading.get_intra_op_parallelism_threads() or machine()["usable_cores"]


MEGABYTE = 2**20
STEPS = 3


def peak_now() -> float:
    """The most memory that this process has held so far, in MB (2^20 bytes)."""
    # Linux hands ru_maxrss down from a parent through fork and exec; VmHWM begins anew.
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024 / MEGABYTE
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MEGABYTE if sys.platform == "darwin" else peak * 1024 / MEGABYTE


def peak_of(case: Case, timeout: float = 600.0) -> Optional[float]:
    """Peak memory in MB of a new process that runs a few steps of a case; None if it fails or takes too long."""
    command = [sys.executable, "-m", "rbd_ipu.lab.bench.runners", json.dumps(case._asdict())]
    try:
        done = subprocess.run(command, env=for_children(), capture_output=True, timeout=timeout, check=True)
        return float(done.stdout.split()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def main(text: str) -> None:
    """Runs a few steps of the case and prints the peak."""

    runner = make(Case(**json.loads(text)))
    runner.run(1)
    runner.run(STEPS)
    print(peak_now())


if __name__ == "__main__":
    main(sys.argv[1])
