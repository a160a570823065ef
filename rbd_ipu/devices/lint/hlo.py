"""What TensorFlow's own bridge to XLA makes of a program: the instructions that Poplar would be given.

Graphcore's TensorFlow has the bridge of stock 2.6 with kernels of its own beside it, so a program that stock
TensorFlow cannot lower, or lowers to tensors whose size is known only when it runs, does not reach an IPU either. The
program is lowered for a CPU and neither compiled nor run. Where the IPU has a kernel of its own, such as those that
draw random numbers, what a CPU would be given says nothing, and is passed over.
"""

import re
from typing import Any, Dict, List, NamedTuple, Tuple

from rbd_ipu.devices import record

DYNAMIC_SHAPE = re.compile(r"\b[a-z][a-z0-9]*\[[^\]]*<=[^\]]*\]")
INSTRUCTION = re.compile(r" = (?:\(.*?\)|\S+) ([a-z][a-z0-9-]*)\(")
METADATA = re.compile(r'(op_type|op_name|source_file|source_line)="?([^" }]*)')

# Instructions for which Poplar's visitors return Unimplemented (driver/visitors/visitor_base.h, less the overrides of
# visitor_full.h), and that a training step could meet.
UNIMPLEMENTED = ("dynamic-reshape", "fft", "get-dimension-size", "reduce-precision", "set-dimension-size")


def lower(function: Any, *arguments: Any) -> str:
    """The HLO of a compiled function, before any optimisation.

    Args:
      function: a ``tf.function`` with ``jit_compile=True``.
      *arguments: tensors of the shapes that it is to be lowered for.

    Raises:
      ValueError: XLA cannot lower it; the message is the first line of XLA's.
    """
    from rbd_ipu._stack import tf

    try:
        return function.experimental_get_compiler_ir(*arguments)(stage="hlo")
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        raise ValueError(str(error).splitlines()[0]) from None


class Fault(NamedTuple):
    """A wrong instruction, and the TensorFlow operation that it comes from.

    Attributes:
      message: what is wrong.
      kind, name: of the operation; "" where XLA does not say.
      file, line: the Python that made it.
    """

    message: str
    kind: str
    name: str
    file: str
    line: str


def judge_hlo(text: str) -> List[Fault]:
    """What is wrong with a program's HLO: nothing, or each fault with the first instruction that has it.

    Example:
      >>> judge_hlo("  %a.1 = f32[<=4,2]{1,0} add(f32[<=4,2]{1,0} %x, f32[<=4,2]{1,0} %y)")[0].message
      'add makes a tensor of a size that is known at run time only: f32[<=4,2]'
      >>> judge_hlo("  %a.1 = f32[4,2]{1,0} add(f32[4,2]{1,0} %x, f32[4,2]{1,0} %y)")
      []
    """
    found: Dict[Tuple[str, str], Fault] = {}
    for line in text.splitlines():
        instruction = INSTRUCTION.search(line)
        if instruction is None:
            continue
        about = dict(METADATA.findall(line))
        operation, kind = about.get("op_type", ""), instruction.group(1)
        if record.supported_ops().get(operation, {}).get("status") == "ipu":
            continue
        shape = DYNAMIC_SHAPE.search(line[: instruction.start(1)])
        if kind in UNIMPLEMENTED:
            message = f"{kind} is an instruction of HLO that Poplar has not implemented"
        elif shape:
            message = f"{kind} makes a tensor of a size that is known at run time only: {shape.group()}"
        else:
            continue
        where = (about.get(key, "") for key in ("op_name", "source_file", "source_line"))
        found.setdefault((kind, operation), Fault(message, operation, *where))
    return list(found.values())
