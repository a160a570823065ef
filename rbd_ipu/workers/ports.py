"""Free ports of the loopback interface."""

import socket
from typing import List


def free(count: int) -> List[int]:
    """So many ports that nothing listens on now, all different.

    They are found by listening on them for a moment; another program may take one before it is used, which its user
    then reports.
    """
    held = [socket.socket() for _ in range(count)]
    try:
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()
