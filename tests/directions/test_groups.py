"""Distribution groups: each parameter in one direction; machine code as operations; vectors in pieces."""

import numpy as np
import pytest

import rbd_ipu
from rbd_ipu._compat import tf
from rbd_ipu.compartments import Compartments
from rbd_ipu.directions import make_source
from rbd_ipu.directions.native.dense import plain
from rbd_ipu.subspace import subspace

SIZES = [(10, 3), (100, 7), (100, 100), (5, 5), (1000, 999), (7, 1), (40000, 1000), (70000, 33000)]
SEEDS = tf.constant([[1, 2], [3, 4]])


@pytest.mark.parametrize("normalize", ["unit", "expected", "none"])
@pytest.mark.parametrize("n, d", SIZES)
def test_machine_code_is_as_the_operations(n, d, normalize):
    ops, native = (make_source(source, 2, n, d, "groups", normalize) for source in ("counter", "native"))
    v = np.random.default_rng(n + d).standard_normal((2, n)).astype(np.float32)
    c = ops.project(v, SEEDS).numpy()
    scale = np.abs(c).max()
    np.testing.assert_allclose(native.project(v, SEEDS), c, atol=1e-5 * scale)
    np.testing.assert_allclose(native.expand(c, SEEDS), ops.expand(c, SEEDS), atol=1e-5 * scale)
    found, update = native.sketch(v, SEEDS)
    np.testing.assert_allclose(found, c, atol=1e-5 * scale)
    np.testing.assert_array_equal(native.filter(v, SEEDS), update)


@pytest.mark.parametrize("n, d", SIZES[:6])
def test_directions_have_disjoint_supports_and_norm_one(n, d):
    P = make_source("counter", 2, n, d, "groups", "unit").directions(SEEDS, 0, d).numpy()
    for group in P:
        assert ((group != 0).sum(axis=0) == 1).all()
        np.testing.assert_allclose(group @ group.T, np.eye(d), atol=1e-6)
    if n > 50:
        assert not np.array_equal(P[0], P[1])


def test_members_and_signs_are_random():
    """A parameter is in each direction equally often, with each sign."""
    source = make_source("counter", 400, 12, 4, "groups", "none")
    seeds = tf.stack([tf.range(400), tf.range(400) * 7 + 1], axis=1)
    P = source.directions(seeds, 0, 4).numpy() / 2.0  # [400, 4, 12] of 0 and +-1
    assert np.abs((P != 0).mean(axis=0) - 0.25).max() < 0.11
    assert np.abs(P.sum(axis=(0, 1))).max() < 90


@pytest.mark.parametrize("source", ["counter", "native"])
def test_pieces_are_as_the_whole(source):
    space = subspace(Compartments.of([(90000,)], "global", 700), "groups", "unit", source)
    rng = np.random.default_rng(0)
    pieces = [rng.standard_normal(n).astype(np.float32) for n in (1, 0, 69999, 20000)]
    whole = np.concatenate(pieces)
    tensors = [tf.constant(piece) for piece in pieces]
    c = space.project(whole, 5, 3).numpy()
    np.testing.assert_allclose(space.project_pieces(tensors, 5, 3), c, atol=1e-5)
    expected = space.expand(c, 5, 3).numpy()
    sizes = [len(piece) for piece in pieces]
    np.testing.assert_allclose(np.concatenate(space.expand_pieces(c, sizes, 5, 3)), expected, atol=1e-6)
    np.testing.assert_allclose(np.concatenate(space.filter_pieces(tensors, 5, 3)), expected, atol=1e-5)
    moved = space.expand_pieces(c, sizes, 5, 3, onto=tensors)
    np.testing.assert_array_equal(np.concatenate(moved), whole + np.concatenate(space.expand_pieces(c, sizes, 5, 3)))


def test_results_do_not_depend_on_the_number_of_threads(monkeypatch):
    found = []
    v = plain(np.random.default_rng(0).standard_normal((1, 600_000)).astype(np.float32))
    for threads in ("1", "2"):
        monkeypatch.setenv("RBD_NUM_THREADS", threads)
        found.append(make_source("native", 1, 600_000, 1000, "groups", "unit").sketch(v, SEEDS[:1]))
    for one, other in zip(*found):
        np.testing.assert_array_equal(one, other)


def test_more_directions_than_parameters_are_refused():
    with pytest.raises(ValueError, match="dim must be at most 10, got 11"):
        rbd_ipu.RandomBasis(10, 11, distribution="groups")
