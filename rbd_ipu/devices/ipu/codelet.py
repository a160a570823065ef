"""The integer hash as an operation of an IPU: directions of source "counter", bit by bit those of a CPU.

``codelets/hash_codelets.cpp`` hashes on the tiles, ``codelets/hash_op.cpp`` deals the work out to them; TensorFlow
calls it by ``precompiled_user_op`` (the record has its signature, and the kernel of ``IpuUserOp``). The C++ of both
is compiled and run in the tests, on a stub of Poplar, and held to NumPy bit for bit; nothing of it has run on an IPU.
Equal bits are promised for the words. Of the entries that are made of them, ``uniform``, ``rademacher`` and
``bernoulli-0.5`` are exact in float32; ``normal`` is a quotient of polynomials, whose last bits are the device's.
"""

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any, List

from rbd_ipu._compat import tf
from rbd_ipu.devices.ipu.ipu_config import cache_root

SOURCES = Path(__file__).resolve().parent / "codelets"
LIBRARY, CODELETS = "librbd_hash.so", "hash_codelets.cpp"


class Hash:
    """The two operations; the host's part of them is compiled when the first is asked for.

    Args:
      ipu: the package ``tensorflow.python.ipu``.
    """

    def __init__(self, ipu: Any):
        self._ipu = ipu
        self._library = ""

    def words(self, pairs: Any, places: Any) -> Any:
        """As :func:`rbd_ipu.directions.stream.word_at`: pairs int32 [..., 2], places int32 [m] -> int32 [..., m]."""
        return self._call("Words", pairs, places, [])

    def keys(self, seeds: Any, parts: Any) -> Any:
        """``schedule(fold_in(seed, part))``: seeds int32 [..., 2], parts int32 [m] -> int32 [..., m, 2]."""
        return self._call("Keys", seeds, parts, [2])

    def _call(self, name: str, heads: Any, tail: Any, item: List[int]) -> Any:
        self._library = self._library or str(library())
        lead, m = heads.shape[:-1].as_list(), int(tail.shape[0])
        rows = tf.reshape(heads, [-1, 2])
        outs = {"output_types": [tf.int32], "output_shapes": [tf.TensorShape([int(rows.shape[0]), m, *item])]}
        (found,) = self._ipu.custom_ops.precompiled_user_op(
            [rows, tail], self._library, gp_path=str(SOURCES / CODELETS), outs=outs, name=f"Rbd{name}", op_name=name
        )
        return tf.reshape(found, [*lead, m, *item])


def library() -> Path:
    """The compiled host's part, made by g++ with the headers of the Poplar SDK, once for each version of either.

    Raises:
      RuntimeError: the SDK is not enabled, there is no g++, or it fails; the message has what it said.
    """
    sdk = os.environ.get("POPLAR_SDK_ENABLED")
    if not sdk:
        raise RuntimeError('source "counter" on an IPU needs the Poplar SDK once: source its enable script first')
    source = SOURCES / "hash_op.cpp"
    version = hashlib.sha256(source.read_bytes() + os.path.realpath(sdk).encode()).hexdigest()[:16]
    made = Path(cache_root()) / "codelets" / version / LIBRARY
    if made.is_file():
        return made
    made.parent.mkdir(parents=True, exist_ok=True)
    draft = made.with_name(f"{os.getpid()}.so")
    command = ["g++", "-std=c++17", "-O2", "-fPIC", "-shared", str(source), f"-I{sdk}/include", f"-L{sdk}/lib"]
    try:
        done = subprocess.run([*command, "-lpoplar", "-o", str(draft)], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise RuntimeError('source "counter" on an IPU needs g++ once, and there is none') from None
    if done.returncode:
        raise RuntimeError(f"{source} cannot be compiled: {' '.join(command)}\n{done.stderr}")
    os.replace(draft, made)  # several processes may make it at once
    return made
