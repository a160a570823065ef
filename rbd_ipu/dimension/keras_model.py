"""``rbd_ipu.intrinsic_dimension``: the search for users' own Keras models and data, by the Trainer."""

import contextlib
import hashlib
import json
import math
import numbers
import time
import warnings
import weakref
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np

from rbd_ipu import checks, files
from rbd_ipu.dimension import report
from rbd_ipu.dimension.search import FINISHED, NOT_FINITE, START, IntrinsicDimension, Order, Run, search
from rbd_ipu.errors import ConfigError, NonFiniteError

METHODS = ("fpd", "rbd")
RUNS = "runs.jsonl"  # a line for each run that is done


def intrinsic_dimension(
    build_model: Callable[[int], Any],
    train: Any,
    validation: Any,
    epochs: int,
    share: float = 0.9,
    method: str = "fpd",
    distribution: str = "hadamard",
    learning_rates: Optional[Sequence[float]] = None,
    full_learning_rates: Optional[Sequence[float]] = None,
    seeds: Union[int, Sequence[int]] = 0,
    tolerance: float = 0.1,
    least: int = 1,
    greatest: Optional[int] = None,
    also: Sequence[int] = (),
    batch_size: int = 32,
    loss: Optional[Any] = None,
    device: Any = "cpu",
    folder: Optional[Union[str, Path]] = None,
    verbose: bool = False,
    **options: Any,
) -> IntrinsicDimension:
    """The smallest d whose random subspace reaches a share of the full space's accuracy.

    Section 2 of Li, Farkhoor, Liu and Yosinski 2018, "Measuring the Intrinsic Dimension of Objective Landscapes"
    (https://arxiv.org/abs/1804.08838), trains a network of D parameters in a subspace of d random directions::

        theta = theta_0 + P c    theta_0 [D]: fresh weights; P [D, d]: fixed, from the seed; c [d]: trained, from 0
        d_int(share) = the smallest d with accuracy(d) >= share * accuracy(full space)

    With share = 0.9 this is their d_int90. An accuracy is that on the validation data after the last epoch, in the
    mean over the seeds, at the best learning rate that was tried. SGD trains the full space.

    The search measures the full space, then d by bisection: over powers of two, then at geometric means, until the
    answer is known to a relative ``tolerance``. For D = 200,000 that is about 8 values of d, of 1 to 4 runs each.
    Li et al. train c by Adam; here it is SGD, with a momentum if you give one.

    Args:
      build_model: gets a seed (an int) and gives a new, built Keras model. The same seed must give the same weights:
        pass it to the initializers. A model that was compiled keeps its loss; its metrics must include "accuracy".
      train: arrays (x, y), a :class:`rbd_ipu.data.Batches` or a ``tf.data.Dataset``, as for
        :meth:`rbd_ipu.Trainer.fit`.
      validation: arrays (x, y) or a ``tf.data.Dataset``.
      epochs: of every run.
      share: of the accuracy of the full space, above 0 and at most 1. Default 0.9.
      method: "fpd", a fixed subspace as above; or "rbd", one that is drawn anew at every step. Default "fpd".
      distribution: of the directions, as for :class:`rbd_ipu.RandomBasis`. Default "hadamard", whose cost does not
        depend on d.
      learning_rates: those to try at every d, in this order, until one reaches the share. None walks over powers of
        two from a likely one: that of the nearest d, corrected by the square root of the ratio of the two d.
      full_learning_rates: those to try in the full space, all of them. None walks over powers of two from 2**-4.
      seeds: an int or several: of the model, the directions and the order of arrays (``Batches`` have an order of
        their own). The first one looks for the learning rate, the others are run at the best one. Default 0.
      tolerance: how far above the true d the answer may be, relative. Default 0.1; 0 searches to the last number.
      least, greatest: the range of d. Default 1 and D.
      also: further d to measure, for the curve.
      batch_size: for arrays only. Default 32.
      loss: as for :class:`rbd_ipu.Trainer`: by default the model's own, else softmax cross entropy of logits.
      device: as for :class:`rbd_ipu.Trainer`. Default "cpu".
      folder: keeps every run that is done, ``dimension.json``, ``curve.csv`` and ``curve.png``; the same call goes on
        there and repeats no run. None keeps nothing. Another network, or other arrays, are noticed; of a
        ``tf.data.Dataset`` only its number of batches and their types, and not what functions of your own do.
      verbose: whether to print a line for each run and the result. Default False.
      **options: further ones of the method, see :func:`rbd_ipu.methods.create`; the full space has those that SGD
        takes too, such as ``momentum``.

    Returns:
      An ``IntrinsicDimension``. ``dim`` is d, or None where no d reaches the share; ``full`` the point of the full
      space; ``curve`` a point for each d that was measured, with ``dim``, ``learning_rate``, ``accuracy``, ``std``,
      ``n`` and others. A run that diverged is in ``runs`` with the outcome "not finite", and counts as a rate that
      does not work.

    Raises:
      TypeError, ValueError: an argument is wrong, the model measures no accuracy, or the folder holds something else
        or a search with other settings. Nothing has been trained or written then, except that a missing accuracy is
        noticed after the first run.

    Example:
      >>> import rbd_ipu
      >>> from rbd_ipu import data, models
      >>> digits = data.load("digits")
      >>> result = rbd_ipu.intrinsic_dimension(
      ...     lambda seed: models.build("fc", (8, 8, 1), seed=seed),
      ...     digits.batches(32), (digits.validation.images, digits.validation.labels),
      ...     epochs=2, learning_rates=[4.0], full_learning_rates=[0.25], greatest=512, tolerance=1.0,
      ... )
      >>> result.below < result.dim <= 512, result.size, len(result.curve) > 2
      (True, 9610, True)
    """
    if not callable(build_model):
        raise TypeError(f"build_model must be a function from a seed to a built Keras model, got {build_model!r}")
    epochs = checks.positive_int("epochs", epochs)
    batch_size = checks.positive_int("batch_size", batch_size)
    share = positive("share", share, 1.0)
    tolerance = checks.finite_float("tolerance", tolerance, 0.0, 1.0)
    checks.one_of("method", method, METHODS)
    checks.flag("verbose", verbose)
    all_seeds = _seeds(seeds)
    rates, full_rates = _rates("learning_rates", learning_rates), _rates("full_learning_rates", full_learning_rates)

    from rbd_ipu._compat import keras
    from rbd_ipu.data.inputs import feed, in_order
    from rbd_ipu.methods import create
    from rbd_ipu.methods.base import METHODS as ROWS
    from rbd_ipu.methods.base import options_of
    from rbd_ipu.training import Trainer

    of_sgd = {name: value for name, value in options.items() if name in options_of(ROWS.get("sgd"))[0]}
    feed(train, batch_size, all_seeds[0])
    in_order(validation, batch_size)

    last: List[Any] = []

    def build(seed: int) -> Any:
        model = build_model(seed)
        if last and last[0]() is model and model is not None:
            raise ValueError("build_model gave the model that it gave before: it must build a new one at each call")
        if isinstance(model, keras.Model):
            last[:] = [weakref.ref(model)]
        return model

    def trainer(order: Order) -> Any:
        if order.dim is None:
            chosen = create("sgd", learning_rate=order.learning_rate, **of_sgd)
        else:
            own = {"dim": order.dim, "distribution": distribution, "seed": order.seed, **options}
            chosen = create(method, learning_rate=order.learning_rate, **own)
        return Trainer(build(order.seed), chosen, device, loss)

    first = trainer(Order(None, 1.0, all_seeds[0]))
    size, network = first.method.size, described(first.model)
    del first
    least, greatest, also = dimensions(size, least, greatest, also)
    for dim in sorted({least, greatest, *also}):
        trainer(Order(dim, 1.0, all_seeds[0]))

    def made(order: Order) -> Run:
        began, outcome = time.perf_counter(), FINISHED
        try:
            data = {"batch_size": batch_size, "seed": order.seed}
            history = trainer(order).fit(train, validation, epochs, verbose=0, **data).history
        except NonFiniteError as error:
            history, outcome = error.history.history, NOT_FINITE
        done = len(history.get("loss", []))
        if outcome == FINISHED and "val_accuracy" not in history:
            has = ", ".join(name[4:] for name in history if name.startswith("val_"))
            raise ValueError(
                f'the model must measure "accuracy" on the validation data, and measures {has}: compile it with '
                'metrics=["accuracy"]'
            )
        accuracy = history["val_accuracy"][-1] if outcome == FINISHED else math.nan
        return Run(*order, outcome, float(accuracy), done, time.perf_counter() - began)

    def say(text: str) -> None:
        if verbose:
            print(text, flush=True)

    looked_for: Dict[str, Any] = {
        "size": size, "share": share, "seeds": all_seeds, "tolerance": tolerance, "least": least,
        "greatest": greatest, "also": also, "rates": rates, "full_rates": full_rates, "start": START,
    }  # fmt: skip
    if folder is None:
        return _last(search(lambda orders: [_said(made(order), say) for order in orders], **looked_for), None, say)
    decisive = {
        "method": method, "distribution": distribution, "epochs": epochs, "batch_size": batch_size, "size": size,
        "options": {name: repr(value) for name, value in sorted(options.items())},
        "loss": loss if loss is None or isinstance(loss, str) else type(loss).__name__,
        "network": network, "train": fingerprint(train), "validation": fingerprint(validation),
    }  # fmt: skip
    settings = {**decisive, **looked_for, "seeds": list(all_seeds)}
    title = f"{method.upper()} in d of D = {size:,} parameters, {epochs} epochs"
    command = "rbd_ipu.intrinsic_dimension"
    with report.opened(Path(folder), title, settings, decisive, command, "folder") as record:
        kept = Kept(record.path / RUNS)
        results = search(lambda orders: [kept.run(order, made, say) for order in orders], **looked_for)
        return _last(results, record, say)


def _last(results: Any, record: Optional[report.Record], say: Callable[[str], None]) -> IntrinsicDimension:
    """The last of the results; each is written as it comes."""
    for result in results:
        if record is not None:
            record.write(result)
    say(f"\n{report.table(result)}\n\n{report.answer(result)}")
    return result


def _said(run: Run, say: Callable[[str], None], more: str = "") -> Run:
    say(report.line(run) + more)
    return run


class Kept:
    """Runs that are done, a line of JSON each, on disk before the next one begins."""

    def __init__(self, path: Path):
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        rows = []
        for number, text in enumerate(lines, start=1):
            try:
                rows.append(Run(**json.loads(text)))
            except (ValueError, TypeError) as error:
                raise ConfigError(
                    f"{path}: line {number} is damaged ({error}): take it out, and its run is made again"
                ) from None
        self.runs = {row.order: row._replace(accuracy=_number(row.accuracy)) for row in rows}

    def run(self, order: Order, make: Callable[[Order], Run], say: Callable[[str], None]) -> Run:
        """The run as it was kept, or a new one."""
        if order in self.runs:
            return _said(self.runs[order], say, " (kept)")
        self.runs[order] = made = make(order)
        files.write_text(self.path, "".join(files.line(one._asdict()) for one in self.runs.values()))
        return _said(made, say)


def _number(value: Optional[float]) -> float:
    return math.nan if value is None else value


def positive(name: str, value: Any, most: float = math.inf) -> float:
    """``value`` as a finite float above 0, and at most ``most``.

    Raises:
      TypeError: it is no number.
      ValueError: it is out of range.
    """
    accepted = "a finite number above 0" if most == math.inf else f"a number above 0 and at most {most:g}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be {accepted}, got {value!r}")
    try:
        number = float(value)
    except OverflowError:  # an integer beyond every float
        number = math.inf
    if not (math.isfinite(number) and 0 < number <= most):
        raise ValueError(f"{name} must be {accepted}, got {value!r}")
    return number


def _several(name: str, values: Any, what: str) -> List[Any]:
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
        raise TypeError(f"{name} must be a list of {what}, got {values!r}")
    found = list(values)
    if not found or len(set(found)) < len(found):
        raise ValueError(f"{name} must be one or more different {what}, got {values!r}")
    return found


def _seeds(values: Any) -> Tuple[int, ...]:
    given = [values] if isinstance(values, numbers.Integral) else _several("seeds", values, "integers")
    return tuple(checks.seed(value) for value in given)


def _rates(name: str, values: Any) -> Optional[List[float]]:
    if values is None:
        return None
    return [positive(f"each of {name}", value) for value in _several(name, values, "numbers above 0")]


def dimensions(size: int, least: Any, greatest: Any, also: Any) -> Tuple[int, int, List[int]]:
    """The range of d and the further ones, checked against D.

    Raises:
      TypeError: one is no integer.
      ValueError: one is not from 1 to D, or they are in the wrong order.

    Example:
      >>> dimensions(100, 1, None, [50])
      (1, 100, [50])
    """
    greatest = size if greatest is None else greatest
    also = list(also) if hasattr(also, "__iter__") and not isinstance(also, str) else [also]
    for name, value in [("least", least), ("greatest", greatest), *(("also", dim) for dim in also)]:
        if checks.positive_int(name, value) > size:
            raise ValueError(f"{name} must be an integer from 1 to D = {size:,}, got {value!r}")
    if least > greatest:
        raise ValueError(f"least must be at most greatest, got least={least!r} and greatest={greatest!r}")
    return int(least), int(greatest), [int(dim) for dim in also]


def described(model: Any) -> str:
    """SHA-256 of a model's configuration and compiled loss, whatever its layers are called; else of its class."""
    loss: Any = getattr(model, "loss", None)
    parts: List[Any] = [type(model).__name__, loss.get_config() if hasattr(loss, "get_config") else loss]
    with contextlib.suppress(NotImplementedError), warnings.catch_warnings():  # a subclass of Keras 2
        warnings.simplefilter("ignore")  # Keras 2 warns of layers with masks that it could not load
        parts.append(model.get_config())
    # Keras numbers the names of its layers as it goes: here they are numbered from 0.
    parts = json.loads(json.dumps(parts, default=lambda part: type(part).__name__))
    names: Dict[str, str] = {}

    def name_in(part: Any) -> None:
        if isinstance(part, dict):
            if isinstance(part.get("name"), str) and len(part) > 1:  # a policy of precision is its name alone
                names.setdefault(part["name"], f"#{len(names)}")
            for own in part.values():
                name_in(own)
        elif isinstance(part, list):
            for own in part:
                name_in(own)

    def plain(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: plain(own) for key, own in part.items()}
        if isinstance(part, list):
            return [plain(own) for own in part]
        return names.get(part, part) if isinstance(part, str) else part

    name_in(parts)
    return hashlib.sha256(json.dumps(plain(parts), sort_keys=True).encode()).hexdigest()


def fingerprint(data: Any) -> Optional[str]:
    """SHA-256 of arrays in tuples, lists and dicts; None for data of another kind, which is not looked at.

    Of a :class:`rbd_ipu.data.Batches` its settings count, too. Of a ``tf.data.Dataset``, its number of batches and
    what is in one, in words.
    """
    found = hashlib.sha256()
    if hasattr(data, "made_of"):
        data, words = data.made_of
        found.update(words.encode())
    elif hasattr(data, "element_spec") and hasattr(data, "cardinality"):
        return f"{int(data.cardinality())} batches of {data.element_spec}"

    def add(part: Any) -> bool:
        if isinstance(part, dict):
            return all(add(part[key]) for key in sorted(part))
        if isinstance(part, (tuple, list)) and not all(isinstance(item, numbers.Number) for item in part):
            return all(add(item) for item in part)
        if isinstance(part, (np.ndarray, list, tuple)) or hasattr(part, "numpy"):
            array = np.ascontiguousarray(part)
            found.update(f"{array.dtype} {array.shape}".encode())
            found.update(array.data)
            return True
        return False

    return found.hexdigest() if add(data) else None
