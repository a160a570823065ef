"""What an operation must be besides having a kernel: known shapes, bare loops, constant arguments.

Each rule is a function from an operation, and the graphs of the functions it calls, to sentences about its faults.
"""

from typing import Any, Callable, Dict, Iterator, Tuple

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
