"""Subspace: every compartment scheme against one dense float64 matrix, and the seed contract."""

import numpy as np
import pytest
from reference import close

import rbd_ipu
from rbd_ipu._compat import tf
from rbd_ipu.compartments import SCHEMES, Compartments
from rbd_ipu.directions import DISTRIBUTIONS
from rbd_ipu.seeds import fold_in
from rbd_ipu.subspace import RedrawnSubspace, Subspace, subspace

SHAPES = [(9, 7), (7,), (7, 5), (5,), ()]
EXAMPLES = {"global": "global", "even:K": "even:3", "layer": "layer", "variable": "variable", "factor:f": "factor:4"}


def test_every_scheme_has_an_example():
    assert set(EXAMPLES) == set(SCHEMES)


@pytest.mark.parametrize(
    "scheme, distribution",
    [(scheme, "normal") for scheme in EXAMPLES.values()] + [("even:3", row) for row in DISTRIBUTIONS],
)
def test_against_the_dense_matrix(scheme, distribution):
    cut = Compartments.of(SHAPES, scheme, None if scheme.startswith("factor") else 20)
    space = Subspace(cut, distribution)
    g = np.random.default_rng(1).standard_normal(space.size).astype(np.float32)
    P = space.directions(3, 7, 1).numpy().astype(np.float64)  # [d, D]
    assert P.shape == (space.dim, space.size)
    c = P @ g.astype(np.float64)
    coordinates, update = space.sketch(g, 3, 7, 1)
    close(coordinates, c, 2e-6)
    close(update, P.T @ c, 2e-6)
    close(space.filter(g, 3, 7, 1), P.T @ c, 2e-6)
    close(space.project(g, 3, 7, 1), c, 2e-6)
    close(space.expand(c.astype(np.float32), 3, 7, 1), P.T @ c, 2e-6)


@pytest.mark.parametrize("scheme", EXAMPLES.values())
def test_compartments_do_not_overlap(scheme):
    cut = Compartments.of(SHAPES, scheme, None if scheme.startswith("factor") else 20)
    P = Subspace(cut).directions(0).numpy()
    row = 0
    for piece in cut:
        block = P[row : row + piece.dim]
        inside = block[:, piece.start : piece.start + piece.size]
        assert np.all(inside != 0) and np.count_nonzero(block) == inside.size
        np.testing.assert_allclose(np.linalg.norm(block, axis=1), 1.0, rtol=1e-5)
        row += piece.dim


def test_the_seed_contract():
    """step, worker, compartment, direction: each piece is the RandomBasis of its own folded seed."""
    cut = Compartments.of(SHAPES, "even:3", 20)
    P = Subspace(cut).directions(3, 7, 1).numpy()
    row = 0
    for k, piece in enumerate(cut):
        seed = fold_in(3, "step", 7, "worker", 1, "compartment", k)
        alone = rbd_ipu.RandomBasis(piece.size, piece.dim).directions(seed)
        drawn = P[row : row + piece.dim, piece.start : piece.start + piece.size]
        np.testing.assert_allclose(drawn, alone, rtol=1e-6)  # the norm's last bit depends on the shape
        row += piece.dim


def test_another_seed_step_or_worker_is_another_basis():
    space = Subspace(Compartments.of([100], "global", 3))
    bases = [space.directions(*key).numpy() for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]]
    for i, one in enumerate(bases):
        for other in bases[i + 1 :]:
            assert np.abs(one - other).min() > 0


def test_small_groups_are_compiled_beside_one_that_is_cut_into_programs():
    cut = Compartments.of([(40_000,), (50,)], "variable", 200)
    space = Subspace(cut, "rademacher", "unit", "counter")
    assert not any(source.jit for _, source in space._groups)  # none is left to run operation by operation
    g = np.random.default_rng(1).standard_normal(space.size).astype(np.float32)
    P = space.directions(3, 7).numpy().astype(np.float64)
    close(space.filter(g, 3, 7), P.T @ (P @ g), 2e-6)


def test_the_programs_of_a_large_basis_do_not_wait_for_each_other():
    """TensorFlow chains stateful operations, such as those that launch compiled programs."""
    space = Subspace(Compartments.of([40_000], "global", 200), source="counter")
    ((_, source),) = space._groups
    graph = source._side_by_side.get_concrete_function(
        "project", tf.TensorSpec([1, 40_000]), tf.TensorSpec([1, 2], tf.int32)
    ).graph
    calls = [op for op in graph.get_operations() if op.type == "PartitionedCall"]
    assert len(calls) > 1 and not any(op.control_inputs for op in calls)


def test_equal_arguments_share_one_program():
    cut = Compartments.of(SHAPES, "layer", 20)
    again = Compartments.of(SHAPES, "layer", 20)
    assert subspace(cut, "normal", "unit", "auto") is subspace(again, "normal", "unit", "auto")


@pytest.mark.parametrize("source", ["counter", "native"])
@pytest.mark.parametrize("size", [17, 1000, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 400, 4097))])
def test_a_hadamard_filter_is_its_sketch_for_few_and_for_nearly_all_directions(size, source):
    if source == "native":
        pytest.importorskip("numba")
    g = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    for dim in sorted({1, max(1, size // 2), size}):
        space = Subspace(Compartments.of([size], "global", dim), "hadamard", "unit", source)
        close(space.filter(g, 5, 1), space.sketch(g, 5, 1)[1], 2e-6)


@pytest.mark.parametrize("most", [0, 1 << 20])
def test_many_compartments_of_few_sizes_are_one_program(most, monkeypatch):
    """Whether the entries are put in their places by slices or by numbers."""
    from rbd_ipu.directions import dense

    monkeypatch.setattr(dense, "MOST_PLACES", most)
    space = Subspace(Compartments.of([(30, 7), (7,)] * 20, "variable", 120), source="counter")
    assert len(space._groups) == 2 and space._many() is not None
    vector = np.random.default_rng(0).standard_normal(space.size).astype(np.float32)
    P = space.directions(5, 3, 1).numpy().astype(np.float64)
    close(space.filter(vector, 5, 3, 1).numpy(), P.T @ (P @ vector), 1e-5)


@pytest.mark.parametrize("shapes", [[(30, 7), (7,)] * 20, [(3,), (10,), (70,), (210,), (5,), (1,)]])
def test_directions_that_are_redrawn_alone_in_many_compartments(shapes):
    space = RedrawnSubspace(Compartments.of(shapes, "variable", 120))
    vector = np.random.default_rng(0).standard_normal(space.size).astype(np.float32)
    draws = tf.range(space.dim) % 3
    P = space.directions(5, draws).numpy().astype(np.float64)
    close(space.filter(vector, 5, draws).numpy(), P.T @ (P @ vector), 1e-5)


def as_the_dense_matrix(space, expands=True):
    """The operations of a step are those of the directions as a matrix, to 1e-5."""
    rng = np.random.default_rng(0)
    vector, coordinates = (rng.standard_normal(n).astype(np.float32) for n in (space.size, space.dim))
    P = space.directions(5, 3, 1).numpy().astype(np.float64)
    both = space.sketch(vector, 5, 3, 1)
    close(both[0].numpy(), P @ vector, 1e-5)
    close(both[1].numpy(), P.T @ (P @ vector), 1e-5)
    if expands:
        close(space.expand(coordinates, 5, 3, 1).numpy(), P.T @ coordinates, 1e-5)


@pytest.mark.parametrize(
    "kind",
    [
        {"distribution": "hadamard", "source": "counter"},
        {"distribution": "hadamard", "source": "auto"},
        {"distribution": "groups", "source": "counter"},
        {"orthogonalize": True, "source": "counter"},
    ],
    ids=str,
)
def test_many_compartments_of_directions_that_are_made_as_a_whole(kind):
    """They are put in place by gathers; few are cut out and joined."""
    space = Subspace(Compartments.of([(6, 5), (5,)] * 18, "variable", 90), **kind)
    as_the_dense_matrix(space)


@pytest.mark.parametrize("kind", [("normal", "unit"), ("rademacher", "expected"), ("uniform", "none")])
def test_many_sizes_of_compartments_are_one_program(kind):
    """More than a tile in either way, and less; against the dense directions, which are drawn size by size."""
    from rbd_ipu.directions.dense import Many

    shapes = [(3,), (10,), (700,), (2100,), (5000,), (1,)]
    space = Subspace(Compartments.of(shapes, "variable", 110), *kind, source="counter")
    as_the_dense_matrix(space, expands=kind[1] == "unit")

    def operations(count):  # of the program of so many sizes
        cut = Compartments.of([(n,) for n in range(1, count + 1)], "variable", 10 * count)
        many = Many(cut, *kind)
        traced = tf.function(many.sketch).get_concrete_function(tf.zeros([cut.size]), tf.zeros([count, 2], tf.int32))
        return len(traced.graph.get_operations())

    assert operations(200) - operations(100) == 100 * (operations(101) - operations(100)) <= 600


@pytest.mark.parametrize("source, distribution", [("counter", "normal"), ("auto", "hadamard"), ("counter", "groups")])
def test_autograph_rewrites_nothing_of_it(source, distribution, rewritten):
    space = Subspace(Compartments.of([(40, 3), (3,)], "variable", 4), distribution, source=source)

    @tf.function
    def step(g, index):
        return space.filter(g, 0, index)

    step(tf.ones([123]), tf.constant(0))
    assert rewritten and not [module for module, _ in rewritten if module.startswith("rbd_ipu")]
