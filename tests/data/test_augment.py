"""Augmentations against NumPy, image by image, and their random numbers against theory."""

import numpy as np
import pytest

from rbd_ipu._compat import tf
from rbd_ipu.data.augment import AUGMENTATIONS, corners, draws

SHAPES = [(6, 28, 28, 1), (6, 32, 32, 3), (6, 8, 8, 1), (3, 24, 41, 2), (2, 5, 7, 1)]


def _images(shape, seed=0):
    return np.random.RandomState(seed).uniform(size=shape).astype(np.float32)


def _reference(name, images, uniform):
    """The augmentation, one image at a time, from the same random numbers."""
    changed = []
    height, width = images.shape[1:3]
    up, left = height // 8, width // 8
    for index, image in enumerate(images):
        padded = np.pad(image, ((up, up), (left, left), (0, 0)), "constant")
        row = int(np.floor(uniform[0, index] * (2 * up + 1)))
        column = int(np.floor(uniform[1, index] * (2 * left + 1)))
        image = padded[row : row + height, column : column + width]
        if name == "pad_crop_brightness":
            image = image + np.float32(uniform[2, index] - 0.5)
        if name == "pad_crop_flip" and uniform[2, index] < 0.5:
            image = np.fliplr(image)
        changed.append(image)
    return np.stack(changed)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["pad_crop", "pad_crop_brightness", "pad_crop_flip"])
def test_against_numpy(name, shape):
    images = _images(shape)
    for seed in ([1, 2], [-3, 4]):
        uniform = draws(seed, 2 if name == "pad_crop" else 3, shape[0]).numpy()
        changed = AUGMENTATIONS.get(name)(tf.constant(images), seed).numpy()
        np.testing.assert_allclose(changed, _reference(name, images, uniform), atol=1e-6)


def test_the_paper_pads_28_pixels_by_3_and_32_by_4():
    for side, pad in ((28, 3), (32, 4)):
        ones = tf.ones([2000, side, side, 1])
        rows = AUGMENTATIONS.get("pad_crop")(ones, [0, 0]).numpy().max(axis=(2, 3)).sum(axis=1)
        assert set(rows.tolist()) == set(range(side - pad, side + 1))


def test_none_changes_nothing():
    images = _images(SHAPES[0])
    assert (AUGMENTATIONS.get("none")(tf.constant(images), [0, 0]).numpy() == images).all()


def test_every_shift_is_as_likely():
    uniform = draws([5, 6], 2, 70_000)
    corner = corners(uniform, (3, 3)).numpy()
    counts = np.bincount(corner[0] * 7 + corner[1], minlength=49)
    # 1428.6 expected, deviation 37.4: five deviations
    assert (abs(counts - 70_000 / 49) < 187).all()


def test_the_largest_draw_stays_inside():
    largest = np.nextafter(np.float32(1), np.float32(0))
    corner = corners(tf.fill([2, 1], largest), (3, 4000)).numpy()
    assert corner.tolist() == [[6], [8000]]


def test_brightness_is_one_number_an_image_between_both_halves():
    changed = AUGMENTATIONS.get("pad_crop_brightness")(tf.zeros([4000, 8, 8, 3]), [7, 8]).numpy()
    delta = changed[:, 0, 0, 0]
    assert (changed == delta[:, None, None, None]).all()
    assert -0.5 <= delta.min() < -0.499 and 0.499 < delta.max() < 0.5
    assert abs(delta.mean()) < 5 * np.sqrt(1 / 12 / 4000)


def test_half_of_the_images_are_mirrored():
    ramp = np.tile(np.arange(1, 8, dtype=np.float32), [4000, 7, 1])[..., None]  # too small to shift
    changed = AUGMENTATIONS.get("pad_crop_flip")(tf.constant(ramp), [9, 9]).numpy()
    mirrored = changed[:, 0, 0, 0] == 7
    assert (changed[mirrored] == ramp[mirrored][:, :, ::-1]).all()
    assert (changed[~mirrored] == ramp[~mirrored]).all()
    assert abs(mirrored.mean() - 0.5) < 5 * 0.5 / np.sqrt(4000)


@pytest.mark.parametrize("name", [name for name in AUGMENTATIONS if name != "none"])
def test_the_seed_decides(name):
    images = tf.constant(_images([64, 16, 16, 3]))
    augment = AUGMENTATIONS.get(name)
    assert (augment(images, [1, 2]).numpy() == augment(images, [1, 2]).numpy()).all()
    assert (augment(images, [1, 2]).numpy() != augment(images, [1, 3]).numpy()).any()


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_in_a_graph_with_a_batch_of_unknown_size(name):
    augment = AUGMENTATIONS.get(name)
    images = _images([5, 16, 16, 3])

    @tf.function(input_signature=[tf.TensorSpec([None, 16, 16, 3]), tf.TensorSpec([2], tf.int32)])
    def graph(images, seed):
        return augment(images, seed)

    eager = augment(tf.constant(images), tf.constant([3, 4]))
    np.testing.assert_array_equal(graph(images, tf.constant([3, 4])).numpy(), eager.numpy())
