"""Functions with a fault for the op lint, and how a function becomes a graph."""

from rbd_ipu._compat import tf


def graph_of(function, *shapes):
    shapes = shapes or (tf.TensorSpec([4], tf.float32),)
    return tf.function(function, autograph=False).get_concrete_function(*shapes).graph


def loop(condition, body, start=0):
    start = tf.constant(start) if isinstance(start, int) else start
    return tf.while_loop(condition, body, (start,), parallel_iterations=1)[0]


def counted_to(end):
    return loop(lambda i: i < end, lambda i: (i + 1,))


def unsigned(x):
    return tf.cast(tf.cast(x, tf.uint32) + tf.constant(1, tf.uint32), tf.float32)


def folded(x):
    seed = tf.random.experimental.stateless_fold_in([1, 2], 3)
    return x + tf.random.stateless_normal([4], seed)


def printed(x):
    tf.print(x)
    return x + 1.0


def split(x):
    return x + tf.random.stateless_normal([4], tf.random.experimental.stateless_split([1, 2], 2)[0])


def generated(x):
    seed = tf.constant([1, 2], tf.int64)
    return x + tf.random.stateless_normal([4], seed)
