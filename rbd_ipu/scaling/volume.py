"""Bytes that a worker sends in a collective of K workers, by the algorithms that move the least."""


def gathered(size: float, workers: int) -> float:
    """Ring all-gather of ``size`` bytes from each: K - 1 of the K messages pass through every worker.

    Example:
      >>> gathered(1000, 4)
      3000.0
    """
    return float(size * (workers - 1))


def reduced(size: float, workers: int) -> float:
    """Ring all-reduce of a vector of ``size`` bytes: 2 (K - 1) / K of it.

    Example:
      >>> reduced(1000, 4)
      1500.0
    """
    return 2.0 * size * (workers - 1) / workers
