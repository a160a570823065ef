"""A process's place among the workers: from the launcher of this package, or from ``TF_CONFIG``, read strictly."""

import dataclasses
import json
import os
import re
from typing import Any, List, Mapping, Optional, Tuple

from rbd_ipu.config import ConfigError

#: Set by :class:`rbd_ipu.workers.processes.Processes`: index, K, and the connections to both neighbours.
RING = "RBD_RING"
_ADDRESS = re.compile(r".+:\d+$")
FORM = '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'


@dataclasses.dataclass(frozen=True)
class Task:
    """Which worker this process is.

    Attributes:
      index: 0 to K - 1.
      workers: K.
      ring: file descriptors of the connections to the left and to the right neighbour; None in a cluster of
        ``TF_CONFIG``.
      addresses: ``host:port`` of every worker, in a cluster of ``TF_CONFIG``.
    """

    index: int
    workers: int
    ring: Optional[Tuple[int, int]] = None
    addresses: Tuple[str, ...] = ()


def tf_config(index: int, addresses: List[str]) -> str:
    """The text of ``TF_CONFIG`` for worker ``index`` of those at these addresses.

    Example:
      >>> task({"TF_CONFIG": tf_config(1, ["a:1", "b:1"])})
      Task(index=1, workers=2, ring=None, addresses=('a:1', 'b:1'))
    """
    return json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})


def task(environment: Optional[Mapping[str, str]] = None) -> Optional[Task]:
    """The task of this process; None for a worker on its own.

    Raises:
      ConfigError: ``TF_CONFIG`` is not of the form that is accepted; quotes both.

    Example:
      >>> task({}) is None
      True
      >>> task({"TF_CONFIG": tf_config(1, ["a:1"])})
      Traceback (most recent call last):
      ...
      rbd_ipu.config.kinds.ConfigError: TF_CONFIG: the task's index 1 is not below the number of workers, 1
    """
    environment = os.environ if environment is None else environment
    if environment.get(RING):
        index, workers, left, right = map(int, environment[RING].split(","))
        return Task(index, workers, (left, right))
    text = environment.get("TF_CONFIG", "")
    return _of_tf_config(text) if text else None


def _of_tf_config(text: str) -> Task:
    try:
        facts = json.loads(text)
        cluster, own = facts["cluster"], facts["task"]
        addresses, kind, index = cluster["worker"], own["type"], own["index"]
    except (ValueError, KeyError, TypeError):
        raise _refused(text) from None
    index = int(index) if isinstance(index, str) and index.isdigit() else index
    if set(cluster) != {"worker"} or kind != "worker" or not _are_addresses(addresses):
        raise _refused(text)
    if isinstance(index, bool) or not isinstance(index, int) or index < 0:
        raise _refused(text)
    if index >= len(addresses):
        raise ConfigError(f"TF_CONFIG: the task's index {index} is not below the number of workers, {len(addresses)}")
    return Task(index, len(addresses), addresses=tuple(addresses))


def _are_addresses(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(a, str) and _ADDRESS.match(a) for a in value)


def _refused(text: str) -> ConfigError:
    return ConfigError(f"TF_CONFIG must be of the form {FORM}, got {text}")
