"""Losses as plain functions of a batch, and the accuracy that goes with classes."""

from typing import Any, Callable, Optional

from rbd_ipu._stack import keras, tf


def default_loss() -> Any:
    """Softmax cross entropy of logits with integer labels: what all experiments of the paper use."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def loss_of(model: Any) -> Optional[Any]:
    """The loss that a model was compiled with, or None."""
    loss = getattr(model, "loss", None)
    return keras.losses.get(loss) if isinstance(loss, (str, keras.losses.Loss)) or callable(loss) else None


def per_batch(loss: Any) -> Callable[[Any, Any], Any]:
    """``(y, outputs) -> []`` from a Keras loss: the mean over the batch, or the sum where the loss says so.

    The reduction is done here: inside a strategy Keras refuses to do it in loops other than its own.

    Raises:
      TypeError: not a Keras loss, its name, or a function.
    """
    loss = keras.losses.get(loss) if isinstance(loss, str) else loss
    if not callable(loss):
        raise TypeError(f"loss must be a Keras loss, its name, or a function (y, outputs), got {loss!r}")
    values = loss.call if isinstance(loss, keras.losses.Loss) else loss
    reduce = tf.reduce_sum if getattr(loss, "reduction", None) == "sum" else tf.reduce_mean
    return lambda y, outputs: reduce(values(y, outputs))


def hits(y: Any, outputs: Any) -> Optional[Any]:
    """Which of a batch are classified right, float32 [B]; None where the outputs are no classes.

    Labels are integers [B] or [B, 1], or one-hot rows [B, C]; outputs [B, C] with C >= 2, logits or
    probabilities alike.
    """
    if outputs.shape.rank != 2 or (outputs.shape[-1] or 0) < 2:
        return None
    found = tf.argmax(outputs, axis=-1, output_type=tf.int32)
    if y.dtype.is_integer and (y.shape.rank == 1 or y.shape[1:] == [1]):
        wanted = tf.cast(tf.reshape(y, [-1]), tf.int32)
    elif y.shape.rank == 2 and y.shape[-1] == outputs.shape[-1]:
        wanted = tf.argmax(y, axis=-1, output_type=tf.int32)
    else:
        return None
    return tf.cast(tf.equal(found, wanted), tf.float32)
