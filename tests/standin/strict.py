"""What the compiler for IPUs would refuse in a traced program: an operation without a recorded kernel, for one."""

import collections

from rbd_ipu.devices.ipu.lint import lint
from rbd_ipu.devices.ipu.lint.report import walk

# What the stand-in has in place of Graphcore's infeeds, outfeeds and collectives.
OWN = ("QueueEnqueueV2(", "QueueDequeueV2(", "Roll(")
# Lines that stand for Graphcore's own code, which the real compiler knows: Keras' loop and its losses.
GRAPHCORE = "fitting.py:"


class CompileError(Exception):
    """A program that could not be compiled."""


def check(graph):
    findings = [str(f) for f in lint(graph).findings if not f.operation.startswith(OWN) and GRAPHCORE not in f.line]
    if findings:
        raise CompileError("\n".join(findings))
    enqueues = collections.Counter(op.name for op, _, _ in walk(graph) if op.name.startswith("outfeed_"))
    names = [name.split("_")[1] for name in enqueues.elements()]
    if len(names) > len(set(names)):
        raise ValueError("an outfeed can only be enqueued once; enqueue a tuple or a dict")
