"""The exchange between the two halves of a method: what workers tell each other. One file each."""

from rbd_ipu.exchange.base import Alone, Exchange

__all__ = ["Alone", "Exchange"]
