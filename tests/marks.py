"""Which cases of a test run always, and which with ``--slow`` only."""

import pytest


def slow_but(often, cases):
    """The cases, each marked slow that is not among those that run often; a tuple is one of several arguments."""

    def slow(case):
        return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)

    return [case if case in often else slow(case) for case in cases]
