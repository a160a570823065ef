"""Streams: pure functions of (seed, epoch, step), shaped and scaled as promised."""

import numpy as np
import pytest

from rbd_ipu._compat import KERAS_3, tf
from rbd_ipu.data import AUGMENTATIONS, Batches, Split, evaluation
from rbd_ipu.data.inputs import in_order
from rbd_ipu.seeds import fold_in_numpy, permutation_numpy

RANDOM = np.random.RandomState(0)
IMAGES = RANDOM.randint(0, 256, [50, 16, 16, 3]).astype(np.uint8)
SPLIT = Split(IMAGES, np.arange(50))


def _read(batches, count, **place):
    return [(x.numpy(), y.numpy()) for x, y in batches.dataset(**place).take(count)]


def _standardised(images):
    flat = images.reshape(len(images), -1).astype(np.float64)
    deviation = np.maximum(flat.std(axis=1, keepdims=True), flat.shape[1] ** -0.5)
    return ((flat - flat.mean(axis=1, keepdims=True)) / deviation).reshape(images.shape)


def _reference(epoch, step, seed, augment, size=50, batch=8):
    order = permutation_numpy(size, fold_in_numpy(seed, "shuffle", epoch))
    indices = order[step * batch : (step + 1) * batch]
    images = tf.constant(IMAGES[indices] / np.float32(255))
    changed = AUGMENTATIONS.get(augment)(images, fold_in_numpy(seed, "augment", epoch, step))
    return changed.numpy(), indices


@pytest.mark.parametrize("augment", ["none", "pad_crop_brightness", "pad_crop_flip"])
def test_every_batch_is_what_its_place_says(augment):
    stream = _read(Batches(SPLIT, 8, seed=3, augment=augment), 14)  # six steps an epoch
    for position, (x, y) in enumerate(stream):
        images, indices = _reference(position // 6, position % 6, 3, augment)
        assert (y == indices).all()
        np.testing.assert_allclose(x, images, atol=1e-6)


def test_a_stream_can_be_entered_anywhere():
    batches = Batches(SPLIT, 8, seed=1, augment="pad_crop_flip")
    stream = _read(batches, 20)
    for epoch, step in ((0, 0), (0, 5), (1, 0), (2, 3), (0, 6), (0, 17), (1, 8)):
        position = 6 * epoch + step
        for (x, y), (whole_x, whole_y) in zip(_read(batches, 2, epoch=epoch, step=step), stream[position:]):
            assert (x == whole_x).all()
            assert (y == whole_y).all()


def test_an_epoch_shows_no_image_twice_and_the_next_has_another_order():
    batches = Batches((np.arange(50.0), np.arange(50)), 8)
    assert batches.steps_per_epoch == 6
    labels = np.array([y for _, y in _read(batches, 18)]).reshape(3, 48)
    for epoch in labels:
        assert len(set(epoch.tolist())) == 48
    assert (labels[0] != labels[1]).any() and (labels[1] != labels[2]).any()
    # The two images left out are not always the same ones.
    left = [tuple(sorted(set(range(50)) - set(epoch.tolist()))) for epoch in labels]
    assert len(set(left)) > 1


def test_the_seed_decides_and_no_global_one_does():
    tf.random.set_seed(1)
    first = _read(Batches(SPLIT, 8, seed=4, augment="pad_crop"), 3)
    tf.random.set_seed(2)
    again = _read(Batches(SPLIT, 8, seed=4, augment="pad_crop"), 3)
    other = _read(Batches(SPLIT, 8, seed=5, augment="pad_crop"), 3)
    assert all((a[0] == b[0]).all() and (a[1] == b[1]).all() for a, b in zip(first, again))
    assert any((a[1] != b[1]).any() for a, b in zip(first, other))


def test_golden_labels_hold_on_every_stack():
    labels = next(iter(Batches(SPLIT, 8, seed=0).dataset(epoch=2, step=1)))[1]
    assert labels.numpy().tolist() == [45, 14, 12, 7, 28, 33, 18, 19]


def test_nothing_is_left_to_tf_datas_tuner():
    """An idle tuner can hold up the end of an iterator for as long again as the iterator has lived."""
    for dataset in (Batches(SPLIT, 4).dataset(), evaluation(SPLIT, 4), in_order((SPLIT.images, SPLIT.labels), 4)):
        options = dataset.options()
        tuned = options.autotune.enabled if KERAS_3 else options.experimental_optimization.autotune
        assert tuned is False


def test_shapes_are_static():
    x, y = Batches(SPLIT, 8, augment="pad_crop_flip").dataset().element_spec
    assert (x.shape.as_list(), x.dtype) == ([8, 16, 16, 3], tf.float32)
    assert (y.shape.as_list(), y.dtype) == ([8], tf.int32)


def test_a_batch_may_hold_all():
    batches = Batches(SPLIT, 50)
    assert batches.steps_per_epoch == 1
    assert sorted(_read(batches, 1)[0][1].tolist()) == list(range(50))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, np.int64])
@pytest.mark.parametrize("shape", [(20,), (20, 3), (20, 2, 3, 4, 5)])
def test_arrays_become_float32_and_keep_their_values(dtype, shape):
    x = RANDOM.randint(0, 200, shape).astype(dtype)
    seen, labels = next(iter(Batches((x, np.arange(20)), 20).dataset()))
    assert seen.dtype == tf.float32
    assert (seen.numpy() == x[labels.numpy()]).all()
    whole, _ = next(iter(evaluation((x, np.arange(20)), 20)))
    assert (whole.numpy() == x).all()


def test_a_split_is_scaled_by_its_peak():
    split = Split(IMAGES[:4] % 17, np.arange(4), peak=16)
    seen, labels = next(iter(Batches(split, 4).dataset()))
    assert (seen.numpy() * 16 == split.images[labels.numpy()]).all()


def test_standardising_is_the_last_thing_and_for_evaluation_too():
    split = Split(IMAGES, np.arange(50), standardise=True)
    seen, _ = _read(Batches(split, 8, seed=3, augment="pad_crop_flip"), 1)[0]
    np.testing.assert_allclose(seen, _standardised(_reference(0, 0, 3, "pad_crop_flip")[0]), atol=1e-5)
    whole, _ = next(iter(evaluation(split, 50)))
    np.testing.assert_allclose(whole.numpy(), _standardised(IMAGES / 255.0), atol=1e-5)
    rule = tf.image.per_image_standardization(IMAGES / np.float32(255)).numpy()
    np.testing.assert_allclose(whole.numpy(), rule, atol=1e-5)


def test_an_image_of_almost_one_colour_is_not_blown_up():
    images = np.full([2, 8, 8, 1], 200, np.uint8)
    images[1, 3, 4] += 1
    whole, _ = next(iter(evaluation(Split(images, np.arange(2), standardise=True), 2)))
    np.testing.assert_allclose(whole[0], 0, atol=1e-5)
    np.testing.assert_allclose(whole[1], _standardised(images / 255.0)[1], atol=1e-5)
    assert abs(whole.numpy()).max() < 0.04  # (1 / 255) over the floor, 1 / sqrt(64)


def test_evaluation_goes_once_through_all_in_order():
    parts = [(x.numpy(), y.numpy()) for x, y in evaluation(SPLIT, 16)]
    assert [len(y) for _, y in parts] == [16, 16, 16, 2]
    assert np.concatenate([y for _, y in parts]).tolist() == list(range(50))
    np.testing.assert_allclose(np.concatenate([x for x, _ in parts]), IMAGES / np.float32(255), rtol=1e-6)
    assert len(list(evaluation(SPLIT, 1000))) == 1


def test_a_function_augments_with_the_seed_of_its_step():
    def write_seed(images, seed):
        return images * 0 + tf.cast(seed[0], tf.float32)

    (x, _), (y, _) = _read(Batches(SPLIT, 8, seed=6, augment=write_seed), 2)
    for step, seen in enumerate((x, y)):
        assert (seen == np.float32(fold_in_numpy(6, "augment", 0, step)[0])).all()


def test_an_augmentation_that_changes_the_shape_is_refused():
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="[Ss]hape"):
        next(iter(Batches(SPLIT, 8, augment=lambda images, seed: images[:, 1:]).dataset()))


@pytest.mark.parametrize("make", [lambda size: Batches(SPLIT, size), lambda size: evaluation(SPLIT, size)])
@pytest.mark.parametrize("size", [0, -1, 2.0, "8", True, None])
def test_unfit_batch_sizes_are_refused(make, size):
    with pytest.raises(ValueError, match=f"batch_size must be a whole number from 1, got {size!r}"):
        make(size)


def test_a_batch_larger_than_the_data_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match="batch_size 51 is more than the 50 inputs"):
        Batches(SPLIT, 51)


@pytest.mark.parametrize(
    "data, error, words",
    [
        (IMAGES, TypeError, r"a Split or arrays \(x, y\) or \(x, y, weights\), got ndarray"),
        ((IMAGES,), TypeError, r"a Split or arrays \(x, y\)"),
        ((IMAGES, np.arange(49)), ValueError, "50 inputs but 49 labels"),
        ((IMAGES[:0], np.arange(0)), TypeError, r"not empty, got uint8 \[0, 16, 16, 3\]"),
        ((np.float32(1), np.arange(1)), TypeError, r"\[n, ...\]"),
        ((np.array(["a", "b"]), np.arange(2)), TypeError, "floats or integers"),
        ((np.array([True, False]), np.arange(2)), TypeError, "got bool"),
        ((np.array([1.0, np.nan]), np.arange(2)), ValueError, "NaN"),
        ((np.array([1.0, np.inf]), np.arange(2)), ValueError, "infinity"),
        ((np.array([1.0, 1e300]), np.arange(2)), ValueError, "beyond float32"),
        ((np.ones(2), np.array(["a", "b"])), TypeError, r"y must be class indices \[n\], or floats or integers"),
        ((np.ones(2), np.array([1.0, np.nan])), ValueError, "y holds NaN"),
        ((np.ones(2), np.ones(3)), ValueError, "2 inputs but 3 labels"),
        ((np.ones(2), np.array([[1], [2**31]])), ValueError, "y holds whole numbers beyond int32"),
    ],
)
def test_unfit_data_are_refused(data, error, words):
    for make in (lambda: Batches(data, 1), lambda: evaluation(data, 1)):
        with pytest.raises(error, match=words):
            make()


@pytest.mark.parametrize("place", [{"epoch": -1}, {"step": -1}, {"epoch": 1.0}, {"step": True}])
def test_unfit_places_are_refused(place):
    with pytest.raises(ValueError, match="must be a whole number from 0"):
        Batches(SPLIT, 8).dataset(**place)
    with pytest.raises(ValueError, match="ends before epoch"):
        Batches(SPLIT, 8).dataset(epoch=2**31)


def test_unfit_seeds_and_augmentations_are_refused():
    with pytest.raises(TypeError, match="a seed must be"):
        Batches(SPLIT, 8, seed=0.5)
    with pytest.raises(ValueError, match="unknown augmentation 'flip'; accepted: 'none'"):
        Batches(SPLIT, 8, augment="flip")
    with pytest.raises(ValueError, match=r"the data are \[5\]"):
        Batches((np.ones([9, 5]), np.arange(9)), 8, augment="pad_crop")


@pytest.mark.parametrize("augment", ["none", "pad_crop", "pad_crop_flip", "pad_crop_brightness"])
@pytest.mark.parametrize("standardise", [False, True])
def test_a_stream_knows_its_batches_as_bytes(augment, standardise):
    """What a device makes of the bytes is the batch, bit for bit."""
    from rbd_ipu.data.batches import stored_form

    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 256, (20, 16, 16, 3)).astype(np.uint8), np.arange(20), 255.0, standardise)
    stream = Batches(split, 8, seed=3, augment=augment).dataset(epoch=1, step=1)
    stored, finish = stored_form(stream)
    for whole, parts in zip(stream.take(3), stored.take(3)):
        assert parts[0].dtype == tf.uint8 and all(part.shape == [8] for part in parts[1:])
        for found, expected in zip(finish(*parts), whole):
            np.testing.assert_array_equal(found.numpy(), expected.numpy())
    finite = evaluation(split, 8)
    stored, finish = stored_form(finite)
    assert int(stored.cardinality()) == int(finite.cardinality()) == 3
    for whole, parts in zip(finite, stored):
        assert parts[0].dtype == tf.uint8
        np.testing.assert_array_equal(finish(*parts)[0].numpy(), whole[0].numpy())


def test_what_is_no_bytes_or_augmented_somehow_has_no_other_form():
    from rbd_ipu.data.batches import stored_form

    floats = Batches((np.zeros([8, 4], np.float32), np.zeros(8, int)), 4).dataset()
    split = Split(np.zeros([8, 4, 4, 1], np.uint8), np.zeros(8, int))
    own = Batches(split, 4, augment=lambda images, seed: images * 0.5).dataset()
    assert stored_form(floats) == (floats, None) and stored_form(own) == (own, None)
