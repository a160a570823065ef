"""Every setting of a training run, once: its type, default, accepted values and meaning.

The dataclass below is what the command line offers, what ``--help`` prints, what a run folder's
``config.yaml`` holds and what :func:`rbd_ipu.config.resolve` checks. The names in the choices are
those of the package's registries, written out so that ``--help`` need not import TensorFlow; a test
compares the two.
"""

import dataclasses
from typing import Any, Dict, Optional, Tuple

from rbd_ipu.config.kinds import Boolean, Choice, Integer, Kind, Real, Text

RANDOM = ("rbd", "fpd")  # the methods that draw directions


def _key(default: Any, kind: Kind, meaning: str, methods: Optional[Tuple[str, ...]] = None) -> Any:
    """A field; ``methods`` names the methods that take the key, None stands for all of them."""
    facts = {"default": default, "kind": kind, "meaning": meaning, "methods": methods}
    return dataclasses.field(metadata=facts)


@dataclasses.dataclass(frozen=True)
class Config:
    """The resolved settings of one run; :func:`rbd_ipu.config.resolve` makes and checks them.

    Keys that the run has no use for are None. ``learning_rate`` is always a number here.
    """

    dataset: str = _key(
        "digits",
        Choice("digits", "mnist", "fashion_mnist", "cifar10"),
        "the images to train on; digits comes with the package",
    )
    network: str = _key("fc", Choice("fc", "cnn"), "the network to train: fully connected or convolutional")
    method: str = _key(
        "rbd",
        Choice("sgd", *RANDOM),
        "how to descend: sgd, random bases (drawn anew), fixed projection (drawn once)",
    )
    dim: Optional[int] = _key(
        250, Integer(1), "d, the number of random directions in all; factor:F gives its own", RANDOM
    )
    distribution: Optional[str] = _key(
        "normal",
        Text(
            "normal | uniform | rademacher | bernoulli-0.5 | hadamard | sparse | sparse:S",
            r"normal|uniform|rademacher|bernoulli-0\.5|hadamard|sparse(:[0-9][0-9.e+-]{0,20})?",
        ),
        "what directions are drawn from; bernoulli-0.5 is biased, as first published; hadamard: "
        "orthogonal, at a cost that does not depend on dim; sparse: one entry in S is not 0",
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
        Choice("auto", "counter", "native"),
        "what draws the directions: TensorFlow ops or, on a CPU, Numba; the same numbers",
        RANDOM,
    )
    orthogonalize: Optional[bool] = _key(
        False, Boolean(), "make the directions orthonormal; for dense bases of at most 1024 directions", RANDOM
    )
    redraw_every: Optional[int] = _key(1, Integer(1), "steps between two draws of directions", ("rbd",))
    momentum: float = _key(0.0, Real(0.0, 1.0), "0 for none, as in the paper")
    learning_rate: float = _key(
        None,
        Real(positive=True),
        "null: the rate on record for dataset, network, method and dim; 2**-3 is a power of two",
    )
    batch_size: int = _key(32, Integer(1, 1_000_000), "images a step")
    epochs: int = _key(20, Integer(1), "passes over the training images")
    seed: int = _key(0, Integer(0), "decides the weights, the batches, the augmentation and the directions")
    augment: bool = _key(True, Boolean(), "augment as the paper does (digits: nothing to do)")
    hold_out: bool = _key(
        True,
        Boolean(),
        "keep the validation images out of training; false trains on them too and validates on the test images",
    )
    device: str = _key("cpu", Choice("cpu", "gpu"), "where to run")
    data_dir: Optional[str] = _key(
        None,
        Text("the path of a folder"),
        "where TensorFlow Datasets keeps its data; null: $RBD_DATA_DIR, else its own place",
    )

    def as_dict(self) -> Dict[str, Any]:
        """The settings that this run has; resolving them again gives the same Config."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}

    def options(self) -> Dict[str, Any]:
        """The settings of the method: what ``rbd_ipu.methods.create`` takes beside its name."""
        names = [field.name for field in dataclasses.fields(self) if field.metadata["methods"]]
        names += ["momentum", "learning_rate", *(["seed"] if self.method in RANDOM else [])]
        return {name: value for name, value in self.as_dict().items() if name in names}


FIELDS = {field.name: field.metadata for field in dataclasses.fields(Config)}


def takes(method: str, key: str) -> bool:
    """Whether a method has a use for a key.

    Example:
      >>> takes("sgd", "dim"), takes("rbd", "dim"), takes("sgd", "epochs")
      (False, True, True)
    """
    methods = FIELDS[key]["methods"]
    return methods is None or method in methods
