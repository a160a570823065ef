"""The paper's networks: its parameter counts, the promised output, weights that follow the seed."""

import numpy as np
import pytest

from rbd_ipu._compat import keras, tf
from rbd_ipu.models import NETWORKS, build, glorot, he, pools, takes


@pytest.mark.parametrize(
    "name, shape, count",
    [
        ("fc", (28, 28, 1), 101_770),
        ("fc", (32, 32, 3), 394_634),
        ("fc", (8, 8, 1), 9_610),
        ("cnn", (28, 28, 1), 93_322),
        ("cnn", (32, 32, 3), 122_570),
        ("cnn", (8, 8, 1), 72_842),
    ],
)
def test_parameter_counts(name, shape, count):
    model = build(name, shape)
    assert model.count_params() == count
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == count


@pytest.mark.parametrize("name", [name for name in NETWORKS if takes(name) == "images"])
@pytest.mark.parametrize("shape", [(28, 28, 1), (8, 8, 1), (9, 30, 2)])
def test_it_gives_logits_for_any_shape_and_number_of_classes(name, shape):
    model = build(name, shape, classes=3)
    logits = model(tf.random.stateless_normal([5, *shape], [1, 2])).numpy()
    assert logits.shape == (5, 3)
    assert abs(logits.sum(axis=1) - 1).min() > 1e-3  # no softmax
    assert model.layers[-1].activation is keras.activations.linear


@pytest.mark.parametrize("side", range(7, 40))
def test_the_cnn_never_runs_out_of_pixels(side):
    first, second = pools(side)
    for pool in (first, second, False):
        side -= 2
        assert side >= 1
        side = side // 2 if pool else side
    assert side >= 1


def test_the_cnn_keeps_each_pool_that_fits():
    assert [pools(side) for side in (7, 9, 10, 11, 12, 17, 18, 28, 32)] == [
        (False, False),
        (False, False),
        (False, True),
        (False, True),
        (True, False),
        (True, False),
        (True, True),
        (True, True),
        (True, True),
    ]


def test_layer_names_are_stable():
    for _ in range(2):
        names = [layer.name for layer in build("cnn", (28, 28, 1)).layers]
        assert names == ["conv1", "pool1", "conv2", "pool2", "conv3", "flatten", "hidden", "logits"]
        names = [layer.name for layer in build("fc", (28, 28, 1)).layers]
        assert names == ["flatten", "hidden", "logits"]
    assert build("fc", (8, 8, 1)).name == "fc"


def test_the_seed_decides_the_weights_and_no_global_one_does():
    tf.random.set_seed(1)
    first = build("cnn", (8, 8, 1), seed=3).get_weights()
    tf.random.set_seed(2)
    again = build("cnn", (8, 8, 1), seed=3).get_weights()
    other = build("cnn", (8, 8, 1), seed=4).get_weights()
    assert all((a == b).all() for a, b in zip(first, again))
    assert all((a != b).any() for a, b in zip(first, other) if a.ndim > 1)


def test_building_moves_no_global_generator():
    np.random.seed(5)
    tf.random.set_seed(5)
    expected = np.random.uniform(), float(tf.random.uniform([]))
    np.random.seed(5)
    tf.random.set_seed(5)
    build("fc", (8, 8, 1))
    assert (np.random.uniform(), float(tf.random.uniform([]))) == expected


def test_golden_weights_hold_on_every_stack():
    first = build("cnn", (8, 8, 1), seed=3).get_weights()[0].ravel()[:4]
    np.testing.assert_allclose(first, [0.01422422, -0.12208091, 0.00137542, 0.01860526], rtol=1e-5)


def test_kernels_are_glorot_uniform_and_biases_zero():
    for layer in build("cnn", (28, 28, 1), seed=1).layers:
        if not layer.weights:
            continue
        kernel, bias = layer.get_weights()
        field = np.prod(kernel.shape[:-2], dtype=int)
        limit = np.sqrt(6 / (field * (kernel.shape[-2] + kernel.shape[-1])))
        assert (bias == 0).all()
        assert 0.98 * limit < abs(kernel).max() <= limit
        np.testing.assert_allclose(kernel.std(), limit / np.sqrt(3), rtol=0.1)


def test_he_is_normal_with_the_fan_in():
    weights = np.asarray(he(0, "any")((3, 3, 64, 64)))
    np.testing.assert_allclose(weights.std(), np.sqrt(2 / (9 * 64)), rtol=0.02)
    assert abs(weights.mean()) < 5 * weights.std() / np.sqrt(weights.size)


def test_each_layer_has_a_seed_of_its_own():
    shape = (16, 16)
    a, b = np.asarray(glorot(0, "a")(shape)), np.asarray(glorot(0, "b")(shape))
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / 16


@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 0), (28, -1, 1), (28.0, 28, 1), 28, None, (True, 8, 1), "881"])
def test_unfit_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="shape must be three whole numbers from 1"):
        build("fc", shape)


@pytest.mark.parametrize("classes", [1, 0, -1, 2.0, None, True])
def test_unfit_classes_are_refused(classes):
    with pytest.raises(ValueError, match="classes must be a whole number from 2, got"):
        build("fc", (8, 8, 1), classes)


def test_what_else_is_refused():
    with pytest.raises(ValueError, match="at least 7 x 7 pixels, got .6, 28, 1."):
        build("cnn", (6, 28, 1))
    with pytest.raises(ValueError, match="unknown network 'resnet'; accepted: 'fc', 'cnn'"):
        build("resnet", (28, 28, 1))
    with pytest.raises(TypeError, match="a seed must be"):
        build("fc", (28, 28, 1), seed=0.5)
