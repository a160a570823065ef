"""Source poprand on a CPU: held to its own directions in float64, and to the rules of the hardware it is for.

Its numbers are those of the device; what is tested here is that every method draws the same ones, each block by one
operation of one shape and with a seed of its own.
"""

import numpy as np
import pytest
from reference import close

import rbd_ipu
from rbd_ipu._compat import tf
from rbd_ipu.basis import NORMALIZATIONS
from rbd_ipu.compartments import Compartments
from rbd_ipu.directions import DISTRIBUTIONS, SOURCES
from rbd_ipu.directions.poprand import DRAWS, PopRand
from rbd_ipu.placement import BLOCK_ENTRIES
from rbd_ipu.seeds import fold_in
from rbd_ipu.subspace import Subspace

SECOND_MOMENT = {"normal": 1.0, "uniform": 1 / 3, "rademacher": 1.0, "bernoulli-0.5": 1.25}


def basis(size, dim, distribution="normal", normalize="unit", block=None):
    return rbd_ipu.RandomBasis(size, dim, distribution, normalize, source="poprand", block=block)


def vector(size, seed=0):
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def test_every_distribution_can_be_drawn():
    assert set(DRAWS) == set(DISTRIBUTIONS)


# Blocks that are full, not full, of one direction, and more than there are directions.
@pytest.mark.parametrize("size, dim, block", [(1, 1, None), (17, 50, 7), (17, 3, 1), (5000, 8, 4), (300, 6, 100)])
@pytest.mark.parametrize("distribution, normalize", [(d, n) for d in DRAWS for n in NORMALIZATIONS])
def test_all_methods_are_the_explicit_projection(distribution, normalize, size, dim, block):
    b, g, seed = basis(size, dim, distribution, normalize, block), vector(size), size + dim
    P = b.directions(seed).numpy().astype(np.float64)
    assert P.shape == (dim, size)
    if normalize == "unit":
        np.testing.assert_allclose(np.linalg.norm(P, axis=1), 1.0, rtol=1e-5)
    c = P @ g.astype(np.float64)
    u = P.T @ c
    atol = 1e-5 * np.linalg.norm(g) / np.sqrt(size) * np.linalg.norm(P, axis=1).max()
    coordinates, update = b.sketch(g, seed)
    np.testing.assert_allclose(coordinates, c, rtol=1e-5, atol=atol)
    np.testing.assert_allclose(b.project(g, seed), c, rtol=1e-5, atol=atol)
    close(update, u)
    close(b.expand(c.astype(np.float32), seed), u)


@pytest.mark.parametrize("distribution", ["hadamard", "sparse"])
def test_structured_distributions_work_as_with_counter(distribution):
    """Their numbers are hashed in int32, on an IPU too: matrix products, gathers and sums, the same everywhere."""
    seed = fold_in(3, "step", 1)
    one = basis(40, 6, distribution)
    other = rbd_ipu.RandomBasis(40, 6, distribution, source="counter")
    np.testing.assert_allclose(one.directions(seed), other.directions(seed), rtol=1e-6)


def test_parts_of_a_basis_are_those_of_the_whole():
    b = basis(30, 11, block=4)
    whole = b.directions(5).numpy()
    for start in range(11):
        for count in range(1, 12 - start):
            np.testing.assert_allclose(b.directions(5, start, count), whole[start : start + count], rtol=1e-6)


def test_a_start_may_be_traced():
    source = PopRand(2, 30, 11, "normal", "none", 4)
    seeds = fold_in(fold_in(1), tf.range(2))
    whole = source.directions(seeds, 0, 11).numpy()
    part = tf.function(lambda start: source.directions(seeds, start, 3))
    for start in (0, 2, 4, 8):
        np.testing.assert_array_equal(part(tf.constant(start)), whole[:, start : start + 3])
    blocks = tf.function(lambda start: source.block_at(seeds, start, 4))
    np.testing.assert_array_equal(blocks(tf.constant(4)), whole[:, 4:8])
    np.testing.assert_array_equal(blocks(tf.constant(8))[:, :3], whole[:, 8:])


@pytest.mark.parametrize("distribution", DRAWS)
def test_moments(distribution):
    x = basis(20_000, 20, distribution, "none", block=3).directions(9).numpy().astype(np.float64)
    mean = -0.5 if distribution == "bernoulli-0.5" else 0.0
    error = 5 / np.sqrt(x.size)  # five standard deviations of a mean of entries of variance 1 or less
    assert abs(x.mean() - mean) < error
    assert abs((x**2).mean() - SECOND_MOMENT[distribution]) < 2 * error
    if distribution == "rademacher":
        assert set(np.unique(x)) == {-1.0, 1.0}


def test_blocks_steps_workers_and_compartments_have_nothing_in_common():
    """Cosines of all pairs of directions, from one basis and from four that differ in one part of the seed."""
    n = 20_000
    space = Subspace(Compartments.of([(n,), (n,)], "variable", 16), source=f"poprand:{3 * n}")
    drawn = [space.directions(0, step, worker).numpy() for step, worker in ((0, 0), (1, 0), (0, 1), (1, 1))]
    rows = np.concatenate([P[:8, :n] for P in drawn] + [P[8:, n:] for P in drawn]).astype(np.float64)
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, 0.0)
    assert np.abs(cosines).max() < 6 / np.sqrt(n)


def test_a_compartment_does_not_depend_on_those_beside_it():
    seeds = fold_in(fold_in(1), tf.range(3))
    together = PopRand(3, 30, 5, "normal", "unit", 2)
    alone = PopRand(1, 30, 5, "normal", "unit", 2)
    v = vector(90).reshape(3, 30)
    c, u = together.sketch(v, seeds)
    for k in range(3):
        own_c, own_u = alone.sketch(v[k : k + 1], seeds[k : k + 1])
        np.testing.assert_allclose(c[k], own_c[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(u[k], own_u[0], rtol=1e-5, atol=1e-6)


def test_other_heights_of_blocks_are_other_directions():
    """The contract: directions depend on the block, which is why its size is part of the source's name."""
    one, other = (basis(50, 8, block=rows).directions(1).numpy() for rows in (4, 8))
    assert np.abs(one - other).max() > 0.1


def test_blocks_keep_to_the_memory_of_the_device():
    from rbd_ipu.directions import make_source

    for source, entries in (("poprand", BLOCK_ENTRIES), ("poprand:7000000", 7_000_000)):
        made = make_source(source, 1, 101_770, 250, "normal", "unit")
        assert made.rows * 101_770 <= entries < (made.rows + 1) * 2 * 101_770 + entries
        assert made.rows * (made.blocks - 1) < 250 <= made.rows * made.blocks
    with pytest.raises(ValueError, match="one direction over 50 parameters does not fit a block of 49 entries"):
        rbd_ipu.RandomBasis(50, 4, source="poprand:49")


@pytest.mark.parametrize("text", ["", "x", "0", "-3", "1.5", "7e6"])
def test_a_wrong_size_of_blocks_is_refused(text):
    with pytest.raises(ValueError, match=f"needs an integer B >= 1, the entries of a block; got 'poprand:{text}'"):
        rbd_ipu.RandomBasis(50, 4, source=f"poprand:{text}")


def test_xla_compiles_it_whole():
    """The numbers of another compiler are others; the same program draws the same ones in every method."""
    source, g = PopRand(2, 30, 5, "normal", "unit", 2), vector(60).reshape(2, 30)

    @tf.function(jit_compile=True)
    def run(seeds):
        return (*source.sketch(g, seeds), source.directions(seeds, 0, 5))

    c, u, P = (x.numpy().astype(np.float64) for x in run(fold_in(fold_in(1), tf.range(2))))
    for k in range(2):
        close(c[k], P[k] @ g[k])
        close(u[k], P[k].T @ (P[k] @ g[k]))


def test_only_integers_that_an_ipu_has():
    """Operations of the traced projection: 32-bit integers, but for the opaque key of TensorFlow's generator."""
    space = Subspace(Compartments.of([(30, 4)], "global", 12), source="poprand:500")
    graph = tf.function(lambda g, step: space.sketch(g, 0, step)).get_concrete_function(
        tf.TensorSpec([120]), tf.TensorSpec([], tf.int32)
    )
    definition = graph.graph.as_graph_def(add_shapes=False)
    nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
    allowed = {tf.float32, tf.int32, tf.bool, tf.variant, tf.resource}
    kinds = {(n.op, tf.as_dtype(v.type)) for n in nodes for v in n.attr.values() if v.WhichOneof("value") == "type"}
    assert {k for k in kinds if k[1] not in allowed} == set()
    assert sum(n.op.startswith("StatelessRandomNormal") for n in nodes) == 1  # one operation, in a loop over blocks
    assert not any("FoldIn" in n.op or "RngReadAndSkip" in n.op for n in nodes)


def test_it_is_a_row():
    assert "poprand" in SOURCES
    assert rbd_ipu.RandomBasis(50, 4, source="poprand").source == "poprand"
