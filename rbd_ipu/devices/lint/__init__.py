"""The op lint: would Graphcore's TensorFlow compile what this package traces?

No IPU is needed. The compiled step of every row of the registries is traced on stock TensorFlow 2.6, which the IPU's
TensorFlow is built on. Each operation with its types is held against the recorded table of kernels
(:mod:`rbd_ipu.devices.record`), and against what the record says of loops, shapes and random numbers; then the whole
is lowered to HLO, which must know all sizes.

=============  ==================================================================================
ops.py         one operation against the table, and the tables of what the table does not say
structure.py   what an operation must be besides: static shapes, bare loops, constants
walk.py        every operation of a graph and of all functions that it reaches
hlo.py         what XLA makes of a program: instructions that Poplar has, of sizes that are known
edges.py       what stands for the queues and the collectives of the SDK
programs.py    a row -> its program, traced
rows.py        which rows there are, and which are known not to be ready
report.py      the findings of all rows as a table, and the page that holds it
command.py     ``rbd-ipu devices lint``
=============  ==================================================================================

A clean lint says that no operation is missing. It cannot say that a program fits into the memory, is fast, or
computes what it should: ``pytest -m ipu`` does, on hardware.
"""

from rbd_ipu.devices.lint.walk import Finding, lint

__all__ = ["Finding", "lint"]
