"""One operation and its types against the recorded table of IPU kernels."""

from typing import Any, Dict, Iterator, List, NamedTuple, Sequence, Tuple

from rbd_ipu.devices import record

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
    row = record.supported_ops().get(operation.kind)
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
