"""Select, remember, few bits: against a float64 reference, on both implementations."""

import numpy as np
import pytest
from compression_reference import Worker
from reference import close

from rbd_ipu import compression
from rbd_ipu._compat import tf
from rbd_ipu.compression import Compression, Layout
from rbd_ipu.directions.native import blocks as native_blocks
from rbd_ipu.parallel.wire import VALUES, Shape, message_bytes
from rbd_ipu.subspace import BasisSpec

SIZES = [4096 + 300, 10, 700, 1, 4096 + 300]


def made(wire="sign", select="largest", fraction=1 / 16, memory=1.0, fixed=False, source="counter", seed=5,
         second_moment=None, **basis):  # fmt: skip
    use = Compression(
        BasisSpec(**{"distribution": "blocks", "source": source, "seed": seed, **basis}),
        fixed, None, fraction, select, memory, wire, second_moment,
    )  # fmt: skip
    compression.check(use)
    return use


def trained(use, sizes, steps, workers, seed, compile=False):
    """Mean updates of each step, and the memories (and second moments) of the workers in the end."""
    sketch = use.sketch([(n,) for n in sizes])
    memories = [[tf.Variable(tf.zeros([n])) for n in sizes] for _ in range(workers)]
    # From 0, g / sqrt(v) would be +-1 at first, and many coordinates as large as others.
    starts = squares_at_first(sizes) if use.second_moment is not None else []
    squares = [[tf.Variable(v, dtype=tf.float32) for v in starts] for _ in range(workers)]
    rng, found = np.random.default_rng(seed), []

    def one(step, gradients):
        index = use.basis_index(step)
        messages = []
        for k in range(workers):  # every worker alone first: what would it send?
            own = memories[k] if use.memory is not None else []
            gather = None if workers == 1 else lambda m: [m]
            sent = compression.send(use, sketch, gradients[k], own, index, gather, squares[k], step)
            compression.receive(sketch, sent, own, index)
            messages.append(sent.coordinates[0])
        return [u / workers for u in sketch.expand(messages, index)]

    run = tf.function(one, jit_compile=True) if compile else one
    for step in range(steps):
        gradients = [[tf.constant(rng.standard_normal(n), tf.float32) for n in sizes] for _ in range(workers)]
        found.append([u.numpy() for u in run(tf.constant(step), gradients)])
    return found, [[m.numpy() for m in [*memories[k], *squares[k]]] for k in range(workers)]


def squares_at_first(sizes):
    rng = np.random.default_rng(7)
    return [rng.random(n) for n in sizes]


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


CHOICES = [("largest", 1 / 16), ("largest", 0.6), ("all", None)]
STEPS = [("sign", *CHOICES[0]), ("sign", *CHOICES[2]), ("float32", *CHOICES[1])]
STEPS += [slow("sign", *CHOICES[1]), slow("float32", *CHOICES[0]), slow("float32", *CHOICES[2])]
STEPS += [(wire, *CHOICES[0]) for wire in VALUES if wire not in ("sign", "float32")]
STEPS += [slow(wire, *choice) for wire in VALUES if wire not in ("sign", "float32") for choice in CHOICES[1:]]


@pytest.mark.parametrize("wire, select, fraction", STEPS)
def test_steps_are_those_of_the_reference(wire, select, fraction):
    rounded = {"bfloat16": 2e-3, "int8": 5e-3}.get(wire, 0.0)  # a coordinate near the middle may round otherwise
    for source in ("counter", "native"):
        use = made(wire, select, fraction, source=source, seed=-(2**40) + 7)
        found, memories = trained(use, SIZES, 3, 2, seed=1)
        rng = np.random.default_rng(1)
        workers = [Worker(SIZES, fraction or 1, wire, 1.0, -(2**40) + 7, True) for _ in range(2)]
        for step in range(3):
            gradients = [[rng.standard_normal(n).astype(np.float32) for n in SIZES] for _ in range(2)]
            parts = [worker.step(own, step) for worker, own in zip(workers, gradients)]
            for u, a, b in zip(found[step], *parts):
                close(u, (a + b) / 2, 2e-5 + rounded)
        for own, worker in zip(memories, workers):
            for m, reference in zip(own, worker.memory):
                np.testing.assert_allclose(m, reference, atol=2e-5 + 4 * rounded)


@pytest.mark.parametrize("memory, fixed, second_moment, source", [
    (None, True, None, "counter"), (0.5, False, None, "counter"), (1.0, True, None, "native"),
    (None, False, 0.9, "native"), (0.5, True, 0.9, "native"), (1.0, False, 0.9, "counter"),
])  # fmt: skip
def test_memory_second_moment_and_fixed_bases(memory, fixed, second_moment, source):
    use = made(memory=memory, fixed=fixed, second_moment=second_moment, source=source)
    found, _ = trained(use, SIZES, 3, 1, seed=2)
    rng = np.random.default_rng(2)
    worker = Worker(SIZES, 1 / 16, "sign", memory, 5, not fixed, second_moment)
    worker.squares = squares_at_first(SIZES)
    for step in range(3):
        expected = worker.step([rng.standard_normal(n).astype(np.float32) for n in SIZES], step)
        for u, reference in zip(found[step], expected):
            close(u, reference, 2e-5)


def test_below_one_coordinate_a_block_some_of_the_blocks_send():
    """One message of all blocks of a length; the same bits by machine code and operations."""
    sizes, fraction = [3 * 4096 + 10, 700, 4 * 4096, 10, 1, 1, 4097], 2e-4  # three blocks of one, too
    runs = []
    for source in ("counter", "native"):
        use = made("sign", fraction=fraction, source=source)
        sketch = use.sketch([(n,) for n in sizes])
        assert sketch.shapes == [Shape(1, 8 * 4096, 7), Shape(1, 20, 1), Shape(1, 700, 1), Shape(1, 3, 1)]
        assert sketch.dim == 10
        runs.append(trained(use, sizes, 2, 2, seed=4))
    workers = [Worker(sizes, fraction, "sign", 1.0, 5, True) for _ in range(2)]
    rng = np.random.default_rng(4)
    for step in range(2):
        gradients = [[rng.standard_normal(n).astype(np.float32) for n in sizes] for _ in range(2)]
        parts = [worker.step(own, step) for worker, own in zip(workers, gradients)]
        for u, a, b in zip(runs[0][0][step], *parts):
            np.testing.assert_allclose(u, (a + b) / 2, atol=2e-5)
    for run in runs[1:]:
        for one, other in zip(tf.nest.flatten(run), tf.nest.flatten(runs[0])):
            np.testing.assert_array_equal(one, other)
    assert message_bytes("sign", sketch.shapes) == 22


@pytest.mark.parametrize("wire", ["sign", slow("int8"), slow("float32")])
def test_machine_code_operations_and_xla_have_the_same_bits(wire):
    sizes = SIZES[:2]  # XLA takes half a minute for all of them
    runs = [
        trained(made(wire, source=source), sizes, 3, 2, seed=3, compile=compile)
        for source, compile in (("counter", False), ("native", False), ("counter", True))
    ]
    for found, memories in runs[1:]:
        for one, other in zip(tf.nest.flatten([found, memories]), tf.nest.flatten(list(runs[0]))):
            np.testing.assert_array_equal(one, other)


def test_a_second_moment_by_machine_code_and_operations():
    """To the last bits: a compiler may take a product and a sum in one."""
    runs = []
    for source, compile in (("counter", False), ("native", False), ("counter", True)):
        use = made("float32", source=source, memory=0.5, second_moment=0.9)
        runs.append(trained(use, SIZES[2:4], 3, 1, seed=3, compile=compile))
    for run in runs[1:]:
        for one, other in zip(tf.nest.flatten(run), tf.nest.flatten(runs[0])):
            np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("fixed, second_moment", [(True, None), (False, None), (True, 0.5)])
def test_machine_code_works_on_some_vectors_at_a_time(fixed, second_moment, monkeypatch):
    sizes = [5000, 10, 4096, 5000, 9000, 10, 1]
    rng = np.random.default_rng(0)
    gradients = [[tf.constant(rng.standard_normal(n), tf.float32) for n in sizes] for _ in range(2)]
    found = []
    for source, part in (("counter", None), ("native", 1 << 20), ("native", 6000)):
        if second_moment is not None and source == "counter":
            continue  # not the last bits of the root
        if part:
            monkeypatch.setattr(native_blocks, "PART", part)
        use = made("sign", source=source, fixed=fixed, memory=0.5, second_moment=second_moment)
        sketch = use.sketch([(n,) for n in sizes])
        memory, squares = ([[tf.Variable(tf.ones([n])) for n in sizes] for _ in range(2)] for _ in range(2))
        squares = squares if second_moment is not None else [[], []]
        other = compression.send(use, sketch, gradients[1], memory[1], tf.constant(3), None, squares[1], 3)
        own = compression.send(use, sketch, gradients[0], memory[0], tf.constant(3), None, squares[0], 3)
        both = own._replace(coordinates=[other.own, own.own])
        u = compression.receive(sketch, both, memory[0], tf.constant(3))
        compression.receive(sketch, other, memory[1], tf.constant(3))
        signs = sketch.receive(both, [], tf.constant(3), True)
        found.append([x.numpy() for x in [*u, *signs, *memory[0], *memory[1], *squares[0], *squares[1]]])
        for x, sign in zip(u, signs):
            np.testing.assert_array_equal(np.sign(x), sign)
    for other in found[1:]:
        for x, y in zip(found[0], other):
            np.testing.assert_array_equal(x, y)


def test_of_equal_coordinates_the_first_are_chosen():
    for source in ("counter", "native"):
        use = made("float32", fraction=4 / 16, memory=None, fixed=True, source=source)
        sketch = use.sketch([(16,)])
        # Of a unit vector all coordinates are equal but for their signs.
        (chosen,) = sketch.choose([tf.one_hot(3, 16)], tf.constant(0))
        assert chosen[0].numpy().tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize(
    "n, k", [(4096, 32), (4096, 1), (4096, 200), (4096, 3000), (4095, 7), (100, 3), (9, 9), (2, 1)]
)
def test_machine_code_chooses_the_largest(n, k):
    rng = np.random.default_rng(k)
    integers = rng.integers(-3, 4, n)  # many are equal
    spiked = np.where(rng.random(n) < 0.01, 1.0, 0.0) * rng.standard_normal(n)
    vectors = [
        rng.standard_normal(n),
        integers,
        np.zeros(n),
        spiked,
        np.full(n, np.nan),
        np.sort(rng.standard_normal(n)),
    ]
    for c in np.asarray(vectors, np.float32):
        index, values = np.zeros(k, np.int32), np.zeros(k, np.float32)
        native_blocks._largest(c, k, index, values, np.empty(4096, np.uint32), np.empty(4096, np.int32))
        bits = np.abs(c).view(np.uint32).astype(np.int64)
        expected = np.sort(np.argsort(-bits, kind="stable")[:k])
        np.testing.assert_array_equal(index, expected)
        np.testing.assert_array_equal(values, c[expected])


@pytest.mark.parametrize("source", ["counter", "native"])
@pytest.mark.parametrize("wire", VALUES)
def test_what_is_not_finite_is_sent_and_not_remembered(wire, source):
    use = made(wire, source=source)
    sketch = use.sketch([(n,) for n in SIZES])
    memory = [tf.Variable(tf.ones([n])) for n in SIZES]
    for bad in (np.nan, np.inf):
        gradients = [tf.zeros([n]) for n in SIZES]
        gradients[2] = tf.tensor_scatter_nd_update(gradients[2], [[7]], [bad])
        sent = compression.send(use, sketch, gradients, memory, tf.constant(0), lambda m: [m, m])
        updates = compression.receive(sketch, sent, memory, tf.constant(0))
        assert not bool(sent.finite) and all(np.isnan(u).any() for u in updates)
        for m in memory:
            np.testing.assert_array_equal(m, np.ones(m.shape))


@pytest.mark.parametrize("distribution", ["groups", "hadamard", "blocks"])
def test_all_coordinates_of_other_bases(distribution):
    dim = None if distribution == "blocks" else 40
    use = Compression(BasisSpec(distribution=distribution, source="counter", seed=5), dim=dim)
    compression.check(use)
    sketch = use.sketch([(20, 30), (7,)])
    rng = np.random.default_rng(0)
    g = [tf.constant(rng.standard_normal(n), tf.float32) for n in (600, 7)]
    sent = compression.send(use, sketch, g, [], tf.constant(3), lambda m: [m])
    u = np.concatenate(sketch.expand(sent.coordinates, tf.constant(3)))
    g = np.concatenate(g)
    if distribution == "blocks":
        close(u, g, 1e-6)
    else:  # a projection, but for the padding of Hadamard: <u, g> = |u|^2
        assert abs(u @ g / (u @ u) - 1) < 0.02
    assert sketch.dim == (607 if distribution == "blocks" else 40)


def test_a_number_of_numpy_keeps_the_first_basis_too():
    assert compression.compression(np.int64(0), None, 0.1, "largest", 1.0, "sign", distribution="blocks").fixed


def test_the_layout_counts_every_coordinate_once():
    for sizes in ([1], [4096], [5000, 10, 5000], [904, 5000], [12288, 4097, 1, 1]):
        for fraction in (1.0, 0.3, 1 / 128, 1e-6):
            layout = Layout(sizes, fraction)
            assert sum(shape.blocks * shape.n for shape in layout.shapes) == sum(sizes)
            assert all(1 <= shape.k <= shape.n for shape in layout.shapes)
            assert sum(shape.blocks * shape.n for shape in layout.sent_shapes) == sum(sizes)
            assert layout.coordinates == sum(shape.blocks * shape.k for shape in layout.sent_shapes)
            assert layout.sent_shapes == layout.shapes or fraction == 1e-6


def test_a_number_of_coordinates_is_met_where_blocks_are_small():
    """With ``shared`` blocks of less than one coordinate share them; else each sends one."""
    sizes = [100] * 30 + [10] * 30 + [4096]
    D = sum(sizes)
    for dim in (3, 5, 8, 20, 40, 62, 100, 400, D):
        layout = Layout(sizes, dim / D, shared=True)
        assert abs(layout.coordinates - dim) <= max(2, 0.15 * dim)
        assert sum(shape.blocks * shape.n for shape in layout.sent_shapes) == D
    assert Layout(sizes, 5 / D).coordinates == 63


def test_a_number_of_coordinates_by_machine_code_and_operations():
    sizes = [100] * 7 + [10] * 3 + [5000]
    variables, step, runs = [(n,) for n in sizes], tf.constant(0), []
    for source in ("counter", "native"):
        use = made("float32", source=source)._replace(dim=9, fraction=None)
        assert use.sketch(variables).dim == 9
        runs.append(trained(use, sizes, 3, 2, seed=4))
    for one, other in zip(tf.nest.flatten(runs[0]), tf.nest.flatten(runs[1])):
        np.testing.assert_array_equal(one, other)
    # Of blocks that share them, those with the largest coordinates of all send one each.
    sketch = made("float32", memory=None)._replace(dim=9, fraction=None).sketch(variables)
    g = [np.random.default_rng(6).standard_normal(n).astype(np.float32) for n in sizes]
    whole = made("float32", "all", None, None).sketch(variables).choose(g, step)
    for (_, values), (_, c), shape in zip(sketch.choose(g, step), whole, sketch.shapes):
        if c.shape[0] > 1:
            candidates = np.sort(np.abs(c.numpy()).max(axis=1))[::-1]
            np.testing.assert_allclose(np.sort(np.abs(values.numpy()[0]))[::-1], candidates[: shape.k], rtol=1e-6)


@pytest.mark.parametrize("source", ["counter", "native"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_never_lost(source, bad):
    """Neither by a selection, for which NaN is not large, nor by the sign, which infinity has."""
    g = np.ones(9000, np.float32)
    g[17] = bad
    for wire in VALUES:
        for select, fraction in (("all", None), ("largest", 0.01), ("largest", 1e-5)):
            use = made(wire, select, fraction, None, source=source)
            sketch = use.sketch([(9000,)])
            sent = compression.send(use, sketch, [tf.constant(g)], [], tf.constant(0), None)
            for sign in (False, True):
                (u,) = compression.receive(sketch, sent, [], tf.constant(0), sign)
                assert not np.isfinite(u.numpy()).all()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"select": "most"}, "unknown select 'most'; accepted: 'all', 'largest'"),
        ({"wire": "float16"}, "unknown wire 'float16'; accepted: 'float32', 'bfloat16'"),
        ({"dim": 3, "fraction": 0.5}, "not both: got dim=3, fraction=0.5"),
        ({"fraction": 0.0}, r"fraction must be in \(0, 1\]"),
        ({"fraction": None}, "select='largest' needs dim or fraction"),
        ({"basis": BasisSpec(distribution="normal")}, "select='largest' needs an orthonormal basis"),
        ({"basis": BasisSpec(distribution="normal"), "select": "all"}, "memory=1.0 needs orthonormal directions"),
        ({"basis": BasisSpec(distribution="groups", normalize="none"), "select": "all"}, "needs normalize='unit'"),
        ({"basis": BasisSpec(distribution="blocks", compartments="layer")}, "cuts every variable into blocks"),
        ({"basis": BasisSpec(distribution="blocks", normalize="none"), "memory": None}, "normalize must be 'unit'"),
    ],
)
def test_what_does_not_go_together_is_refused(change, words):
    with pytest.raises((ValueError, TypeError), match=words):
        compression.check(made()._replace(**change))


def test_dim_must_fit_the_model():
    with pytest.raises(ValueError, match="dim=700 is more than the 600 parameters"):
        made()._replace(dim=700, fraction=None).sketch([(600,)])
    with pytest.raises(
        ValueError, match="dim=2: this model has blocks of 3 lengths, and those of each send at least"
    ):
        made()._replace(dim=2, fraction=None).sketch([(600,), (5000,)])
    with pytest.raises(ValueError, match="select='all' dim must be 600 or None"):
        made()._replace(dim=100, fraction=None, select="all").sketch([(600,)])
    assert made()._replace(dim=60, fraction=None).sketch([(600,)]).dim == 60


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.0])
def test_a_traced_function_sees_what_is_not_finite(value):
    """TensorFlow 2.6 takes 0 * x for 0, whatever x is."""
    found = tf.function(compression.all_finite)([tf.constant([1.0, 2.0]), tf.constant([1.0, value])])
    assert bool(found) == (value == 1.0)
