"""Bytes that the kernel counts."""

import sys

import pytest

from rbd_ipu.exchange import sockets
from rbd_ipu.workers import pairs


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is asked")
def test_every_byte_is_counted_once():
    one, other = pairs.connected()
    with one, other:
        before = sockets.sent()
        one.sendall(b"x" * 1000)
        other.sendall(b"y" * 23)
        assert sockets.sent() - before == 1023
