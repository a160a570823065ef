"""Connections between the workers of a cluster: each listens for a moment, for the one caller that it expects."""

import contextlib
import hmac
import secrets
import socket
import time
from typing import Any, Callable, Optional, Sequence, Tuple

import numpy as np

from rbd_ipu.workers.addresses import listening, read, split

PATIENCE = 10.0  # seconds in which all workers must have found their neighbours
TOKEN = 16  # bytes that a caller must know
_SLOW = 1.0  # seconds that a caller has to say them

Ends = Tuple[socket.socket, socket.socket]


def meet(
    index: int, addresses: Sequence[str], tell: Callable[[Sequence[int]], Any], patience: float = PATIENCE
) -> Optional[Ends]:
    """This worker's connections to its left and to its right neighbour; None for all, where one has not got them.

    A worker listens on the interface of its own address only, on a port that the system gives it, until its left
    neighbour has called with the token that the worker has told all others. Then nothing listens any more.

    Args:
      index: k, 0 to K - 1.
      addresses: ``host:port`` of every worker; the ports are in use for something else.
      tell: int32 [n] of this worker -> those of all workers, int32 [K, n], by other means. All workers must ask.
      patience: seconds.

    Example:
      >>> left, right = meet(0, ["127.0.0.1:1"], lambda words: np.array([words]))  # its own neighbour on both sides
      >>> right.sendall(b"round"), left.recv(9)
      (None, b'round')
      >>> left.close(), right.close()
      (None, None)
    """
    token, deadline = secrets.token_bytes(TOKEN), time.monotonic() + patience
    own = listening(split(addresses[index])[0])
    port = own.getsockname()[1] if own else 0
    told = np.asarray(tell([port, *np.frombuffer(token, np.int32).tolist()]), np.int32)
    left = right = None
    if own and told[:, 0].all():
        neighbour = (index + 1) % len(addresses)
        place = (split(addresses[neighbour])[0], int(told[neighbour, 0]))
        right = _called(place, told[neighbour, 1:].tobytes(), deadline)
        left = _expected(own, token, deadline)
    if own:
        own.close()
    all_met = np.asarray(tell([int(bool(left and right))])).all()
    for end in filter(None, (left, right)):
        if all_met:
            end.settimeout(None)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            end.close()
    return (left, right) if left and right and all_met else None


def _called(place: Tuple[str, int], token: bytes, deadline: float) -> Optional[socket.socket]:
    """A connection to ``place``, where the token has been said."""
    try:
        end = socket.create_connection(place, timeout=max(0.01, deadline - time.monotonic()))
        end.sendall(token)
        return end
    except OSError:
        return None


def _expected(own: socket.socket, token: bytes, deadline: float) -> Optional[socket.socket]:
    """The first caller that knows the token; others are strangers."""
    while time.monotonic() < deadline:
        own.settimeout(max(0.01, deadline - time.monotonic()))
        try:
            end, _ = own.accept()
        except OSError:
            return None
        with contextlib.suppress(OSError):
            end.settimeout(_SLOW)
            if hmac.compare_digest(read(end, TOKEN), token):
                return end
        end.close()
    return None
