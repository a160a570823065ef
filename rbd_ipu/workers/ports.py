"""Free ports of the loopback interface."""

import random
import socket
from typing import List

#: Systems give connections ports above these by themselves: none of them is taken while its user starts.
RANGE = range(20_000, 32_000)


def free(count: int) -> List[int]:
    """So many ports that nothing listens on now, all different.

    They are found by listening on them for a moment; another program may take one before it is used, which its user
    then reports.

    Raises:
      OSError: there are not so many.

    Example:
      >>> one, other = free(2)
      >>> one != other and one in RANGE and other in RANGE
      True
    """
    found: List[int] = []
    for port in random.SystemRandom().sample(RANGE, len(RANGE)):
        if len(found) == count:
            return found
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
    raise OSError(f"{count} free ports wanted, {len(found)} found from {RANGE[0]} to {RANGE[-1]}")
