"""What a step costs: the measurements behind ``rbd-ipu bench`` and ``docs/performance.md``.

``cases.py`` says what can be measured, ``runners.py`` makes a case run by the very loop that users run,
``rounds.py`` times all of them in turn, ``rows.py`` makes numbers of the times, and ``table.py``, ``plot.py`` and
``report.py`` show them. ``ceiling.py`` measures what the machine could do without a network, ``memory.py`` peak
memory, ``targets.py`` holds the limits that the project has set itself.

All inputs are random numbers: speed does not depend on what is in an image.
"""
