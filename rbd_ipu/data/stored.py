"""Datasets that know their images as bytes too, for a device that is sent bytes and makes numbers of them itself.

What :class:`rbd_ipu.data.Batches` and :func:`rbd_ipu.data.evaluation` give are batches (x float32, y). Where x is
made of bytes, a quarter of the transfer, by arithmetic alone, the dataset carries both parts: the stored batches, in
the same order, and the function that finishes them.
"""

from typing import Any, Callable, Optional, Tuple

#: (parts of a stored batch) -> (x, y), in TensorFlow operations.
Finish = Callable[..., Tuple[Any, Any]]
_NAME = "_rbd_ipu_stored"


def remember(dataset: Any, stored: Any, finish: Finish) -> Any:
    """The dataset, which then knows its batches as stored: ``finish(*batch)`` of one is that of the dataset."""
    setattr(dataset, _NAME, (stored, finish))
    return dataset


def stored_form(dataset: Any) -> Tuple[Any, Optional[Finish]]:
    """(stored batches, what finishes them); (the dataset itself, None) where it knows no other form.

    Example:
      >>> from rbd_ipu import data
      >>> stored, finish = stored_form(data.load("digits").evaluation("test", 100))
      >>> x, y = next(iter(stored))
      >>> x.dtype.name, finish(x, y)[0].dtype.name
      ('uint8', 'float32')
    """
    return getattr(dataset, _NAME, (dataset, None))
