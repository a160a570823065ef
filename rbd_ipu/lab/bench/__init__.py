"""What a step costs: the measurements behind ``rbd-ipu bench`` and ``docs/performance.md``.

``runners.py`` says what can be measured, makes a case run by the very loop that users run, times all of them in turn,
and measures peak memory and what the machine could do without a network. ``report.py`` makes numbers of the times,
holds the limits that the project has set itself, and shows them. ``team.py`` times several processes.

All inputs are random numbers: speed does not depend on what is in an image.
"""
