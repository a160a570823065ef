"""The muster of a cluster: no worker goes on before the last one has come, or the time is up.

TensorFlow's own wait at the start has no end, hears no signal, and does not say who is missing.
"""

import contextlib
import hashlib
import selectors
import socket
import time
from typing import Any, Dict, List, Sequence

from rbd_ipu.workers.addresses import listening, read, split
from rbd_ipu.workers.errors import WorkersError

_HELLO = 36  # bytes that a worker says: a digest of all addresses, and its index
_GO, _NO = b"rbd-ipu go", b"rbd-ipu no"
_PAUSE = 0.2  # seconds between two calls
_LONGER = 1.0  # seconds that the others wait beyond worker 0, who would miss them otherwise, too


def muster(index: int, addresses: Sequence[str], patience: float) -> None:
    """Returns when all workers have come.

    Worker 0 listens on its address of the cluster, which TensorFlow's server takes over afterwards; the others call
    it until it tells them to go on. A worker that is started again in the meantime counts once.

    Args:
      index: k, 0 to K - 1.
      addresses: ``host:port`` of every worker.
      patience: seconds.

    Raises:
      WorkersError: the time is up, naming those who are missing; or the workers were given other addresses.

    Example:
      >>> muster(0, ["127.0.0.1:1"], patience=1.0)  # alone
      >>> muster(0, ["127.0.0.1:0", "127.0.0.1:0"], patience=0.01)
      Traceback (most recent call last):
      ...
      rbd_ipu.workers.errors.WorkersError: worker 0 of 2: workers [1] did not come within 0.01 s
    """
    cluster = hashlib.sha256("\n".join(addresses).encode("utf-8")).digest()
    if len(addresses) == 1:
        return
    if index:
        _report(index, addresses, cluster, patience)
    else:
        _wait_for_all(addresses, cluster, patience)


def _wait_for_all(addresses: Sequence[str], cluster: bytes, patience: float) -> None:
    deadline = time.monotonic() + patience
    host, port = split(addresses[0])
    # Behind a translated address a worker has another one of its own; TensorFlow's server listens on all of them.
    own = listening(host, port) or listening("0.0.0.0", port)
    workers = len(addresses)
    if own is None:
        raise WorkersError(
            f"worker 0 of {workers}: cannot listen on {addresses[0]}: something else does, or it may not"
        )
    said: Dict[Any, bytes] = {}  # by the callers that may be workers
    with contextlib.ExitStack() as ends, selectors.DefaultSelector() as watch:
        watch.register(ends.enter_context(own), selectors.EVENT_READ)
        while True:
            present = {int.from_bytes(words[-4:], "big"): end for end, words in said.items() if len(words) == _HELLO}
            if len(present) == workers - 1:
                break
            left = deadline - time.monotonic()
            if left <= 0:
                missing = [k for k in range(1, workers) if k not in present]
                raise WorkersError(f"worker 0 of {workers}: workers {missing} did not come within {patience:g} s")
            ready: List[Any] = [key.fileobj for key, _ in watch.select(left)]
            for end in ready:
                if end is own:
                    caller = ends.enter_context(own.accept()[0])
                    caller.setblocking(False)
                    watch.register(caller, selectors.EVENT_READ)
                    said[caller] = b""
                elif not _heard(end, said, cluster, workers):
                    del said[end]
                    watch.unregister(end)
                    end.close()
        for end in present.values():
            with contextlib.suppress(OSError):  # it has ended since: TensorFlow will say so
                end.sendall(_GO)


def _heard(end: Any, said: Dict[Any, bytes], cluster: bytes, workers: int) -> bool:
    """Takes in what a caller says; whether it is a worker, for all that is known, and still there."""
    try:
        more = end.recv(2 * _HELLO)
    except OSError:
        return False
    words = said[end] = said[end] + more
    if not more or len(words) > _HELLO:
        return False
    if len(words) < _HELLO:
        return True
    if words[:-4] != cluster:
        with contextlib.suppress(OSError):
            end.sendall(_NO)
        return False
    return 0 < int.from_bytes(words[-4:], "big") < workers


def _report(index: int, addresses: Sequence[str], cluster: bytes, patience: float) -> None:
    who, place = f"worker {index} of {len(addresses)}", split(addresses[0])
    deadline = time.monotonic() + patience + _LONGER
    while time.monotonic() < deadline:
        answer = b""
        with contextlib.suppress(OSError):  # it has no name or does not listen yet, or has ended
            left = max(0.01, deadline - time.monotonic())
            with socket.create_connection(place, timeout=left) as end:
                end.sendall(cluster + index.to_bytes(4, "big"))
                end.settimeout(max(0.01, deadline - time.monotonic()))
                answer = read(end, len(_GO))
        if answer == _GO:
            return
        if answer == _NO:
            raise WorkersError(f"{who}: worker 0 was given a TF_CONFIG with other addresses than {list(addresses)}")
        time.sleep(_PAUSE)
    raise WorkersError(
        f"{who}: worker 0 at {addresses[0]} does not answer within {patience:g} s, or waits for others"
    )
