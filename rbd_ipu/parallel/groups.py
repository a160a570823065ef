"""Groups of workers, in levels: who leads whom, and how what the last leaders have comes back to all.

With groups of G and L levels of leaders, worker k is a leader of level l = 1 ... L if G^l divides k. It takes the
messages of the G workers (from level 2 on: leaders of level l - 1) that begin with itself, and passes on one. So
R = K / G^L messages are left, which all workers receive. Pure functions of the index of a worker.
"""

from typing import List, NamedTuple, Optional, Tuple

from rbd_ipu import checks


class Groups(NamedTuple):
    """How K workers are divided.

    Attributes:
      size: G; 1 is no groups.
      levels: L, of leaders.

    Example:
      >>> groups = Groups(4, 2)
      >>> groups.together, groups.messages(32), groups.leads(16), groups.leads(20), groups.leads(21)
      (16, 2, 2, 1, 0)
    """

    size: int = 1
    levels: int = 1

    @property
    def together(self) -> int:
        """G^L: of how many workers the gradients become one message."""
        return self.size**self.levels

    def messages(self, workers: int) -> int:
        """R: how many messages reach every worker."""
        return workers // self.together

    def leads(self, worker: int) -> int:
        """The levels at which a worker is a leader: 1 to this."""
        return sum(worker % self.size**level == 0 for level in range(1, self.levels + 1))

    def members(self, leader: int, level: int) -> List[int]:
        """The workers whose messages a leader of a level takes; itself is the first.

        Example:
          >>> Groups(4, 2).members(16, 1), Groups(4, 2).members(16, 2)
          ([16, 17, 18, 19], [16, 20, 24, 28])
        """
        return [leader + i * self.size ** (level - 1) for i in range(self.size)]

    def leader(self, worker: int) -> Optional[int]:
        """Who takes the message of a worker; None for a leader of the last level.

        Example:
          >>> [Groups(4, 2).leader(worker) for worker in (21, 20, 16)]
          [20, 16, None]
        """
        leads = self.leads(worker)
        return None if leads == self.levels else worker - worker % self.size ** (leads + 1)

    def check(self, workers: int) -> None:
        """Refuses another number of workers than whole groups have.

        Raises:
          ValueError: quotes both numbers.
        """
        if workers % self.together:
            of_levels = f" with group_levels={self.levels}" if self.levels > 1 else ""
            raise ValueError(
                f"group_size={self.size}{of_levels} needs a number of workers that is a multiple of {self.together}, "
                f"got {workers}"
            )


def groups(size: int, levels: int) -> Groups:
    """Checked :class:`Groups`.

    Raises:
      TypeError, ValueError: not integers from 1, or levels without groups; quotes what came.

    Example:
      >>> groups(1, 2)
      Traceback (most recent call last):
      ...
      ValueError: group_levels=2 is for groups, of a group_size of 2 and more; got group_size=1
    """
    made = Groups(checks.positive_int("group_size", size), checks.positive_int("group_levels", levels))
    if made.size == 1 and made.levels > 1:
        raise ValueError(f"group_levels={levels} is for groups, of a group_size of 2 and more; got group_size={size}")
    return made


def tree(index: int, size: int) -> Tuple[Optional[int], List[int]]:
    """(parent, children) in a binomial tree over 0 ... size - 1: its root is 0, and log2(size) hops reach all.

    Example:
      >>> tree(0, 8), tree(4, 8), tree(5, 8)
      ((None, [4, 2, 1]), (0, [6, 5]), (4, []))
    """
    step, children = 1, []
    while step < size and index % (2 * step) == 0:
        if index + step < size:
            children.append(index + step)
        step *= 2
    return None if index == 0 else index - step, children[::-1]
