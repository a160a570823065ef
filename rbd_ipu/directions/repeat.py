"""Loops that an IPU repeats: of constant length, with a bare condition."""

from typing import Any, Callable, Sequence, Tuple

from rbd_ipu._stack import tf


def repeat(
    trips: int, step: Callable[..., Tuple[Any, ...]], shapes: Sequence[Sequence[int]], *carry: Any
) -> Tuple[Any, ...]:
    """Runs ``step(i, *carry) -> (*outputs, *carry)`` for i = 0 ... trips - 1.

    Poplar makes a Repeat of a loop whose length is a Python int and whose condition is a bare comparison; others are
    simulated by the compiler, or evaluated on the device. What the body holds is compiled once.

    Args:
      trips: how often, an int >= 1; one trip makes no loop.
      step: a traced function; i is an int32 scalar.
      shapes: of the outputs of a trip, which are float32.
      *carry: what the first trip is given; shapes and types stay.

    Returns:
      The outputs stacked, [trips, ...] each, and the carry of the last trip.

    Example:
      >>> squares, total = repeat(4, lambda i, t: (tf.cast(i * i, tf.float32), t + i), [[]], tf.constant(0))
      >>> squares.numpy().tolist(), int(total)
      ([0.0, 1.0, 4.0, 9.0], 6)
    """
    kept = len(shapes)
    if trips == 1:
        results = step(tf.constant(0), *carry)
        return (*(x[tf.newaxis] for x in results[:kept]), *results[kept:])
    stacks = tuple(tf.TensorArray(tf.float32, trips, element_shape=shape) for shape in shapes)

    def body(i: Any, stacks: Any, carry: Any) -> Tuple[Any, Any, Any]:
        results = step(i, *carry)
        return i + 1, tuple(stack.write(i, x) for stack, x in zip(stacks, results)), tuple(results[kept:])

    _, stacks, carry = tf.while_loop(
        lambda i, *_: i < trips, body, (tf.constant(0), stacks, carry), parallel_iterations=1
    )
    return (*(stack.stack() for stack in stacks), *carry)
