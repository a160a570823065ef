"""Losses as plain functions of a batch, and the accuracy that goes with classes."""

from typing import Any, Callable, Optional, Tuple

from rbd_ipu._stack import keras, tf


def default_loss() -> Any:
    """Softmax cross entropy of logits with integer labels: what all experiments of the paper use."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def loss_of(model: Any) -> Optional[Any]:
    """The loss that a model was compiled with, or None.

    Raises:
      TypeError: it is several, for outputs of their own.
    """
    loss = getattr(model, "loss", None)
    if isinstance(loss, (list, tuple, dict)):
        raise TypeError(
            f"model {model.name!r} was compiled with {len(loss)} losses; pass the Trainer one function, "
            "loss=lambda y, outputs: ..., that puts them together"
        )
    return keras.losses.get(loss) if isinstance(loss, (str, keras.losses.Loss)) or callable(loss) else None


def per_batch(loss: Any) -> Callable[[Any, Any], Any]:
    """``(y, outputs) -> []`` from a Keras loss: the mean over the batch, or the sum where the loss says so.

    As in Keras' own fit, labels [B] are those of outputs [B, 1], and a loss is computed in float32 at least. The
    reduction is done here: inside a strategy Keras refuses to do it in loops other than its own.

    Raises:
      TypeError: not a Keras loss, its name, or a function.
    """
    loss = keras.losses.get(loss) if isinstance(loss, str) else loss
    if not callable(loss):
        raise TypeError(f"loss must be a Keras loss, its name, or a function (y, outputs), got {loss!r}")
    values = loss.call if isinstance(loss, keras.losses.Loss) else loss
    reduce = tf.reduce_sum if getattr(loss, "reduction", None) == "sum" else tf.reduce_mean
    return lambda y, outputs: reduce(values(*_matched(y, outputs)))


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


def regularised(loss: Any, model: Any) -> Any:
    """The loss of a batch, with what the model's regularisers add to it, as of its last call: scalar."""
    if not model.losses:
        return loss
    return loss + tf.add_n([tf.cast(value, loss.dtype) for value in model.losses])


def hits(y: Any, outputs: Any) -> Optional[Any]:
    """Which of a batch are classified right, float32 [B]; None where the outputs are no classes.

    Labels are integers [B] or [B, 1], or one-hot rows [B, C]; outputs [B, C] with C >= 2, logits or
    probabilities alike.
    """
    if not (tf.is_tensor(y) and tf.is_tensor(outputs)) or outputs.shape.rank != 2 or (outputs.shape[-1] or 0) < 2:
        return None
    found = tf.argmax(outputs, axis=-1, output_type=tf.int32)
    if y.dtype.is_integer and (y.shape.rank == 1 or y.shape[1:] == [1]):
        wanted = tf.cast(tf.reshape(y, [-1]), tf.int32)
    elif y.shape.rank == 2 and y.shape[-1] == outputs.shape[-1]:
        wanted = tf.argmax(y, axis=-1, output_type=tf.int32)
    else:
        return None
    return tf.cast(tf.equal(found, wanted), tf.float32)
