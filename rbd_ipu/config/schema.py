"""Every setting of a training run, once: its type, default, accepted values and meaning; and the kinds of values.

The dataclass below is what the command line offers, what ``--help`` prints, what a run folder's ``config.yaml`` holds
and what :func:`rbd_ipu.config.resolve` checks. The names in the choices are those of the package's registries,
written out so that ``--help`` need not import TensorFlow; a test compares the two.

Each kind knows its rule, says it in words and checks a value against it: ``kind.check(value)`` gives the value in its
own type, or raises a ConfigError that quotes what came and what is accepted. ``str(kind)`` is the same rule for
``--help``.
"""

import dataclasses
import difflib
import importlib
import math
import numbers
import operator
import re
from typing import Any, Dict, Iterable, Optional, Tuple

from rbd_ipu import checks
from rbd_ipu.errors import ConfigError


def instead_of(name: Any, known: Iterable[str], accepted: Optional[Iterable[str]] = None) -> str:
    """What an unknown name may stand for, and all that are accepted, which are the known ones unless given.

    Example:
      >>> instead_of("dimm", ["dim", "seed"])
      'did you mean dim? accepted: dim, seed'
    """
    known = list(known)
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}accepted: {', '.join(known if accepted is None else accepted)}"


def _quoted(value: Any) -> str:
    """A value as the user may have written it, with what it was read as."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the text {value!r}"
    if isinstance(value, (list, dict)):
        return f"a {'list' if isinstance(value, list) else 'mapping'}"
    return repr(value)


class Kind:
    """One sort of value: its ``rule`` in words, and ``read``, which gives None to refuse."""

    rule: str

    def read(self, value: Any) -> Any:
        raise NotImplementedError

    def check(self, value: Any) -> Any:
        """Returns the value in its own type.

        Raises:
          ConfigError: with the rule and what came.
        """
        result = self.read(value)
        if result is None:
            raise ConfigError(f"must be {self.rule}, not {_quoted(value)}")
        return result

    def __str__(self) -> str:
        return self.rule


class Choice(Kind):
    """One of a few names.

    Example:
      >>> Choice("cpu", "gpu").check("gpu")
      'gpu'
    """

    def __init__(self, *names: str):
        self.names: Tuple[str, ...] = names
        self.rule = " | ".join(names)

    def read(self, value: Any) -> Optional[str]:
        return value if isinstance(value, str) and value in self.names else None

    def check(self, value: Any) -> str:
        if self.read(value) is None:
            raise ConfigError(f"must be one of {', '.join(self.names)}, not {_quoted(value)}")
        return value


class ChoiceOrPath(Choice):
    """One of a few names, some with a number behind them, or the path of a file with a certain ending.

    Example:
      >>> device = ChoiceOrPath(".yaml", "cpu", "gpu", several=("gpu",))
      >>> device.check("ipu_configs/pod16.yaml"), device.check("gpu:4")
      ('ipu_configs/pod16.yaml', 'gpu:4')
    """

    def __init__(self, ending: str, *names: str, several: Tuple[str, ...] = ()):
        super().__init__(*names)
        self.ending = ending
        self.several = several
        self._accepted = [*names, *(f"{name}:N" for name in several)]
        self.rule = " | ".join([*self._accepted, f"a path that ends in {ending}"])

    def read(self, value: Any) -> Optional[str]:
        if not isinstance(value, str):
            return None
        is_path = value.endswith(self.ending) and value != self.ending
        return value if is_path or counted(value)[0] in self.several else super().read(value)

    def check(self, value: Any) -> str:
        if self.read(value) is None:
            accepted = f"{', '.join(self._accepted)} or a path that ends in {self.ending}"
            raise ConfigError(f"must be one of {accepted}, not {_quoted(value)}")
        return value


def counted(name: str) -> Tuple[str, int]:
    """A name and the number behind it, which is 1 where there is none.

    Example:
      >>> counted("gpu:4"), counted("gpu"), counted("gpu:04"), counted("a:b/c.yaml")
      (('gpu', 4), ('gpu', 1), ('gpu:04', 1), ('a:b/c.yaml', 1))
    """
    found = re.fullmatch(r"([a-z]+):([1-9][0-9]{0,2})", name)
    return (found[1], int(found[2])) if found else (name, 1)


class Integer(Kind):
    """An integer in a range; a bool and 3.0 are none."""

    def __init__(self, least: int, most: int = 2**31 - 1):
        self.least, self.most = least, most
        self.rule = f"an integer from {least}" + (f" to {most}" if most != 2**31 - 1 else "")

    def read(self, value: Any) -> Optional[int]:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            return None
        number = int(value)
        return number if self.least <= number <= self.most else None

    def check(self, value: Any) -> int:
        try:
            return super().check(value)
        except ConfigError as error:
            beyond = isinstance(value, int) and value > self.most == 2**31 - 1  # a limit that --help leaves out
            raise ConfigError(f"must be {self.rule} to {self.most}, not {value!r}") if beyond else error from None


class Real(Kind):
    """A finite number in [least, below) or [least, most], above 0 for ``positive``; integers are numbers too."""

    def __init__(self, least: float = 0.0, below: float = math.inf, positive: bool = False, most: float = math.inf):
        self.least, self.below, self.positive, self.most = least, below, positive, most
        low = "above 0" if positive else f"from {least:g}"
        high = f" and below {below:g}" if below < math.inf else f" to {most:g}" if most < math.inf else ""
        self.rule = f"a finite number {low}{high}"

    def read(self, value: Any) -> Optional[float]:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            return None
        try:
            number = float(value)
        except OverflowError:  # an integer beyond every float
            return None
        in_range = self.least <= number < self.below and number <= self.most and (number > 0 or not self.positive)
        return number if math.isfinite(number) and in_range else None


class Rate(Real):
    """A learning rate: a number above 0, which is neither 0 nor infinite in the float32 that weights are moved in."""

    def __init__(self) -> None:
        super().__init__(positive=True)
        self.rule += f" in float32, {checks.FLOAT32}"

    def read(self, value: Any) -> Optional[float]:
        number = super().read(value)
        return number if number is not None and checks.is_float32(number) else None


class Boolean(Kind):
    """A truth value; 0, 1 and words are none."""

    rule = "true | false"

    def read(self, value: Any) -> Optional[bool]:
        return value if isinstance(value, bool) else None


class Text(Kind):
    """Text that matches a form, a regular expression; ``rule`` is the form in words."""

    def __init__(self, rule: str, form: str = ".+"):
        self.rule, self.form = rule, re.compile(form)

    def read(self, value: Any) -> Optional[str]:
        return value if isinstance(value, str) and self.form.fullmatch(value) else None


class Row(Kind):
    """The name of a row of a registry: one that ``kind`` knows, or one that was added since.

    Registries need TensorFlow, which is imported for a name only that is not known here.

    Args:
      kind: of the names that come with this package, which are those in the help.
      module, find: the registry's module, and what there raises a ValueError for a name without a row.
    """

    def __init__(self, kind: Kind, module: str, find: str):
        self.kind, self.rule = kind, kind.rule
        self.names: Tuple[str, ...] = getattr(kind, "names", ())
        self._module, self._find = module, find

    def read(self, value: Any) -> Any:
        found = self.kind.read(value)
        if found is not None or not isinstance(value, str):
            return found
        try:
            operator.attrgetter(self._find)(importlib.import_module(self._module))(value)
        except (ImportError, ValueError):
            return None
        return value

    def check(self, value: Any) -> Any:
        return self.kind.check(value) if self.read(value) is None else value


WEEK = 604800.0  # in seconds
FORWARD = ("nes", "hybrid")  # the methods that learn from losses alone
COMPRESSED = "compressed"
TEXTS = ("tiny_shakespeare", "shakespeare_excerpt")  # the data sets of text, for the networks of text
OF_TEXT = ("gpt",)
SIZES = {"context": 48, "layers": 3, "width": 96, "heads": 4}  # of a network of text, where none are given
RANDOM = ("rbd", "fpd", *FORWARD, "switch")  # the methods that draw directions


def _key(
    default: Any,
    kind: Kind,
    meaning: str,
    methods: Optional[Tuple[str, ...]] = None,
    networks: Optional[Tuple[str, ...]] = None,
) -> Any:
    """A field; ``methods`` and ``networks`` name those that take the key, None stands for all of them."""
    facts = {"default": default, "kind": kind, "meaning": meaning, "methods": methods, "networks": networks}
    return dataclasses.field(metadata=facts)


@dataclasses.dataclass(frozen=True)
class Config:
    """The resolved settings of one run; :func:`rbd_ipu.config.resolve` makes and checks them.

    Keys that the run has no use for are None. ``learning_rate`` is always a number here.

    Args:
      dataset, network, method, ...: the settings, as :func:`rbd_ipu.config.describe_keys` describes them.

    Example:
      >>> from rbd_ipu.config import resolve
      >>> config = resolve({"method": "sgd", "learning_rate": 0.5})
      >>> config.dataset, config.dim, config.as_dict()["learning_rate"]
      ('digits', None, 0.5)
    """

    dataset: str = _key(
        "digits",
        Choice("digits", "mnist", "fashion_mnist", "cifar10", *TEXTS),
        "the images to train on, or the characters; digits and shakespeare_excerpt come with the package",
    )
    network: str = _key(
        "fc",
        Choice("fc", "cnn", "resnet8", "resnet32", "fc200", "lenet", *OF_TEXT),
        "the network to train: fully connected, convolutional, residual; fc200, lenet: those of Li et al. 2018; gpt: "
        "a language model, for characters",
    )
    context: Optional[int] = _key(
        None, Integer(1, 100_000), "characters that gpt sees at once; null: 48", networks=OF_TEXT
    )
    layers: Optional[int] = _key(None, Integer(1, 1_000), "of gpt; null: 3", networks=OF_TEXT)
    width: Optional[int] = _key(
        None, Integer(1, 100_000), "numbers that stand for a character in gpt; null: 96", networks=OF_TEXT
    )
    heads: Optional[int] = _key(
        None, Integer(1, 10_000), "of the attention of gpt; they must divide width; null: 4", networks=OF_TEXT
    )
    method: str = _key(
        "rbd",
        Choice("sgd", *RANDOM, "gradients", "compressed"),
        "how to descend: sgd, random bases (drawn anew), fixed projection (drawn once), evolution strategies, random "
        "bases from forward passes, rbd and sgd one after the other, in a basis of gradients, by the largest "
        "coordinates with memory; see docs/methods.md",
    )
    dim: Optional[int] = _key(
        250,
        Integer(1),
        "d, the number of directions in all; factor:F gives its own",
        (*RANDOM, "gradients"),
    )
    distribution: Optional[str] = _key(
        "normal",
        Row(
            Text(
                "normal | uniform | rademacher | bernoulli-0.5 | hadamard | groups | blocks | sparse | sparse:S",
                r"normal|uniform|rademacher|bernoulli-0\.5|hadamard|groups|blocks(:unsigned)?"
                r"|sparse(:[0-9][0-9.e+-]{0,20})?",
            ),
            "rbd_ipu.directions",
            "check_distribution",
        ),
        "what directions are drawn from; bernoulli-0.5 is biased, as first published; hadamard: "
        "orthogonal, at a cost that does not depend on dim; groups: each parameter in one direction; blocks: all D "
        "directions; sparse: one entry in S is not 0",
        RANDOM,
    )
    compartments: Optional[str] = _key(
        "global",
        Text(
            "global | even:K | layer | variable | factor:F",
            r"global|layer|variable|(even|factor):[1-9][0-9]{0,8}",
        ),
        "how the parameters are cut up, each piece with directions of its own",
        RANDOM,
    )
    normalize: Optional[str] = _key(
        "unit",
        Choice("unit", "expected", "none"),
        "directions of norm 1, divided by their expected norm, or as drawn",
        RANDOM,
    )
    source: Optional[str] = _key(
        "auto",
        Choice("auto", "counter", "native", "poprand"),
        "what draws the directions: TensorFlow ops or, on a CPU, Numba, the same numbers; the generator of an IPU",
        (*RANDOM, COMPRESSED),
    )
    orthogonalize: Optional[bool] = _key(
        False,
        Boolean(),
        "make the directions orthonormal; for dense bases of at most 1024 directions",
        ("rbd", "fpd", "switch"),
    )
    redraw_every: Optional[int] = _key(
        1,
        Integer(0),
        "steps between two draws of directions; compressed: 0 keeps the first",
        ("rbd", *FORWARD, "switch", COMPRESSED),
    )
    sigma: Optional[float] = _key(
        None,
        Real(positive=True),
        "how far weights are moved to try a direction, in the root mean square; null: 0.01 for nes, 0.002 for hybrid",
        FORWARD,
    )
    antithetic: Optional[bool] = _key(False, Boolean(), "try each direction both ways, on one mini-batch", FORWARD)
    transform: Optional[str] = _key(
        None,
        Choice("none", "rank", "range"),
        "what is made of coordinates (nes: of losses); null: rank for nes, none for the others",
        ("rbd", *FORWARD),
    )
    top_k: Optional[int] = _key(None, Integer(1), "how many coordinates to use, the largest; null: all", ("rbd",))
    accumulate: Optional[int] = _key(1, Integer(1), "sum up the coordinates of so many steps for an update", ("rbd",))
    redraw_lowest: Optional[float] = _key(
        None,
        Real(below=1.0, positive=True),
        "draw only this share anew, the directions of least use; null: all",
        ("rbd",),
    )
    sgd_layers: Optional[str] = _key(
        None,
        Text("names or patterns of layers or variables, with commas"),
        "these take SGD, the others random bases; null: none",
        ("rbd",),
    )
    sgd_below: Optional[float] = _key(
        None,
        Real(-1.0, 1.0),
        "where the correlation of the update with the gradient is lower, the step is one of SGD; null: never",
        ("rbd",),
    )
    sgd_learning_rate: Optional[float] = _key(
        None,
        Rate(),
        "of the SGD in switch, sgd_layers and sgd_below; null: the rate on record for sgd",
        ("rbd", "switch"),
    )
    first: Optional[str] = _key("rbd", Choice("rbd", "sgd"), "the method before the switch", ("switch",))
    switch_epoch: Optional[int] = _key(None, Integer(1), "switch after so many epochs; null: half", ("switch",))
    switch_step: Optional[int] = _key(None, Integer(1), "or after so many steps", ("switch",))
    gradients: Optional[str] = _key(
        "earlier",
        Choice("earlier", "present", "other"),
        "whose gradients make the basis: of the mini-batches before, with the present one, or of others",
        ("gradients",),
    )
    fraction: Optional[float] = _key(
        None,
        Real(positive=True, most=1.0),
        "of the coordinates of each block, the part that select=largest sends; null: 1/128",
        (COMPRESSED,),
    )
    select: Optional[str] = _key("largest", Choice("largest", "all"), "which coordinates are sent", (COMPRESSED,))
    memory: Optional[float] = _key(
        1.0, Real(most=1.0), "what is kept of the part that was not sent, D numbers a worker", (COMPRESSED,)
    )
    bits: Optional[str] = _key(
        "sign",
        Row(Choice("float32", "bfloat16", "int8", "sign", "sign-unbiased"), "rbd_ipu.parallel.wire", "VALUES.get"),
        "how coordinates are sent; sign: one bit each, and a scale of 8 bits a block",
        (COMPRESSED,),
    )
    update: Optional[str] = _key(
        "sign", Choice("sign", "mean"), "what the inner optimizer is given: the mean, or its sign", (COMPRESSED,)
    )
    inner: Optional[str] = _key(
        "sgd",
        Row(Choice("sgd", "adam", "adamw", "lion", "rmsprop"), "rbd_ipu.methods.base", "inner_optimizer"),
        "the optimizer that is given the updates",
        ("rbd", COMPRESSED),
    )
    state: Optional[str] = _key(
        "full",
        Choice("full", "coordinates"),
        "coordinates: the inner optimizer is given the dim coordinates instead, and keeps as few numbers",
        ("rbd",),
    )
    on_redraw: Optional[str] = _key(
        "keep",
        Choice("keep", "reset"),
        "what becomes of the state in coordinates when directions are drawn anew",
        ("rbd",),
    )
    second_moment: Optional[float] = _key(
        None,
        Real(below=1.0),
        "divide gradients by the root of a running mean of their squares with this decay, as Adam; null: not",
        (COMPRESSED,),
    )
    group_size: Optional[int] = _key(
        1,
        Integer(1, 100_000),
        "workers whose messages a leader sums up and passes on as one; 1: no groups",
        (COMPRESSED,),
    )
    group_levels: Optional[int] = _key(
        1,
        Integer(1, 16),
        "of leaders; with 2, leaders have leaders; workers / group_size^group_levels messages reach all",
        (COMPRESSED,),
    )
    momentum: float = _key(0.0, Real(0.0, 1.0), "0 for none, as in the paper")
    learning_rate: float = _key(
        None,
        Rate(),
        "null: the rate on record for dataset, network, method and dim; 2**-3 is a power of two; auto: train begins "
        "with a short search, and goes on with what it chose",
    )
    batch_size: int = _key(
        32, Integer(1, 1_000_000), "images, or windows of context characters, a step, of each worker"
    )
    epochs: int = _key(20, Integer(1), "passes over the training images, or the training text")
    seed: int = _key(0, Integer(0), "decides the weights, the batches, the augmentation and the directions")
    augment: bool = _key(True, Boolean(), "augment as the paper does (digits and texts: nothing to do)")
    hold_out: bool = _key(
        True,
        Boolean(),
        "keep the validation images out of training; false trains on them too and validates on the test images",
    )
    checkpoint_seconds: float = _key(
        60.0,
        Real(0.0),
        "save all that --resume needs this often, at the end of an epoch too, at most at 1 % of the time; "
        "0: after every call of the loop, whatever it costs",
    )
    keep_checkpoints: int = _key(3, Integer(1, 1_000_000), "how many of these stay")
    replay_log: bool = _key(
        False,
        Boolean(),
        "keep the messages of every step in replay.log, for `rbd-ipu replay`; methods rbd, fpd and compressed",
    )
    device: str = _key(
        "cpu",
        ChoiceOrPath(".yaml", "cpu", "gpu", "ipu", several=("cpu", "gpu")),
        "where to run; gpu:N: a worker on each of N GPUs, in one process (cpu:N: to try it out); ipu is one IPU, and "
        "ipu_configs/ describes others",
    )
    workers: int = _key(
        1, Integer(1, 100_000), "K processes that train together, each on its part of the data; see --workers"
    )
    simulate_workers: int = _key(1, Integer(1, 100_000), "K workers, all played by one process in turn")
    parallel: str = _key(
        "own",
        Choice("own", "shared", "same-data", "split"),
        "what workers have of their own: directions and data; data only, with coordinates averaged; directions "
        "only; dim / K of the directions",
    )
    exchange: str = _key(
        "auto",
        Choice("auto", "coordinates", "update"),
        "what workers send: dim numbers, for directions to be drawn again everywhere, or their steps of full size",
    )
    wire: str = _key(
        "float32",
        Row(Choice("float32", "float16", "bfloat16", "int8", "sign"), "rbd_ipu.parallel.plan", "WIRES.get"),
        "the precision of coordinates that are sent",
    )
    worker_timeout: float = _key(
        300.0, Real(positive=True, most=WEEK), "seconds that a worker waits for the others, a week at most"
    )
    data_dir: Optional[str] = _key(
        None,
        Text("the path of a folder"),
        "where TensorFlow Datasets keeps its data; null: $RBD_DATA_DIR, else its own place",
    )

    def __post_init__(self) -> None:
        """Refuses settings of workers that contradict each other."""
        if self.workers > 1 and self.simulate_workers > 1:
            raise ConfigError(
                f"workers={self.workers} are real ones and simulate_workers={self.simulate_workers} are played by "
                "one process; only one of them may be more than 1"
            )
        count, others = counted(self.device)[1], max(self.workers, self.simulate_workers)
        if count > 1 and others > 1:
            name = "workers" if self.workers > 1 else "simulate_workers"
            raise ConfigError(f"{self.device} is {count} workers, one on each device; {name} must be 1, not {others}")
        if self.parallel == "split" and (self.dim is None or self.dim % self.all_workers):
            raise ConfigError(
                f"parallel=split gives each of {self.all_workers} workers dim / {self.all_workers} directions; "
                f"dim must be a multiple of {self.all_workers}, not {self.dim}"
            )
        together = (self.group_size or 1) ** (self.group_levels or 1)
        if self.group_size == 1 and (self.group_levels or 1) > 1:
            raise ConfigError(f"group_levels={self.group_levels} is for groups: group_size must be 2 or more, not 1")
        if self.all_workers % together:
            raise ConfigError(
                f"group_size={self.group_size} with group_levels={self.group_levels} makes {together} workers one; "
                f"workers (or simulate_workers) must be a multiple of {together}, not {self.all_workers}"
            )
        if self.exchange == "update" and self.wire != "float32":
            raise ConfigError(f"wire={self.wire} is for coordinates; with exchange=update it must be float32")

    @property
    def all_workers(self) -> int:
        """K, real or simulated; replicas of IPUs are not among them."""
        return max(self.workers, self.simulate_workers, counted(self.device)[1])

    def place(self) -> Dict[str, Any]:
        """Where it runs, and with how many: what ``rbd_ipu.open_device`` takes beside the device's name."""
        names = ("workers", "simulate_workers", "worker_timeout", "parallel", "exchange", "wire")
        return {name: getattr(self, name) for name in names}

    def as_dict(self) -> Dict[str, Any]:
        """The settings that this run has; resolving them again gives the same Config."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}

    def sizes(self) -> Dict[str, int]:
        """What ``rbd_ipu.models.build`` takes beside the shape: of a network of text, its sizes."""
        return {name: getattr(self, name) for name in SIZES if name != "context" and self.network in OF_TEXT}

    def options(self, steps_per_epoch: int = 1) -> Dict[str, Any]:
        """The settings of the method: what ``rbd_ipu.methods.create`` takes beside its name.

        Args:
          steps_per_epoch: with which an epoch to switch at becomes a step.
        """
        names = [field.name for field in dataclasses.fields(self) if field.metadata["methods"]]
        names += ["momentum", "learning_rate", *(["seed"] if self.method in (*RANDOM, COMPRESSED) else [])]
        taken = {name: value for name, value in self.as_dict().items() if name in names}
        if self.parallel == "split":
            taken["dim"] //= self.all_workers
        if "switch_epoch" in taken:
            taken["switch_step"] = taken.pop("switch_epoch") * steps_per_epoch
        return taken


def fits(network: str, key: str) -> bool:
    """Whether a network has a use for a key.

    Example:
      >>> fits("fc", "width"), fits("gpt", "width"), fits("fc", "epochs")
      (False, True, True)
    """
    networks = FIELDS[key]["networks"]
    return networks is None or network in networks


FIELDS = {field.name: field.metadata for field in dataclasses.fields(Config)}


def takes(method: str, key: str) -> bool:
    """Whether a method has a use for a key.

    Args:
      method: its name.
      key: the name of a setting.

    Example:
      >>> takes("sgd", "dim"), takes("rbd", "dim"), takes("sgd", "epochs")
      (False, True, True)
    """
    methods = FIELDS[key]["methods"]
    return methods is None or method in methods
