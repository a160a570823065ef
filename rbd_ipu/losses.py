"""Losses as plain functions of a batch, and the accuracy that goes with classes."""

from typing import Any, Callable, Optional, Tuple

from rbd_ipu._stack import KERAS_3, keras, tf

#: Losses of Keras whose targets are classes, by the kind of target; an accuracy goes with them.
KINDS = {
    "sparse_categorical_crossentropy": "sparse",
    "categorical_crossentropy": "one-hot",
    "categorical_focal_crossentropy": "one-hot",
    "categorical_hinge": "one-hot",
}


def default_loss() -> Any:
    """Softmax cross entropy of logits with integer labels: what all experiments of the paper use."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def per_batch(loss: Any) -> Callable[[Any, Any], Any]:
    """``(y, outputs) -> []`` from a Keras loss: the mean over the batch, or the sum where the loss says so.

    As in Keras' own fit, labels [B] are those of outputs [B, 1], and a loss is computed in float32 at least. The
    reduction is done here: inside a strategy Keras refuses to do it in loops other than its own.

    Raises:
      TypeError: not a Keras loss, its name, or a function.
      ValueError: a loss without a reduction.
    """
    loss = keras.losses.get(loss) if isinstance(loss, str) else loss
    if not callable(loss):
        raise TypeError(f"loss must be a Keras loss, its name, or a function (y, outputs), got {loss!r}")
    check_reduction(loss)
    values = loss.call if isinstance(loss, keras.losses.Loss) else loss
    reduce = tf.reduce_sum if is_sum(loss) else tf.reduce_mean
    matched = _matched if _of_keras(loss) else _as_keras_gives_them
    return lambda y, outputs: reduce(values(*matched(y, outputs)))


def is_sum(loss: Any) -> bool:
    """Whether a loss is the sum over a batch."""
    return getattr(loss, "reduction", None) == "sum"


def is_mean(loss: Any) -> bool:
    """Whether a loss is certainly the mean over a batch: none, one of Keras', or a Loss that is no sum."""
    known = loss is None or isinstance(loss, (str, keras.losses.Loss)) or _of_keras(loss)
    return known and not is_sum(loss)


def check_reduction(loss: Any) -> None:
    """Refuses a loss that is not a number.

    Raises:
      ValueError: with what is accepted.
    """
    if isinstance(loss, keras.losses.Loss) and loss.reduction in (None, "none"):
        raise ValueError(
            f"loss {loss.name!r} has reduction {loss.reduction!r} and gives a number for each example; the Trainer "
            "descends one number: use reduction='sum_over_batch_size' or 'sum'"
        )


def kind_of_classes(loss: Any) -> Optional[str]:
    """How classes are written in the targets of a loss: "sparse" (indices) or "one-hot"; None for a regression.

    A function that Keras does not know may be of classes: "unknown", its targets tell.

    Example:
      >>> kind_of_classes(default_loss()), kind_of_classes("mse"), kind_of_classes(lambda y, outputs: 0.0)
      ('sparse', None, 'unknown')
    """
    if not (isinstance(loss, str) or _of_keras(loss)):
        return "unknown"
    short = isinstance(loss, str) and loss.lower() in ("crossentropy", "ce")  # names that only compile knows
    loss = keras.losses.get(loss) if isinstance(loss, str) and not short else loss
    names = (_snake(type(loss).__name__), getattr(getattr(loss, "fn", loss), "__name__", ""))
    return next((KINDS[name] for name in names if name in KINDS), None)


def _snake(name: str) -> str:
    return "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_")


def _of_keras(loss: Any) -> bool:
    owner = loss if hasattr(loss, "__name__") else type(loss)
    return str(owner.__module__).split(".")[0] == "keras" or str(owner.__module__).startswith(
        "tensorflow.python.keras"
    )


def _matched(y: Any, outputs: Any) -> Tuple[Any, Any]:
    """Labels of the rank of the outputs, which would otherwise be compared each with each; no half precision."""
    if not (tf.is_tensor(y) and tf.is_tensor(outputs)):
        return y, outputs  # of several outputs, for a function that knows what they are
    if outputs.dtype in (tf.float16, tf.bfloat16):
        outputs = tf.cast(outputs, tf.float32)
    if None not in (y.shape.rank, outputs.shape.rank):
        if y.shape.rank + 1 == outputs.shape.rank and outputs.shape[-1] == 1:
            y = y[..., None]
        elif y.shape.rank == outputs.shape.rank + 1 and y.shape[-1] == 1:
            y = y[..., 0]
    return y, outputs


def _as_keras_gives_them(y: Any, outputs: Any) -> Tuple[Any, Any]:
    """Targets of the rank and type that a function of the user's own gets in Keras' fit."""
    y, outputs = _matched(y, outputs)
    if not (tf.is_tensor(y) and tf.is_tensor(outputs)):
        return y, outputs
    if KERAS_3 or (y.dtype.is_floating and outputs.dtype.is_floating):
        y = tf.cast(y, outputs.dtype)
    if not KERAS_3 and y.shape.rank == 1:
        y = y[:, None]
    return y, outputs


def regularised(loss: Any, model: Any) -> Any:
    """The loss of a batch, with what the model's regularisers add to it, as of its last call: scalar."""
    if not model.losses:
        return loss
    return loss + tf.add_n([tf.cast(value, loss.dtype) for value in model.losses])


def hits(y: Any, outputs: Any, kind: Optional[str] = "unknown") -> Optional[Any]:
    """Which of a batch are classified right, float32 of the shape of the labels; None where outputs are no classes.

    Labels are integers [B, ...] or [B, ..., 1], or one-hot rows [B, ..., C]; outputs [B, ..., C] with C >= 2, logits
    or probabilities alike. ``kind`` is what :func:`kind_of_classes` says of the loss.
    """
    if kind is None or not (tf.is_tensor(y) and tf.is_tensor(outputs)):
        return None
    rank = outputs.shape.rank
    if None in (rank, y.shape.rank) or rank < 2 or (outputs.shape[-1] or 0) < 2:
        return None
    found = tf.argmax(outputs, axis=-1, output_type=tf.int32)
    if kind == "one-hot":
        if y.shape.rank != rank or y.shape[-1] != outputs.shape[-1]:
            return None
        wanted = tf.argmax(y, axis=-1, output_type=tf.int32)
    else:
        if y.shape.rank == rank and y.shape[-1] == 1:
            y = tf.squeeze(y, -1)
        if y.shape.rank != rank - 1 or (kind == "unknown" and not y.dtype.is_integer):
            return None
        wanted = tf.cast(y, tf.int32)
    return tf.cast(tf.equal(found, wanted), tf.float32)
