"""The language model: its size, its mathematics against NumPy, what it writes, and that it trains."""

import math
import subprocess
import sys

import numpy as np
import pytest

import rbd_ipu
from rbd_ipu import data, methods, models
from rbd_ipu._compat import KERAS_3, keras, tf
from rbd_ipu.gpt import CausalAttention, Positions, generate
from rbd_ipu.objective import default_loss

SMALL = {"layers": 2, "width": 8, "heads": 2}


def small(context=6, classes=11, seed=0, **sizes):
    return models.build("gpt", (context,), classes, seed, **{**SMALL, **sizes})


def tokens(n=3, context=6, classes=11, seed=0):
    return np.random.default_rng(seed).integers(0, classes, (n, context)).astype(np.int32)


@pytest.mark.parametrize(
    "classes, context, sizes, count",
    [
        (65, 48, {}, 349_536),
        (65, 48, {"layers": 3, "width": 96, "heads": 4}, 349_536),
        (65, 48, {"layers": 8, "width": 320, "heads": 5}, 9_892_800),
        (59, 32, {"layers": 1, "width": 16, "heads": 2}, 5_520),
    ],
)
def test_parameter_counts(classes, context, sizes, count):
    model = models.build("gpt", (context,), classes, **sizes)
    assert model.count_params() == count
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == count
    L, w = sizes.get("layers", 3), sizes.get("width", 96)
    assert count == 12 * L * w * w + (2 * L + 1) * w + (2 * classes + context) * w


def reference(model, x, heads):
    """The logits in float64, token by token."""
    weights = {}
    for layer in model.layers:
        for k, value in enumerate(layer.get_weights()):
            weights[layer.name if k == 0 else f"{layer.name}/{k}"] = value.astype(np.float64)

    def norm(h, name):
        mean, variance = h.mean(-1, keepdims=True), h.var(-1, keepdims=True)
        return (h - mean) / np.sqrt(variance + 1e-5) * weights[name]

    def gelu(a):
        return a * 0.5 * (1 + np.vectorize(math.erf)(a / math.sqrt(2)))

    out = []
    for row in x:
        h = weights["embedding"][row] + weights["positions"][: len(row)]
        w = h.shape[1] // heads
        for index in range(1, 3):
            of = f"layer{index}"
            q, k, v = np.split(norm(h, f"{of}_norm1") @ weights[f"{of}_qkv"], 3, axis=1)
            mixed = np.zeros_like(h)
            for head in range(heads):
                part = slice(head * w, (head + 1) * w)
                for t in range(len(row)):
                    scores = k[: t + 1, part] @ q[t, part] / math.sqrt(w)
                    e = np.exp(scores - scores.max())
                    mixed[t, part] = e / e.sum() @ v[: t + 1, part]
            h = h + mixed @ weights[f"{of}_mixed"]
            h = h + gelu(norm(h, f"{of}_norm2") @ weights[f"{of}_hidden"]) @ weights[f"{of}_out"]
        out.append(norm(h, "norm") @ weights["logits"])
    return np.stack(out)


@pytest.mark.parametrize("jit", [False, True])
def test_it_computes_what_it_says(jit):
    model = small()
    generator = np.random.default_rng(1)  # weights of size 1, so that every part counts
    model.set_weights([generator.normal(size=w.shape).astype(np.float32) for w in model.get_weights()])
    x = tokens()
    logits = tf.function(model, jit_compile=jit)(tf.constant(x)).numpy()
    wanted = reference(model, x, heads=2)
    assert logits.shape == (3, 6, 11)
    np.testing.assert_allclose(logits, wanted, rtol=2e-3, atol=2e-3 * np.abs(wanted).max())


def test_a_token_sees_none_that_comes_later():
    model, x = small(), tokens()
    other = x.copy()
    other[:, 4:] = (other[:, 4:] + 1) % 11
    before, after = model(x).numpy(), model(other).numpy()
    assert (before[:, :4] == after[:, :4]).all() and (before[:, 4:] != after[:, 4:]).any(axis=-1).all()


def test_the_first_loss_is_that_of_equal_chances():
    model = models.build("gpt", (48,), 65)
    x = tokens(8, 48, 65)
    loss = float(default_loss()(x, model(x)))
    assert loss == pytest.approx(math.log(65), abs=0.05)


def test_the_seed_decides_the_weights():
    first, again, other = (small(seed=seed).get_weights() for seed in (3, 3, 4))
    assert all((a == b).all() for a, b in zip(first, again))
    assert all((a != b).any() for a, b in zip(first, other) if a.ndim > 1)
    deviations = {round(float(w.std()), 3) for w in models.build("gpt", (48,), 65).get_weights() if w.ndim > 1}
    assert deviations <= {0.02, 0.008}


def test_golden_weights_hold_on_every_stack():
    first = small(seed=3).get_weights()[0].ravel()[:4]
    np.testing.assert_allclose(first, GOLDEN, rtol=1e-5)


GOLDEN = [-0.00613119, 0.0122935, 0.00890149, 0.0212098]


@pytest.mark.parametrize("ending", [".keras", ".h5"] if KERAS_3 else ["", ".h5"])
@pytest.mark.filterwarnings("ignore")
def test_it_is_saved_and_loaded_where_only_the_package_was_imported(tmp_path, ending):
    model, x = small(), tokens()
    path = str(tmp_path / f"model{ending}")
    model.save(path)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "wanted.npy", model(x).numpy())
    script = (
        "import sys, numpy as np, rbd_ipu, warnings; warnings.simplefilter('ignore')\n"
        f"from {'keras' if KERAS_3 else 'tensorflow.keras'} import models\n"
        "path, x, wanted = sys.argv[1:]\n"
        "model = models.load_model(path, compile=False)\n"
        "assert 'rbd_ipu' in str(type(model.get_layer('positions')).__module__)\n"
        "np.testing.assert_allclose(model(np.load(x)), np.load(wanted), rtol=1e-5, atol=1e-6)\n"
    )
    arguments = [sys.executable, "-c", script, path, str(tmp_path / "x.npy"), str(tmp_path / "wanted.npy")]
    done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout


def test_layers_are_made_again_from_their_configurations():
    for layer in (Positions(5, name="a"), CausalAttention(3, name="b")):
        again = type(layer).from_config(layer.get_config())
        assert again.get_config() == layer.get_config()


def test_what_it_writes_follows_from_the_seed():
    model = small()
    first = generate(model, [1, 2], 20, seed=5)
    assert first.shape == (20,) and first.dtype == np.int32 and first.min() >= 0 and first.max() < 11
    assert (first == generate(model, np.array([1, 2]), 20, seed=5)).all()
    assert (first != generate(model, [1, 2], 20, seed=6)).any()


def test_a_cold_model_writes_the_likeliest_token_and_sees_only_its_context():
    model = small()
    generator = np.random.default_rng(1)
    model.set_weights([generator.normal(size=w.shape).astype(np.float32) for w in model.get_weights()])
    prompt = tokens(1, context=9)[0]
    written = prompt.tolist()
    for _ in range(8):
        logits = model(np.asarray([written[-6:]], np.int32)).numpy()[0, -1]
        written.append(int(logits.argmax()))
    assert generate(model, prompt, 8, temperature=1e-6).tolist() == written[9:]
    likely = generate(model, prompt[:2], 1, temperature=1e-6)[0]
    window = np.zeros([1, 6], np.int32)
    window[0, :2] = prompt[:2]
    assert likely == model(window).numpy()[0, 1].argmax()


def test_it_learns_in_random_bases():
    text = data.load("shakespeare_excerpt").with_context(16)
    model = models.build("gpt", text.shape, text.classes, layers=1, width=16, heads=2)
    trainer = rbd_ipu.Trainer(model, methods.create("rbd", learning_rate=4.0, dim=500), "cpu")
    before = trainer.evaluate(text.evaluation("validation", 104))
    history = trainer.fit(text.batches(32, seed=1), text.evaluation("validation", 104), epochs=2, verbose=0).history
    assert before["loss"] == pytest.approx(math.log(59), abs=0.1)
    assert history["val_loss"][-1] < before["loss"] - 0.3
    assert 0 < history["val_accuracy"][-1] < 1


def test_it_learns_in_fit():
    text = data.load("shakespeare_excerpt").with_context(16)
    model = models.build("gpt", text.shape, text.classes, layers=1, width=16, heads=2)
    optimizer = rbd_ipu.RandomBasesDescent(8.0, dim=1000, distribution="hadamard")
    model.compile(optimizer, loss=default_loss(), metrics=["accuracy"])
    x, y = text.train.windows()
    history = model.fit(x, y, batch_size=32, epochs=2, verbose=0, validation_data=text.validation.windows()).history
    assert history["val_loss"][-1] < math.log(59) - 0.3
    assert 0 < history["val_accuracy"][-1] < 1


def test_a_text_of_another_vocabulary_or_context_is_refused_before_training():
    text = data.load("shakespeare_excerpt").with_context(16)
    sizes = {"layers": 1, "width": 8, "heads": 1}
    for shape, classes, message in (
        ((16,), 65, "the text has a vocabulary of 59 and model 'gpt' has one of 65: they must be the same"),
        ((48,), 59, "the text has a context of 16 and model 'gpt' has one of 48: they must be the same"),
    ):
        model = models.build("gpt", shape, classes, **sizes)
        before = model.get_weights()
        with pytest.raises(ValueError, match=message):
            rbd_ipu.Trainer(model, methods.create("sgd", learning_rate=1.0), "cpu").fit(text.batches(8), verbose=0)
        assert all((a == b).all() for a, b in zip(before, model.get_weights()))


def test_what_is_refused():
    with pytest.raises(ValueError, match="heads=3 do not divide width=8; accepted: 1, 2, 4, 8"):
        small(heads=3)
    with pytest.raises(TypeError, match="layers must be an integer >= 1, got 1.5"):
        small(layers=1.5)
    with pytest.raises(TypeError, match="network 'gpt' has no size 'depth'; accepted: layers, width, heads"):
        small(depth=3)
    with pytest.raises(TypeError, match="network 'fc' has no size 'width'; accepted: none"):
        models.build("fc", (8, 8, 1), width=3)
    with pytest.raises(ValueError, match=r"shape must be one whole number from 1 \(context,\), got \(8, 8, 1\)"):
        models.build("gpt", (8, 8, 1))
    with pytest.raises(ValueError, match="7 tokens are more than the context of 4 of layer 'places'"):
        Positions(4, name="places")(tf.zeros([1, 7, 2]))
    with pytest.raises(ValueError, match=r"its 4 heads divide, got \[1, 5, 18\]"):
        CausalAttention(4, name="a")(tf.zeros([1, 5, 18]))
    model = small()
    with pytest.raises(ValueError, match="prompt must hold tokens 0 .. 10, got 3 .. 11"):
        generate(model, [3, 11], 4)
    with pytest.raises(TypeError, match=r"prompt must be whole numbers \[m\] and not empty, got float64 \[0\]"):
        generate(model, [], 4)
    with pytest.raises(ValueError, match="length must be an integer >= 1, got 0"):
        generate(model, [1], 0)
    with pytest.raises(ValueError, match="temperature must be above 0, got 0.0"):
        generate(model, [1], 1, temperature=0.0)
    assert keras.backend.floatx() == "float32"
