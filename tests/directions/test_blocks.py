"""Distribution blocks: an orthonormal basis of all directions."""

import numpy as np
import pytest
from compression_reference import fold, signs, transform

import rbd_ipu
from rbd_ipu._compat import tf
from rbd_ipu.directions import make_source
from rbd_ipu.directions.blocks import pieces

SEEDS = tf.constant([[1, 2], [3, 4]])


@pytest.mark.parametrize("n", [1, 2, 10, 64, 100, 4096, 4096 + 10, 9000])
def test_it_is_the_transform_of_the_reference(n):
    source = make_source("counter", 2, n, n, "blocks", "unit")
    v = np.random.default_rng(n).standard_normal((2, n)).astype(np.float32)
    c = source.project(v, SEEDS).numpy()
    for own, key, found in zip(v, ((1, 2), (3, 4)), c):
        np.testing.assert_allclose(found, transform(signs(fold(key), n) * own), atol=1e-5)
    np.testing.assert_allclose(source.expand(c, SEEDS), v, atol=1e-5)


@pytest.mark.parametrize("name", ["blocks", "blocks:unsigned"])
def test_directions_are_orthonormal(name):
    source = make_source("counter", 2, 70, 70, name, "unit")
    P = source.directions(SEEDS, 0, 70).numpy()
    for group in P:
        np.testing.assert_allclose(group @ group.T, np.eye(70), atol=1e-6)
    assert np.array_equal(P[0], P[1]) == (name == "blocks:unsigned")


def test_pieces_fill_the_vector():
    for n in (1, 5, 4095, 4096, 12345, 101_770):
        found = pieces(n)
        assert [start for start, _ in found] == np.cumsum([0] + [size for _, size in found]).tolist()[:-1]
        assert sum(size for _, size in found) == n and all(start % size == 0 for start, size in found)


def test_what_is_refused():
    with pytest.raises(ValueError, match="dim must be 10 there, got 9"):
        rbd_ipu.RandomBasis(10, 9, distribution="blocks")
    with pytest.raises(ValueError, match="takes the parameter 'unsigned' only, got 'blocks:dct'"):
        rbd_ipu.RandomBasis(10, 10, distribution="blocks:dct")
