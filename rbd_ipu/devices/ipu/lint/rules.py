"""The rules of the lint: kernels, structure, and what XLA makes of a program.

An operation with its types must be in the recorded table of IPU kernels, and have known shapes, bare loops, constant
arguments: each rule is a function from an operation, and the graphs of the functions it calls, to its faults.

Graphcore's TensorFlow has the bridge to XLA of stock 2.6 with kernels of its own beside it, so a program that stock
TensorFlow cannot lower, or lowers to tensors whose size is known only when it runs, does not reach an IPU either. It
is lowered for a CPU and neither compiled nor run. Where the IPU has a kernel of its own, such as those that draw
random numbers, what a CPU would be given says nothing, and is passed over.
"""

import re
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Sequence, Tuple

from rbd_ipu._compat import tf
from rbd_ipu.devices.ipu import sdk_record

# The record writes types as OpDefs do.
SPELLING = {"float16": "half", "float32": "float", "float64": "double"}

# What a tensor on an IPU may be. The one-byte types exist for images on their way in: the table of kernels says
# where.
ON_DEVICE = ("int32", "int64", "float", "half", "bool", "int8", "uint8", "resource", "variant")

# Which statuses of the record mean that there is a kernel to rely on, and why the others do not.
SUPPORTED = ("ipu", "xla")
REFUSED = {
    "hlo_no": "its kernel lowers to an HLO that Poplar has not implemented",
    "xla?": "it is registered, but whether Poplar can lower it is not known",
}

# Operations of the host's side of a program, which a POD has others for: why each is no finding.
HOST = {
    "IteratorGetNext": "an iterator made inside IPUStrategy is an IPUOwnedIterator: its next() is an infeed dequeue",
}

# What is registered for more types than PopLibs can compute.
NARROWER = {
    ("MatMul", "T"): ("float", "half"),
    ("BatchMatMul", "T"): ("float", "half"),
    ("BatchMatMulV2", "T"): ("float", "half"),
    ("BatchMatMulV3", "Ta"): ("float", "half"),
    ("BatchMatMulV3", "Tb"): ("float", "half"),
    ("Einsum", "T"): ("float", "half"),
    # The kernel takes int64 too, but seeds are int32 everywhere here, as the older operations need them.
    ("StatelessRandomGetKeyCounter", "Tseed"): ("int32",),
}

# Outputs of a type that no other tensor may have: why each is no finding.
TYPE_EXCEPTIONS = {
    ("StatelessRandomGetKeyCounter", "uint64"): "the IPU's kernel hands the seed through as an opaque key",
    ("Const", "string"): "the message of an Assert, the only operation that takes one; nothing is left of it",
}

# What a function's arguments and results are when the function is compiled.
RENAMED = {"Placeholder": ("_Arg", "dtype", "T")}


class Operation(NamedTuple):
    """An operation as the table knows it: its kind, its type attributes and the types of its outputs.

    Attributes:
      kind: "MatMul".
      types: attribute -> the types it stands for: one, or several where it is a list.
      outputs: the type of each output.
    """

    kind: str
    types: Dict[str, Tuple[str, ...]]
    outputs: Tuple[str, ...]

    def __str__(self) -> str:
        types = ", ".join(f"{name}={','.join(sorted(set(kinds)))}" for name, kinds in self.types.items())
        return f"{self.kind}({types})"


def type_name(dtype: Any) -> str:
    """A ``tf.DType`` as the record writes it: float32 is "float", float16 "half"."""
    return SPELLING.get(dtype.name, dtype.name)


def describe(op: Any) -> Operation:
    """What the table needs to know of a ``tf.Operation``; a function's argument is an ``_Arg``."""
    types: Dict[str, Tuple[str, ...]] = {}
    for attribute in op.op_def.attr:
        if attribute.type == "type":
            types[attribute.name] = (type_name(op.get_attr(attribute.name)),)
        elif attribute.type == "list(type)":
            types[attribute.name] = tuple(type_name(dtype) for dtype in op.get_attr(attribute.name))
    kind = op.type
    if kind in RENAMED:
        kind, old, new = RENAMED[kind]
        types = {new: types[old]}
    return Operation(kind, types, tuple(type_name(tensor.dtype) for tensor in op.outputs))


def judge(operation: Operation) -> List[str]:
    """What is wrong with an operation: nothing, or a sentence for each fault.

    Example:
      >>> judge(Operation("Mul", {"T": ("float",)}, ("float",)))
      []
      >>> judge(Operation("Mul", {"T": ("uint32",)}, ("uint32",)))[0]
      'Mul has no IPU kernel for T=uint32; it has T=int32, int64, float, half'
    """
    if operation.kind in HOST:
        return []
    return [*_kernel(operation), *_outputs(operation)]


def _kernel(operation: Operation) -> Iterator[str]:
    row = sdk_record.supported_ops().get(operation.kind)
    if row is None:
        yield f"{operation.kind} has no IPU kernel"
        return
    if row["status"] not in SUPPORTED:
        yield f"{operation.kind} is not supported: {REFUSED[row['status']]}"
        return
    for name, kinds in operation.types.items():
        if name not in row["types"]:
            yield f"{operation.kind} has the type attribute {name}, of which the record says nothing"
            continue
        accepted = NARROWER.get((operation.kind, name), row["types"][name])
        wrong = _outside(kinds, accepted)
        if wrong:
            yield f"{operation.kind} has no IPU kernel for {name}={wrong}; it has {name}={', '.join(accepted)}"


def _outputs(operation: Operation) -> Iterator[str]:
    known = [kind for kind in operation.outputs if (operation.kind, kind) not in TYPE_EXCEPTIONS]
    wrong = _outside(known, ON_DEVICE)
    if wrong:
        yield f"{operation.kind} makes a tensor of type {wrong}, which no IPU has"


def _outside(kinds: Sequence[str], accepted: Sequence[str]) -> str:
    return ", ".join(sorted(set(kinds) - set(accepted)))


LOOPS = ("While", "StatelessWhile")
FORWARDING = ("Identity", "EnsureShape")

# Inputs that Poplar must know when it compiles, of the operations that draw random numbers: position -> name.
CONSTANT_INPUTS: Dict[str, Dict[int, str]] = {
    "StatelessRandomNormal": {0: "shape"},
    "StatelessRandomUniform": {0: "shape"},
    "StatelessTruncatedNormal": {0: "shape"},
    "StatelessRandomUniformInt": {0: "shape", 2: "minval", 3: "maxval"},
    "StatelessRandomNormalV2": {0: "shape", 3: "alg"},
    "StatelessRandomUniformV2": {0: "shape", 3: "alg"},
    "StatelessTruncatedNormalV2": {0: "shape", 3: "alg"},
    "StatelessRandomUniformIntV2": {0: "shape", 3: "alg", 4: "minval", 5: "maxval"},
}
CONSTANTS = ("Const", "StatelessRandomGetAlg")

# Outputs of a shape that TensorFlow does not say, though the kernel does: (operation, output) -> why no finding.
UNSAID_SHAPES = {("FusedBatchNormV3", 5): "cuDNN's reserve, which the kernel leaves empty"}

Functions = Dict[str, Any]


def shapes_are_static(op: Any, functions: Functions) -> Iterator[str]:
    """Every tensor that something reads has a shape that the compiler knows; handles and lists have none to know."""
    for number, tensor in enumerate(op.outputs):
        if tensor.dtype.name in ("variant", "resource") or tensor.shape.is_fully_defined():
            continue
        if not _is_unsaid(op, number) and _is_read(tensor):
            yield f"{op.type} makes a tensor of unknown shape {tensor.shape}"


def random_numbers_have_constant_shapes(op: Any, functions: Functions) -> Iterator[str]:
    """A random operation's shape, algorithm and integer bounds are constants in the very function it is in."""
    for position, name in CONSTANT_INPUTS.get(op.type, {}).items():
        found = _origin(op.inputs[position])
        if found.type not in CONSTANTS:
            yield f"{op.type} needs a constant {name}, not what {found.type} computes"


def strided_slices_are_constant(op: Any, functions: Functions) -> Iterator[str]:
    """Python's brackets have constant bounds; a row that is computed is taken by tf.gather, a piece by tf.slice.

    Of x[i] with a computed i, XLA takes the other sizes too for known at run time only (not always: it depends on the
    order in which it resolves constants), and Poplar has no such tensors.
    """
    if op.type == "StridedSlice":
        for tensor, name in zip(op.inputs[1:4], ("begin", "end", "step")):
            found = _origin(tensor)
            if found.type not in CONSTANTS:
                yield f"StridedSlice has its {name} computed by {found.type}: use tf.gather or tf.slice"
                return


def bitcasts_keep_sizes(op: Any, functions: Functions) -> Iterator[str]:
    """Bits are read as another type of the same size: Poplar reinterprets, and does not take apart."""
    if op.type == "Bitcast":
        before, after = op.inputs[0].dtype, op.outputs[0].dtype
        if before.size != after.size:
            yield f"Bitcast from {before.name} to {after.name} changes the size of an entry"


def loops_are_repeats(op: Any, functions: Functions) -> Iterator[str]:
    """A loop counts from its first trip to a constant, by one: then it becomes a Poplar Repeat.

    Four instructions of HLO make its condition: the loop's state, the counter in it, the constant, the comparison.
    """
    if op.type not in LOOPS:
        return
    condition, body = functions["cond"], functions["body"]
    counter = _counter(condition)
    if counter is None:
        steps = [o.type for o in condition.get_operations() if o.type not in ("Placeholder", *FORWARDING)]
        yield f"{op.type} has the condition {', '.join(steps)}, not a bare counter < constant"
    elif not _grows_by_one(body, counter):
        yield f"{op.type} does not add 1 to its counter in every trip"


def _is_unsaid(op: Any, number: int) -> bool:
    """Whether an output is one of UNSAID_SHAPES, or the shape of one, of which tf.gradients makes idle zeros."""
    if op.type == "Shape":
        source = op.inputs[0]
        return (source.op.type, source.value_index) in UNSAID_SHAPES
    return (op.type, number) in UNSAID_SHAPES


def _is_read(tensor: Any) -> bool:
    return bool(tensor.consumers()) or any(tensor is output for output in tensor.graph.outputs)


def _counter(condition: Any) -> Any:
    """The position of the counter among a loop's variables, or None if the condition is no bare comparison."""
    compared = _origin(condition.outputs[0])
    working = [o for o in condition.get_operations() if o.type not in ("Placeholder", *FORWARDING)]
    if compared.type != "Less" or len(working) != 2:
        return None
    left, right = (_origin(tensor) for tensor in compared.inputs)
    if left.type != "Placeholder" or right.type != "Const" or left.outputs[0].dtype.name != "int32":
        return None
    return _position(condition, left)


def _grows_by_one(body: Any, counter: int) -> bool:
    added = _origin(body.outputs[counter])
    if added.type not in ("AddV2", "Add"):
        return False
    left, right = (_origin(tensor) for tensor in added.inputs)
    if left.type == "Const":
        left, right = right, left
    if left.type != "Placeholder" or right.type != "Const" or _position(body, left) != counter:
        return False
    value = right.get_attr("value")
    return value.int_val[:] == [1]


def _position(graph: Any, op: Any) -> int:
    return [tensor.op for tensor in graph.inputs].index(op)


def _origin(tensor: Any) -> Any:
    """The operation that makes a tensor, behind those that only hand it on."""
    op = tensor.op
    while op.type in FORWARDING:
        op = op.inputs[0].op
    return op


RULES: Tuple[Callable[[Any, Functions], Iterator[str]], ...] = (
    shapes_are_static,
    random_numbers_have_constant_shapes,
    strided_slices_are_constant,
    bitcasts_keep_sizes,
    loops_are_repeats,
)


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
        if sdk_record.supported_ops().get(operation, {}).get("status") == "ipu":
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
