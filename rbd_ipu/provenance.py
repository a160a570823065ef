"""Where a result comes from: command, code, versions, machine; no names of people or hosts."""

import datetime
import os
import platform
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any, Dict, Optional, Sequence

from rbd_ipu import __version__
from rbd_ipu.process import usable

PACKAGE = Path(__file__).resolve().parent


def command_line(arguments: Sequence[str]) -> str:
    """The command as a shell line; the home folder, which holds a name, is written ``~``."""
    words = ["rbd-ipu", *arguments]
    home = os.path.expanduser("~")
    if len(home) > 1:
        words = [re.sub(re.escape(home) + r"(?=/|$)", "~", word) for word in words]
    return " ".join(shlex.quote(word) for word in words)


def _git(*arguments: str) -> Optional[str]:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(PACKAGE), *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def commit() -> Dict[str, Any]:
    """The commit that the package runs from and whether files differ; None outside a checkout."""
    top = _git("rev-parse", "--show-toplevel")
    # An installed package may lie inside somebody else's repository (an environment in a project's
    # folder).
    if top is None or Path(top).resolve() != PACKAGE.parent:
        return {"commit": None, "modified": None}
    changes = _git("status", "--porcelain")
    return {
        "commit": _git("rev-parse", "--verify", "HEAD"),
        "modified": changes is None or changes != "",
    }


def versions() -> Dict[str, str]:
    """Python, this package, TensorFlow, Keras, NumPy."""
    import numpy

    from rbd_ipu._compat import keras, tf

    return {
        "python": platform.python_version(),
        "rbd_ipu": __version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": numpy.__version__,
    }


def _processor() -> Optional[str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for text in file:
                if text.startswith("model name"):
                    return text.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or None


def machine() -> Dict[str, Any]:
    """Processor, how many of its cores this process may use, operating system."""
    return {
        "processor": _processor(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": len(usable()),
        "system": f"{platform.system()} {platform.release()}",
    }


def origin() -> Dict[str, Any]:
    """What code and what machine a result is of: ``versions``, ``commit``, ``modified`` and ``machine``."""
    return {"versions": versions(), **commit(), "machine": machine()}


def now() -> str:
    """The time in UTC, to the second: 2020-12-06T10:20:30Z."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
