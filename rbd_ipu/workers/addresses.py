"""Addresses of a cluster, ``host:port``, and sockets that listen on them."""

import contextlib
import socket
from typing import Optional, Tuple


def split(address: str) -> Tuple[str, int]:
    """Host and port.

    Example:
      >>> split("node-3.example:4000"), split("[::1]:4001")
      (('node-3.example', 4000), ('::1', 4001))
    """
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def listening(host: str, port: int = 0) -> Optional[socket.socket]:
    """A socket that listens on the interface of ``host``; None if that is not one of this machine, or the port taken.

    Args:
      host: a name or number.
      port: 0 for one that the system chooses.
    """
    with contextlib.suppress(OSError):
        for family, kind, protocol, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            one = socket.socket(family, kind, protocol)
            try:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.bind(place)
                one.listen()
                return one
            except OSError:
                one.close()
    return None


def read(end: socket.socket, count: int) -> bytes:
    """``count`` bytes, or what came before the other side hung up."""
    found = b""
    while len(found) < count:
        more = end.recv(count - len(found))
        if not more:
            break
        found += more
    return found
