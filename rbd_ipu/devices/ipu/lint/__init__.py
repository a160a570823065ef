"""The op lint: would Graphcore's TensorFlow compile what this package traces?

No IPU is needed. The compiled step of every row of the registries is traced on stock TensorFlow 2.6, which the IPU's
TensorFlow is built on. Each operation with its types is held against the recorded table of kernels
(:mod:`rbd_ipu.devices.ipu.sdk_record`), and against what the record says of loops, shapes and random numbers; then
the whole is lowered to HLO, which must know all sizes.

===========  ================================================================================================
rules.py     what one operation must be: a row of the table, static shapes, bare loops, instructions of Poplar
trace.py     which rows there are, and a row -> its program, traced
report.py    every operation of a program and of all functions that it reaches; the findings as a page
===========  ================================================================================================

A clean lint says that no operation is missing. It cannot say that a program fits into the memory, is fast, or
computes what it should: ``pytest -m ipu`` does, on hardware.
"""

from rbd_ipu.devices.ipu.lint.report import Finding, lint

__all__ = ["Finding", "lint"]
