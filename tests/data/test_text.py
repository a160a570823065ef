"""Texts: tokens, windows, the stream of an epoch, the embedded excerpt and the published set."""

import dataclasses

import numpy as np
import pytest

from rbd_ipu import data
from rbd_ipu.data import Text, TextData, Windows
from rbd_ipu.errors import DamagedDataError, MissingDataError


def numbered(length, context):
    """A text in which each token says its own place."""
    return Text(np.arange(length), context=context, vocabulary=length, name="training text of it")


def batches_of(stream, count, **place):
    return [(x.numpy(), y.numpy()) for x, y in stream.dataset(**place).take(count)]


def test_windows_to_judge_by_do_not_overlap_and_y_is_the_next_token():
    text = numbered(11, context=3)
    x, y = text.windows()
    assert x.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]] and len(text) == 3
    assert (y == x + 1).all() and x.dtype == y.dtype == np.int32
    assert len(numbered(4, context=3)) == 1 and len(numbered(7, context=3)) == 2


def test_tokens_are_stored_as_bytes_where_they_fit():
    assert Text(np.arange(9), context=2, vocabulary=256).tokens.dtype == np.uint8
    assert numbered(300, context=2).tokens.dtype == np.int32


@pytest.mark.parametrize("length, context, batch", [(100, 7, 4), (50, 7, 2), (8, 7, 1), (9, 7, 1), (22, 7, 2)])
def test_an_epoch_cuts_the_text_into_windows_and_visits_each_once(length, context, batch):
    stream = Windows(numbered(length, context), batch, seed=3)
    steps, offsets = stream.steps_per_epoch, set()
    for epoch in range(5):
        rows, targets = (np.concatenate(parts) for parts in zip(*batches_of(stream, steps, epoch=epoch)))
        assert (targets == rows + 1).all() and (np.diff(rows, axis=1) == 1).all()
        assert rows.min() >= 0 and targets.max() < length
        starts = np.sort(rows[:, 0])
        assert len(set(starts)) == steps * batch and set(np.diff(starts) % context) <= {0}
        offsets.add(int(starts[0] % context))
    assert len(offsets) > 1 or length == context + 1


def test_the_stream_is_a_pure_function_of_seed_epoch_and_step():
    text = numbered(200, context=5)
    whole = batches_of(Windows(text, 4, seed=1), 20)
    steps = Windows(text, 4, seed=1).steps_per_epoch
    later = batches_of(Windows(text, 4, seed=1), 3, epoch=1, step=2)
    for (x, _), (x2, _) in zip(whole[steps + 2 :], later):
        assert (x == x2).all()
    assert any((a != b).any() for (a, _), (b, _) in zip(whole, batches_of(Windows(text, 4, seed=2), 20)))


def test_workers_share_an_epoch():
    stream = Windows(numbered(200, context=5), 4, seed=1)
    whole = batches_of(stream, 6)
    for k in range(3):
        for t, (x, _) in enumerate(batches_of(stream.shard(k, 3), 2)):
            assert (x == whole[3 * t + k][0]).all()


def test_a_batch_is_what_the_stream_says_it_is():
    stream = data.load("shakespeare_excerpt").batches(8, seed=1)
    specs = stream.element_spec
    for part, spec in zip(next(iter(stream.dataset())), specs):
        assert spec.is_compatible_with(part) and spec.dtype.name == "int32"
    assert stream.dataset().element_spec == specs


def test_evaluation_sees_all_windows_in_order():
    text = data.load("shakespeare_excerpt").with_context(64)
    x, y = text.validation.windows()
    found = list(text.evaluation("validation", 30))
    assert (np.concatenate([a.numpy() for a, _ in found]) == x).all()
    assert (np.concatenate([b.numpy() for _, b in found]) == y).all()
    assert found[0][0].dtype.name == "int32" and len(x) == 4999 // 64
    with pytest.raises(ValueError, match="unknown split 'dev'; accepted: 'train', 'validation', 'test'"):
        text.evaluation("dev", 30)


def test_the_vocabulary_is_that_of_the_training_text():
    text = TextData.of("it", "hello" * 9, "hell" * 9, "ole" * 9, context=4, source="", licence="")
    assert text.characters == "ehlo" and text.classes == 4 and text.shape == (4,)
    assert text.train.tokens[:5].tolist() == [1, 0, 2, 2, 3]
    assert text.decode(text.encode("hole")) == "hole"
    with pytest.raises(ValueError, match="'xy' is not in the vocabulary of 'it', 'ehlo'"):
        text.encode("xy")
    with pytest.raises(ValueError, match="validation text of 'it' has the characters '!', which its training text"):
        TextData.of("it", "hello" * 9, "hell!" * 9, "ole" * 9, context=4, source="", licence="")


def test_the_excerpt_comes_with_the_package():
    text = data.load("shakespeare_excerpt")
    whole = "".join(text.decode(part.tokens) for part in (text.validation, text.test, text.train))
    assert whole.startswith("First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.")
    assert [len(part.tokens) for part in (text.train, text.validation, text.test)] == [39_981, 5_000, 5_000]
    assert text.classes == 59 and text.context == 48 and text.licence == "public domain"
    assert list(text.files) == ["shakespeare.txt"]


def test_the_published_set(tfds_dir):
    if not (tfds_dir / "tiny_shakespeare").is_dir():
        pytest.skip(f"no tiny_shakespeare in {tfds_dir}")
    pytest.importorskip("tensorflow_datasets")
    text = data.load("tiny_shakespeare", tfds_dir)
    assert [len(part.tokens) for part in (text.train, text.validation, text.test)] == [1_003_854, 55_770, 55_770]
    assert text.classes == 65 and text.characters.startswith("\n !$&',-.3:;?ABC") and text.characters.endswith("xyz")
    assert text.decode(text.train.tokens[:14]) == "First Citizen:"
    assert len(text.files) == 3
    assert text.batches(32).steps_per_epoch == 653


def test_a_published_set_that_is_not_there(tmp_path):
    with pytest.raises(MissingDataError, match=r"(?s)'tiny_shakespeare' is not in .*python -c"):
        data.load("tiny_shakespeare", tmp_path)


def test_a_published_set_that_is_broken(tfds_dir, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    if not (tfds_dir / "tiny_shakespeare").is_dir():
        pytest.skip(f"no tiny_shakespeare in {tfds_dir}")
    for file in (tfds_dir / "tiny_shakespeare" / "1.0.0").iterdir():
        (tmp_path / "tiny_shakespeare" / "1.0.0").mkdir(parents=True, exist_ok=True)
        content = file.read_bytes()
        cut = content[:2000] if "validation" in file.name else content
        (tmp_path / "tiny_shakespeare" / "1.0.0" / file.name).write_bytes(cut)
    with pytest.raises(DamagedDataError, match="cannot read tiny_shakespeare-validation"):
        data.load("tiny_shakespeare", tmp_path)


def test_nothing_held_out_and_a_quarter_held_out():
    text = data.load("shakespeare_excerpt")
    joined = text.joined()
    assert len(joined.train.tokens) == 44_981 and joined.validation is text.test
    tuning = text.for_tuning(0.25)
    assert len(tuning.train.tokens) + len(tuning.validation.tokens) == 39_981
    assert len(tuning.validation.tokens) == 9_996
    assert (np.concatenate([tuning.train.tokens, tuning.validation.tokens]) == text.train.tokens).all()
    with pytest.raises(ValueError, match="share must be a number above 0 and below 1, got 1"):
        text.for_tuning(1)


def test_what_is_refused():
    with pytest.raises(ValueError, match="a context of 5000 needs more tokens than that, and the validation text of"):
        data.load("shakespeare_excerpt").with_context(5000)
    with pytest.raises(ValueError, match="has 5,000: accepted are 1 to 4,999"):
        data.load("shakespeare_excerpt").with_context(5000)
    with pytest.raises(TypeError, match="context must be an integer >= 1, got 4.5"):
        data.load("shakespeare_excerpt").with_context(4.5)
    with pytest.raises(ValueError, match="tokens must lie in 0 .. 4, the vocabulary; got 0 .. 9"):
        Text(np.arange(10), context=2, vocabulary=5)
    with pytest.raises(TypeError, match=r"tokens must be whole numbers \[length\] and not empty, got float64 \[3\]"):
        Text(np.zeros(3), context=2)
    with pytest.raises(ValueError, match="batch_size 5 is more than the 4 inputs there are"):
        Windows(numbered(50, context=10), 5).__class__(numbered(50, context=10), 9)
    with pytest.raises(TypeError, match="text must be a rbd_ipu.data.text.Text, got ndarray"):
        Windows(np.arange(10), 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        numbered(9, 2).context = 3
