"""Random orders that are pure functions of a seed: hash every index, sort by the hash.

There is no generator and so no state: the order of epoch 17 does not depend on the sixteen before
it, which is what makes a resumed run see the images that an unbroken one would have seen.
"""

from typing import Any, Callable, Union

import numpy as np

from rbd_ipu.seeds import fold_in, fold_in_numpy

Augment = Union[None, str, Callable[[Any, Any], Any]]


def permutation_numpy(size: int, seed: Any) -> np.ndarray:
    """A random order of ``0 .. size - 1``, int32 [size]: the indices, sorted by their hash.

    The hash of index i is the first word of ``fold_in(seed, i)``. Where two are equal, which 32
    bits do not rule out, the smaller index comes first.

    Example:
      >>> sorted(permutation_numpy(4, seed=0).tolist())
      [0, 1, 2, 3]
    """
    keys = fold_in_numpy(seed, np.arange(size, dtype=np.int32))[:, 0]
    return np.argsort(keys, kind="stable").astype(np.int32)


def permutation(size: int, seed: Any) -> Any:
    """:func:`permutation_numpy` in TensorFlow: the same numbers; the seed may be a tensor."""
    from rbd_ipu._compat import tf

    return tf.argsort(fold_in(seed, tf.range(size))[:, 0], stable=True)


def checked_labels(labels: Any, count: int) -> np.ndarray:
    """``labels`` as int32 [count], or an error that says what is wrong with them."""
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise TypeError(
            "labels must be whole numbers [n], one class index an image (not one-hot), "
            f"got {labels.dtype} {list(labels.shape)}"
        )
    if len(labels) != count:
        raise ValueError(f"{count} inputs but {len(labels)} labels")
    if labels.min() < 0 or labels.max() > np.iinfo(np.int32).max:
        raise ValueError(f"labels must lie in 0 .. 2**31 - 1, got {labels.min()} .. {labels.max()}")
    return labels.astype(np.int32)
