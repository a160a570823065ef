"""The paper's networks: its parameter counts, the promised output, weights that follow the seed."""

import numpy as np
import pytest

import rbd_ipu
from rbd_ipu import methods
from rbd_ipu._compat import keras, tf
from rbd_ipu.compartments import Compartments
from rbd_ipu.models import NETWORKS, build, glorot, he, pools, takes


@pytest.mark.parametrize(
    "name, shape, count",
    [
        ("fc", (28, 28, 1), 101_770),
        ("fc", (32, 32, 3), 394_634),
        ("fc", (8, 8, 1), 9_610),
        ("fc200", (28, 28, 1), 199_210),
        ("lenet", (28, 28, 1), 44_426),
        ("lenet", (32, 32, 3), 62_006),
        ("lenet", (8, 8, 1), 21_386),
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


# --- the residual networks: the paper's numbers, the structure that has them, and batch norm in training


SHAPE = (32, 32, 3)
BLOCKS = {"resnet8": 1, "resnet32": 5}


@pytest.fixture(scope="module")
def networks():
    return {name: build(name, SHAPE, seed=3) for name in BLOCKS}


def named(model):
    """Every weight by its name, the same on both stacks."""
    return {getattr(w, "path", w.name).split(":")[0]: np.asarray(w.numpy()) for w in model.weights}


def moving(model):
    return {name: value for name, value in named(model).items() if "/moving_" in name}


@pytest.mark.parametrize("name, size", [("resnet8", 78_330), ("resnet32", 467_194)])
def test_the_paper_s_numbers_of_parameters(networks, name, size):
    assert sum(int(np.prod(v.shape)) for v in networks[name].trainable_variables) == size


@pytest.mark.parametrize("factor, dim", [(10, 7982), (25, 3328), (50, 1782), (100, 1018)])
def test_the_paper_s_numbers_of_coordinates(networks, factor, dim):
    cut = Compartments.of(networks["resnet8"].trainable_variables, f"factor:{factor}")
    assert (cut.dim, cut.size) == (dim, 78_330)


def test_two_directions_a_layer_are_the_42_of_figure_b14(networks):
    cut = Compartments.of(networks["resnet8"].trainable_variables, "layer", 42)
    assert [piece.dim for piece in cut] == [2] * 21


@pytest.mark.parametrize("name, blocks", BLOCKS.items())
def test_depth_strides_and_shortcuts(networks, name, blocks):
    model = networks[name]
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds.count("Conv2D") == 1 + 3 * (2 * blocks + 1) and kinds.count("Add") == 3 * blocks
    assert kinds.count("BatchNormalization") == kinds.count("Conv2D") and kinds.count("Dense") == 1
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    on_the_way = [layer for layer in convolutions if "shortcut" not in layer.name]
    assert len(on_the_way) + 1 == int(name[len("resnet") :])  # the dense layer is the last one of the name
    assert not any(layer.use_bias for layer in convolutions)
    strided = {layer.name for layer in convolutions if layer.strides == (2, 2)}
    assert strided == {f"stage{s}_block1_{part}" for s in (2, 3) for part in ("conv1", "shortcut")}
    shortcuts = {layer.name: layer.filters for layer in convolutions if layer.kernel_size == (1, 1)}
    assert shortcuts == {f"stage{s}_block1_shortcut": 8 * 2**s for s in (1, 2, 3)}


def test_the_flat_vector_has_one_order_on_both_stacks(networks):
    variables = networks["resnet8"].trainable_variables
    layers = [getattr(v, "path", v.name).split("/")[0] for v in variables]
    parts = ["conv1", "conv1_bn", "conv1_bn", "conv2", "shortcut"]
    parts += ["conv2_bn", "conv2_bn", "shortcut_bn", "shortcut_bn"]
    stages = [f"stage{s}_block1_{part}" for s in (1, 2, 3) for part in parts]
    assert layers == ["stem", "stem_bn", "stem_bn", *stages, "logits", "logits"]


def convolved(x, kernel, stride):
    """A padded convolution in float64: [n, h, w, c] by [k, k, c, f]."""
    side = kernel.shape[0]
    height, width = (-(-n // stride) for n in x.shape[1:3])
    pads = [max((-(-n // stride) - 1) * stride + side - n, 0) for n in x.shape[1:3]]
    x = np.pad(x, [(0, 0), *[(p // 2, p - p // 2) for p in pads], (0, 0)])
    out = np.zeros((len(x), height, width, kernel.shape[-1]))
    for i in range(side):
        for j in range(side):
            window = x[:, i : i + stride * height : stride, j : j + stride * width : stride]
            out += window @ kernel[i, j]
    return out


def reference(weights, x, blocks):
    """ResNet from its definition, batch norm by the moving statistics, in float64."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}

    def unit(x, name, stride=1):
        x, bn = convolved(x, w[f"{name}/kernel"], stride), f"{name}_bn/"
        x = (x - w[bn + "moving_mean"]) / np.sqrt(w[bn + "moving_variance"] + 1e-3)
        return x * w[bn + "gamma"] + w[bn + "beta"]

    x = np.maximum(unit(x, "stem"), 0)
    for stage in (1, 2, 3):
        for block in range(1, blocks + 1):
            name, stride = f"stage{stage}_block{block}_", 2 if block == 1 and stage > 1 else 1
            inside = unit(np.maximum(unit(x, name + "conv1", stride), 0), name + "conv2")
            x = np.maximum(inside + (unit(x, name + "shortcut", stride) if block == 1 else x), 0)
    return x.mean(axis=(1, 2)) @ w["logits/kernel"] + w["logits/bias"]


@pytest.mark.parametrize("name, blocks", BLOCKS.items())
@pytest.mark.parametrize("shape", [(8, 8, 1), (9, 12, 2)])
def test_it_computes_what_its_definition_says(name, blocks, shape):
    model, rng = build(name, shape, classes=4, seed=5), np.random.default_rng(0)
    for variable in model.weights:  # fresh batch norm is the identity, and would hide a mistake
        value = variable.numpy()
        if value.ndim == 1:
            variable.assign(rng.uniform(0.5, 1.5, value.shape).astype(np.float32))
    x = rng.standard_normal((3, *shape)).astype(np.float32)
    expected = reference(named(model), x, blocks)
    np.testing.assert_allclose(model(x).numpy(), expected, rtol=2e-4, atol=2e-4 * np.abs(expected).max())


def test_weights_follow_the_seed_by_the_rule_of_he(networks):
    weights, again = named(networks["resnet32"]), named(build("resnet32", SHAPE, seed=3))
    other = named(build("resnet32", SHAPE, seed=4))
    for name, value in weights.items():
        np.testing.assert_array_equal(value, again[name])
        if not name.endswith("kernel"):
            assert set(np.unique(value)) <= {0.0, 1.0}
            continue
        assert (value != other[name]).any()
        if value.ndim == 4:
            deviation = np.sqrt(2 / np.prod(value.shape[:3]))
            np.testing.assert_allclose(value.std(), deviation, rtol=5 / np.sqrt(value.size))
            assert np.abs(value).max() < 2.3 * deviation  # cut off at two deviations of the uncut normal
    assert not np.array_equal(weights["stage1_block2_conv1/kernel"], weights["stage1_block2_conv2/kernel"])


# --- training ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    """ResNet-8 before and after three steps of RBD on random images: (model, before, after, data, history)."""
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((96, *SHAPE)).astype(np.float32), rng.integers(0, 10, 96).astype(np.int32)
    model = build("resnet8", SHAPE, seed=1)
    before = named(model)
    method = methods.create("rbd", learning_rate=2.0**-3, compartments="factor:100")
    trainer = rbd_ipu.Trainer(model, method, "cpu")
    order = tf.data.Dataset.from_tensor_slices((x, y)).batch(32, drop_remainder=True)
    history = trainer.fit(order, validation=(x[:64], y[:64]), epochs=1, verbose=0).history
    return trainer, before, named(model), (x, y), history


def test_it_trains_in_random_bases(trained):
    trainer, before, after, _, history = trained
    assert trainer.method.dim == 1018 and trainer.step == 3
    assert np.isfinite(history["loss"] + history["val_loss"]).all() and 0 < history["correlation"][0] < 1
    moved = [name for name in after if "/moving_" not in name and (after[name] != before[name]).any()]
    assert len(moved) == len(trainer.model.trainable_variables)


def test_a_step_updates_the_moving_statistics_exactly_once(trained):
    _, before, after, (x, y), _ = trained
    model = build("resnet8", SHAPE, seed=1)
    trainer = rbd_ipu.Trainer(model, methods.create("rbd", learning_rate=2.0**-3, compartments="factor:100"), "cpu")
    # The first step of an epoch, at which the update is also compared with the gradient.
    trainer.fit(tf.data.Dataset.from_tensor_slices((x, y)).batch(32).take(1), epochs=1, verbose=0)
    one, momentum = moving(model), 0.99
    # What the first batch norm sees depends on the images and on weights that are known.
    seen = convolved(x[:32].astype(np.float64), before["stem/kernel"].astype(np.float64), 1)
    np.testing.assert_allclose(
        one["stem_bn/moving_mean"], (1 - momentum) * seen.mean(axis=(0, 1, 2)), rtol=1e-3, atol=1e-6
    )
    for name, value in one.items():
        assert (value != before[name]).any() and (after[name] != value).any(), name


def test_validation_uses_the_moving_statistics_and_leaves_them(trained):
    trainer, _, after, (x, y), history = trained
    logits = reference(after, x[:64].astype(np.float64), 1)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(history["val_loss"][0], -log_p[np.arange(64), y[:64]].mean(), rtol=1e-4)
    trainer.evaluate((x, y))
    for name, value in moving(trainer.model).items():
        np.testing.assert_array_equal(value, after[name])
