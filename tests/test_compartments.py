"""Compartments: the cut of the flat vector and the share of each piece."""

import numpy as np
import pytest

import rbd_ipu
from rbd_ipu._compat import keras, tf

FC = [(784, 128), (128,), (128, 10), (10,)]


def resnet8_shapes():
    """Variables of the ResNet-8 of FACTS section 2: D = 78,330 in 32 variables and their order."""
    shapes = [(3, 3, 3, 16), (16,), (16,)]
    width = 16
    for stage in (16, 32, 64):
        shapes += [(3, 3, width, stage), (stage,), (stage,)]
        shapes += [(3, 3, stage, stage), (stage,), (stage,)]
        shapes += [(1, 1, width, stage), (stage,), (stage,)]
        width = stage
    return shapes + [(64, 10), (10,)]


@pytest.mark.parametrize("factor, dim", [(10, 7982), (25, 3328), (50, 1782), (100, 1018)])
def test_table_3_of_the_paper(factor, dim):
    cut = rbd_ipu.Compartments.of(resnet8_shapes(), f"factor:{factor}")
    assert cut.size == 78330 and cut.dim == dim
    assert all(piece.dim % 2 == 0 and piece.dim >= 10 for piece in cut)
    assert rbd_ipu.Compartments.of(resnet8_shapes(), f"factor:{factor}", dim) == cut


@pytest.mark.parametrize("scheme", ["global", "even:1", "even:3", "even:7", "layer", "variable", "factor:50"])
def test_pieces_tile_the_vector(scheme):
    dim = None if scheme.startswith("factor") else 250
    cut = rbd_ipu.Compartments.of(FC, scheme, dim)
    assert [p.start for p in cut] == list(np.cumsum([0] + [p.size for p in cut[:-1]]))
    assert cut.size == sum(p.size for p in cut) == 101770
    if dim:
        assert cut.dim == 250
        assert max(p.dim for p in cut) - min(p.dim for p in cut) <= 1
    assert sorted(sum(cut.groups().values(), [])) == list(range(len(cut)))


def test_even_pieces_differ_by_at_most_one_parameter():
    sizes = [p.size for p in rbd_ipu.Compartments.of(FC, "even:7", 250)]
    assert len(sizes) == 7 and max(sizes) - min(sizes) == 1


@pytest.mark.parametrize("scheme, dims", [("layer", [125, 125]), ("variable", [63, 63, 62, 62])])
def test_layers_are_told_by_the_names_of_their_variables(scheme, dims):
    model = keras.Sequential(
        [keras.layers.InputLayer((784,)), keras.layers.Dense(128, name="a"), keras.layers.Dense(10, name="b")]
    )
    cut = rbd_ipu.Compartments.of(model.trainable_variables, scheme, 250)
    assert [p.dim for p in cut] == dims
    if scheme == "layer":
        assert [p.size for p in cut] == [100480, 1290]


def test_the_five_layers_of_the_cnn_get_250_each_of_1250():
    """Fig. B.10 of the paper."""
    layers = keras.layers
    model = keras.Sequential(
        [layers.InputLayer((32, 32, 3))]
        + [layers.Conv2D(4, 3), layers.Conv2D(4, 3), layers.Conv2D(4, 3), layers.Flatten()]
        + [layers.Dense(6), layers.Dense(10)]
    )
    cut = rbd_ipu.Compartments.of(model.trainable_variables, "layer", 1250)
    assert [p.dim for p in cut] == [250] * 5


@pytest.mark.parametrize(
    "scheme, dim, error, message",
    [
        ("globe", 10, ValueError, "unknown compartment scheme 'globe'; accepted: 'global', 'even:K'"),
        ("even:0", 10, ValueError, "unknown compartment scheme 'even:0'"),
        ("even:-1", 10, ValueError, "unknown compartment scheme"),
        ("even:x", 10, ValueError, "unknown compartment scheme"),
        ("factor:", None, ValueError, "unknown compartment scheme"),
        ("even:K", 10, ValueError, "unknown compartment scheme"),
        (None, 10, ValueError, "unknown compartment scheme None"),
        ("global", None, TypeError, "need dim"),
        ("global", 0, ValueError, "dim must be an integer >= 1, got 0"),
        ("global", -3, ValueError, "dim must be an integer >= 1, got -3"),
        ("layer", 2.5, TypeError, "dim must be an integer >= 1, got 2.5"),
        ("even:20", 10, ValueError, "dim=10 is less than the 20 compartments"),
        ("even:200000", 300000, ValueError, "more compartments than the 101770 parameters"),
        ("factor:10", 250, ValueError, "fixes the number of directions at 10188"),
    ],
)
def test_what_does_not_fit_is_refused(scheme, dim, error, message):
    with pytest.raises(error, match=message):
        rbd_ipu.Compartments.of(FC, scheme, dim)


def test_there_must_be_variables():
    with pytest.raises(ValueError, match="no trainable variables"):
        rbd_ipu.Compartments.of([], "global", 10)


def test_variables_are_refused_by_name():
    with pytest.raises(TypeError, match="'count' is of type int32"):
        rbd_ipu.Compartments.of([tf.Variable([1, 2], name="count")], "global", 1)
    with pytest.raises(TypeError, match="static shape"):
        rbd_ipu.Compartments.of([(None, 3)], "global", 1)
    with pytest.raises(ValueError, match="no entries"):
        rbd_ipu.Compartments.of([(0, 3)], "global", 1)


@pytest.mark.parametrize("scheme, dims", [("global", [9]), ("layer", [5, 4]), ("variable", [3, 3, 3])])
def test_variables_without_entries_take_no_part(scheme, dims):
    names = ["a/kernel", "a/none", "a/bias", "none/kernel", "b/kernel"]
    sizes = [[2, 3], [0, 3], [3], [0], []]
    variables = [tf.Variable(tf.zeros(size), name=name) for name, size in zip(names, sizes)]
    cut = rbd_ipu.Compartments.of(variables, scheme, 9)
    assert [p.dim for p in cut] == dims and cut.size == 10 and all(p.size for p in cut)


class Inner(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.layer = keras.layers.Dense(4, name="dense")

    def call(self, x):
        return self.layer(x)


def nested(make):
    inputs = keras.Input((4,))
    return keras.Model(inputs, make("second")(make("first")(inputs))).trainable_variables


def test_layers_of_one_name_in_two_models_are_two_layers():
    cut = rbd_ipu.Compartments.of(nested(lambda name: Inner(name=name)), "layer", 5)
    assert [(p.name, p.size, p.dim) for p in cut] == [("first/dense", 20, 3), ("second/dense", 20, 2)]


def test_layers_of_one_path_are_refused():
    def make(name):
        inputs = keras.Input((4,))
        return keras.Model(inputs, keras.layers.Dense(4, name="dense")(inputs), name=name)

    with pytest.raises(ValueError, match="there are two of 'dense'"):
        rbd_ipu.Compartments.of(nested(make), "layer", 5)
    rbd_ipu.Compartments.of(nested(make), "variable", 5)
    with pytest.raises(ValueError, match="there are two of 'a'"):
        names = ["a/kernel", "b/kernel", "a/bias"]
        rbd_ipu.Compartments.of([tf.Variable([1.0], name=name) for name in names], "layer", 5)


def test_scalars_and_arrays_count():
    cut = rbd_ipu.Compartments.of([(), np.zeros((2, 3), np.float32), 4], "variable", 3)
    assert [p.size for p in cut] == [1, 6, 4]
