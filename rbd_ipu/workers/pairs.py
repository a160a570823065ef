"""Connections between processes of this machine, made before they start: nothing ever listens for them."""

import socket
from typing import List, Tuple

Pair = Tuple[socket.socket, socket.socket]


def ring(count: int) -> List[Pair]:
    """For each of ``count`` workers its connection to the left neighbour and that to the right one."""
    pairs = [connected() for _ in range(count)]
    return [(pairs[k - 1][1], pairs[k][0]) for k in range(count)]


def connected() -> Pair:
    """Two ends of a TCP connection over the loopback interface.

    TCP, and not a pair of Unix sockets, so that the kernel counts the bytes. What listens for the moment that it
    takes to connect takes only the one caller it knows.

    Example:
      >>> one, other = connected()
      >>> one.sendall(b"words"), other.recv(9)
      (None, b'words')
      >>> one.close(), other.close()
      (None, None)
    """
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(1)
        one = socket.create_connection(listening.getsockname())
        while True:
            other, caller = listening.accept()
            if caller == one.getsockname():
                break
            other.close()  # a stranger
    for end in (one, other):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one, other
