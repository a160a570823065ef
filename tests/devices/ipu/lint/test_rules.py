"""The op lint: what it catches, what it lets through, and the tables that it judges by."""

from pathlib import Path

import numpy as np
import planted
import pytest
from planted import counted_to, folded, generated, graph_of, loop, printed, split, unsigned

from rbd_ipu._compat import KERAS_3, tf
from rbd_ipu.devices.ipu import sdk_record
from rbd_ipu.devices.ipu.lint import lint, report, rules, trace

needs_2_6 = pytest.mark.skipif(KERAS_3, reason="the record is of TensorFlow 2.6, and this is another one")


def messages(function, *shapes):
    return [finding.message for finding in lint(graph_of(function, *shapes)).findings]


# --- planted faults ------------------------------------------------------------------------------------


FAULTS = {
    "a uint32": (unsigned, "AddV2 has no IPU kernel for T=uint32; it has T=int32, int64, float, half"),
    "its tensor": (unsigned, "Const makes a tensor of type uint32, which no IPU has"),
    "stateless_fold_in": (folded, "StatelessRandomUniformFullIntV2 is not supported: its kernel lowers to an HLO"),
    "stateless_split": (split, "StatelessRandomUniformFullIntV2 is not supported: its kernel lowers to an HLO"),
    "tf.print": (printed, "PrintV2 has no IPU kernel"),
    "the text of tf.print": (printed, "StringFormat has no IPU kernel"),
    "a float64": (
        lambda x: tf.reduce_sum(tf.cast(x, tf.float64)),
        "Cast has no IPU kernel for DstT=double; it has DstT=int32, int64, float, half, bool, int8, uint8",
    ),
    "a product of integers": (
        lambda x: tf.matmul(tf.ones([2, 2], tf.int32), tf.ones([2, 2], tf.int32)),
        "MatMul has no IPU kernel for T=int32; it has T=float, half",
    ),
    "an int64 seed": (
        generated,
        "StatelessRandomGetKeyCounter has no IPU kernel for Tseed=int64; it has Tseed=int32",
    ),
    "a shape that is computed": (
        lambda x: tf.random.stateless_normal([tf.cast(x[0], tf.int32)], [1, 2]),
        "StatelessRandomNormalV2 needs a constant shape, not what Pack computes",
    ),
    "a bound that is computed": (
        lambda x: tf.random.stateless_uniform([4], [1, 2], 0, tf.cast(x[0], tf.int32), tf.int32),
        "StatelessRandomUniformIntV2 needs a constant maxval, not what Cast computes",
    ),
    "a shape that is not known": (
        lambda x: tf.boolean_mask(x, x > 0.0) * 2.0,
        "Mul makes a tensor of unknown shape (None,)",
    ),
    "a bitcast to another size": (
        lambda x: tf.bitcast(tf.reshape(tf.cast(x, tf.float16), [2, 2]), tf.int32),
        "Bitcast from float16 to int32 changes the size of an entry",
    ),
    "a row of a computed index": (
        lambda x: tf.reshape(x, [2, 2])[tf.cast(x[0], tf.int32)],
        "StridedSlice has its begin computed by Pack: use tf.gather or tf.slice",
    ),
    "a piece up to a computed end": (
        lambda x: tf.reduce_sum(x[: tf.cast(x[0], tf.int32)]),
        "StridedSlice has its end computed by Pack: use tf.gather or tf.slice",
    ),
    "a Python function": (lambda x: tf.numpy_function(abs, [x], tf.float32), "PyFunc has no IPU kernel"),
    "a loop to a number that is computed": (
        lambda x: counted_to(tf.cast(x[0], tf.int32)),
        "StatelessWhile has the condition Less, not a bare counter < constant",
    ),
    "a loop with two conditions": (
        lambda x: loop(lambda i: (i < 10) & (i > -1), lambda i: (i + 1,)),
        "StatelessWhile has the condition",
    ),
    "a loop bounded twice": (
        lambda x: tf.while_loop(lambda i: i < 10, lambda i: (i + 1,), (tf.constant(0),), maximum_iterations=5)[0],
        "StatelessWhile has the condition",
    ),
    "a loop that counts down": (
        lambda x: loop(lambda i: i > 0, lambda i: (i - 1,), start=10),
        "StatelessWhile has the condition Const, Greater, not a bare counter < constant",
    ),
    "a loop by twos": (
        lambda x: loop(lambda i: i < 10, lambda i: (i + 2,)),
        "StatelessWhile does not add 1 to its counter in every trip",
    ),
    "a loop over a float": (
        lambda x: loop(lambda i: i < 10.0, lambda i: (i + 1.0,), start=tf.constant(0.0)),
        "StatelessWhile has the condition Const, Less, not a bare counter < constant",
    ),
}


@needs_2_6
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(fault):
    function, wanted = FAULTS[fault]
    found = messages(function)
    assert any(message.startswith(wanted) for message in found), found


@needs_2_6
def test_a_fault_is_found_in_the_functions_that_a_graph_reaches():
    inner = tf.function(unsigned, autograph=False)

    def outer(x):
        def body(i, x):
            return i + 1, tf.cond(x[0] > 0.0, lambda: inner(x), lambda: x)

        return tf.while_loop(lambda i, _: i < 10, body, (tf.constant(0), x), parallel_iterations=1)

    findings = lint(graph_of(outer)).findings
    found = [finding for finding in findings if finding.message.startswith("AddV2 has no IPU kernel for T=uint32")]
    (finding,) = found
    assert finding.operation == "AddV2(T=uint32)" and finding.name.count("/") >= 3
    line = finding.line.split(":")[1]
    assert "planted.py:" in finding.line
    assert "tf.constant(1, tf.uint32)" in Path(planted.__file__).read_text("utf-8").splitlines()[int(line) - 1]
    assert finding.line in str(finding) and finding.name in str(finding)


@needs_2_6
def test_what_an_ipu_runs_is_clean():
    def fine(x):
        def body(i, total):
            block = tf.random.stateless_normal([2, 4], tf.stack([i, 7]))
            return i + 1, total + tf.linalg.matvec(block, tf.linalg.matvec(block, x), transpose_a=True)

        return tf.while_loop(lambda i, _: i < 10, body, (tf.constant(0), tf.zeros([4])), parallel_iterations=1)[1]

    seen = lint(graph_of(fine))
    assert seen.findings == ()
    assert seen.loops == 1 and "StatelessRandomNormalV2(dtype=float, Tshape=int32)" in seen.kinds


@needs_2_6
def test_a_function_called_twice_is_walked_once():
    inner = tf.function(lambda x: x * 2.0, autograph=False)
    graph = graph_of(lambda x: inner(inner(x)))
    assert sum(op.type == "Mul" for op, _, _ in report.walk(graph)) == 1


def by_tape(function, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.gradient(y, x)


def by_graph(function, x):
    return tf.gradients(function(x), x)[0]  # what Graphcore's Keras uses


@needs_2_6
@pytest.mark.parametrize("differentiate", [by_tape, by_graph])
def test_batch_normalisation_is_clean_though_one_of_its_shapes_is_not_said(differentiate):
    def normalised(x):
        image = tf.reshape(x, [1, 2, 2, 1])
        return differentiate(lambda z: tf.compat.v1.nn.fused_batch_norm(z, [1.0], [0.0])[0], image)

    assert messages(normalised) == []


# --- what XLA makes of it -----------------------------------------------------------------------------


def lowered(function, *arrays):
    return rules.lower(tf.function(function, autograph=False, jit_compile=True), *map(tf.constant, arrays))


@needs_2_6
def test_a_size_that_is_known_at_run_time_only_is_caught():
    def run(x):
        def body(i, t):
            return i + 1, t + tf.reduce_sum(x[:i])

        return tf.while_loop(lambda i, _: i < 3, body, (tf.constant(0), tf.constant(0.0)), parallel_iterations=1)[1]

    faults = rules.judge_hlo(lowered(run, np.ones(3, np.float32)))
    wanted = "set-dimension-size is an instruction of HLO that Poplar has not implemented"
    (fault,) = [fault for fault in faults if fault.message == wanted and fault.kind == "StridedSlice"]
    assert fault.file == __file__ and "x[:i]" in Path(__file__).read_text("utf-8").splitlines()[int(fault.line) - 1]
    assert rules.judge_hlo(lowered(lambda x: x + 1.0, np.ones(4, np.float32))) == []


@needs_2_6
def test_what_an_ipu_has_a_kernel_of_its_own_for_is_passed_over():
    text = lowered(lambda x: tf.math.top_k(x, 2)[0], np.ones(4, np.float32))
    assert "set-dimension-size" in text and rules.judge_hlo(text) == []


@needs_2_6
def test_what_xla_cannot_lower_says_why():
    with pytest.raises(ValueError, match="PyFunc"):
        lowered(lambda x: tf.numpy_function(abs, [x], tf.float32), np.ones(4, np.float32))


@needs_2_6
def test_a_program_that_cannot_be_lowered_is_a_finding(monkeypatch):
    def refuse():
        raise ValueError("it is too late")

    monkeypatch.setattr(trace, "trace", lambda row: trace.Program(graph_of(lambda x: x + 1.0), refuse))
    (result,) = report.results([trace.Row()])
    assert result.faults == ["XLA cannot lower the program: it is too late [HLO]"]


@pytest.mark.parametrize("kind", rules.UNIMPLEMENTED)
def test_an_instruction_that_poplar_has_not_is_caught(kind):
    (fault,) = rules.judge_hlo(f"  %x.1 = (f32[4]{{0}}, s32[]) {kind}(f32[4]{{0}} %y)")
    assert fault.message == f"{kind} is an instruction of HLO that Poplar has not implemented"


# --- the tables ----------------------------------------------------------------------------------------


def test_operations_are_held_against_the_record():
    known = sdk_record.supported_ops()
    for kind, attribute in rules.NARROWER:
        assert set(rules.NARROWER[kind, attribute]) < set(known[kind]["types"][attribute])
    for kind in (*rules.LOOPS, *rules.CONSTANT_INPUTS, *rules.CONSTANTS, *rules.FORWARDING):
        assert known[kind]["status"] in rules.SUPPORTED
    assert {row["status"] for row in known.values()} == {*rules.SUPPORTED, *rules.REFUSED}
    for kind in rules.HOST:
        assert kind not in known  # else there is nothing to except


@pytest.mark.parametrize("status", rules.REFUSED)
def test_what_is_only_registered_is_not_supported(status):
    kind = next(kind for kind, row in sdk_record.supported_ops().items() if row["status"] == status)
    (message,) = rules.judge(rules.Operation(kind, {}, ()))
    assert message == f"{kind} is not supported: {rules.REFUSED[status]}"


def test_a_type_that_the_record_is_silent_about_is_a_finding():
    (message,) = rules.judge(rules.Operation("Mul", {"U": ("float",)}, ("float",)))
    assert message == "Mul has the type attribute U, of which the record says nothing"


@needs_2_6
@pytest.mark.parametrize("dtype", ["int8", "float64", "uint32"])
def test_a_collective_of_a_type_that_the_record_does_not_have_is_a_finding(dtype):
    noted = []
    trace.collectives(noted).all_to_all_op.all_gather(tf.zeros([2], dtype), 4)
    (message, *_) = rules.judge(noted[0])
    assert message.startswith("IpuAllGather has no IPU kernel for dtype=")
