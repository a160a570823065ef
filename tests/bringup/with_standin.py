"""A pytest plugin: the stand-in of tests/standin plays the IPUs, to show that the bring-up tests can run at all.

    python -m pytest -p bringup.with_standin -m ipu tests/bringup         (with tests/ on PYTHONPATH)

What they then say about random numbers, memory and speed is about this machine, and of no use.
"""

import contextlib

import standin

_installed = contextlib.ExitStack()


def pytest_configure():
    _installed.enter_context(standin.installed())


def pytest_unconfigure():
    _installed.close()
