"""A fine-tune in a fixed subspace as a file: the way there and back, and what is refused."""

import hashlib
import json
import struct
import zlib

import numpy as np
import pytest
from nets import blobs, crossentropy, dense, flat

import rbd_ipu
from rbd_ipu import delta
from rbd_ipu._compat import KERAS_3, keras
from rbd_ipu.cli import main

MAKERS = {
    "fpd normal": lambda: rbd_ipu.FixedProjectionDescent(0.5, dim=16, momentum=0.9, seed=3),
    "fpd layer": lambda: rbd_ipu.FixedProjectionDescent(0.5, dim=16, compartments="layer", distribution="uniform"),
    "fpd hadamard": lambda: rbd_ipu.FixedProjectionDescent(0.5, dim=16, distribution="hadamard", seed=-(2**40)),
    "groups": lambda: rbd_ipu.SubspaceOptimizer(
        keras.optimizers.Adam(0.05), dim=16, distribution="groups", state="coordinates", redraw_every=0, seed=5
    ),
}


def tuned(make, seed=1, epochs=2):
    model = dense(seed)
    x, y = blobs(96)
    model.compile(optimizer=make(), loss=crossentropy())
    model.fit(x, y, batch_size=32, epochs=epochs, verbose=0, shuffle=False)
    return model


@pytest.mark.parametrize("name", MAKERS)
def test_a_file_makes_the_base_the_tuned_model(name, tmp_path):
    model, base = tuned(MAKERS[name]), dense()
    path = tmp_path / "a.delta"
    written = delta.save_delta(path, model, base)
    assert path.stat().st_size <= 4 * 16 + 1000 and len(written.coordinates) == 16
    delta.apply_delta(base, path)
    np.testing.assert_allclose(flat(base), flat(model), atol=2e-6)
    again = dense()
    delta.apply_delta(again, path)
    np.testing.assert_array_equal(flat(base), flat(again))
    x, _ = blobs(32)
    np.testing.assert_allclose(base.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-4)
    read = delta.load_delta(path)
    assert read.basis == written.basis and read.shapes == written.shapes and read.base == written.base


def test_several_deltas_of_one_base_are_swapped(tmp_path):
    models = {name: tuned(MAKERS[name]) for name in ("fpd normal", "groups")}
    for name, model in models.items():
        delta.save_delta(tmp_path / name, model, dense())
    one = dense()
    for name in ("fpd normal", "groups", "fpd normal"):
        delta.apply_delta(one, tmp_path / name)
        np.testing.assert_allclose(flat(one), flat(models[name]), atol=2e-6)


def test_sources_agree(tmp_path):
    model = tuned(lambda: rbd_ipu.FixedProjectionDescent(0.5, dim=16, source="counter"))
    delta.save_delta(tmp_path / "counter", model, dense())
    read = delta.load_delta(tmp_path / "counter")
    native = read._replace(basis=read.basis.__class__(**{**read.basis.as_dict(), "source": "native"}))
    (tmp_path / "native").write_bytes(delta.encoded(native))
    found = [dense(), dense()]
    for one, name in zip(found, ("counter", "native")):
        delta.apply_delta(one, tmp_path / name)
    np.testing.assert_allclose(flat(found[0]), flat(found[1]), atol=1e-6)


def test_a_base_may_be_a_file(tmp_path):
    model, base = tuned(MAKERS["fpd hadamard"]), dense()
    weights, whole = str(tmp_path / "base.weights.h5"), str(tmp_path / ("base.keras" if KERAS_3 else "base.h5"))
    base.save_weights(weights)
    base.save(whole)
    for path in (weights, whole):
        assert delta.save_delta(tmp_path / "a", model, path).base == delta.fingerprint(base.get_weights())


def test_the_command(tmp_path, capsys):
    model, base = tuned(MAKERS["fpd normal"]), dense()
    end = "keras" if KERAS_3 else "h5"
    base.save(str(tmp_path / f"base.{end}"))
    delta.save_delta(tmp_path / "a.delta", model, base)
    assert main(["delta", "show", str(tmp_path / "a.delta")]) == 0
    said = capsys.readouterr().out
    assert "d = 16 of D = 214" in said and "6 x 12" in said and "seed=3" in said
    line = ["delta", "apply", str(tmp_path / "a.delta"), "--model", str(tmp_path / f"base.{end}")]
    assert main([*line, "--output", str(tmp_path / f"tuned.{end}")]) == 0
    loaded = keras.models.load_model(str(tmp_path / f"tuned.{end}"), compile=False)
    np.testing.assert_allclose(flat(loaded), flat(model), atol=2e-6)
    assert main(line) == 2 and "needs --model BASE and --output FILE" in capsys.readouterr().err


def twins(frozen, seed=0):
    """Two layers of one shape, one of which is not trained."""
    layers = [keras.layers.Dense(6, "tanh", name="a"), keras.layers.Dense(6, name="b")]
    model = keras.Sequential([keras.Input((6,)), *layers])
    generator = np.random.default_rng(seed)
    model.set_weights([generator.normal(size=w.shape).astype(np.float32) for w in model.get_weights()])
    model.get_layer(frozen).trainable = False
    return model


def test_equal_layers_are_told_apart_by_their_places(tmp_path):
    model = twins("a")
    model.compile(optimizer=rbd_ipu.FixedProjectionDescent(0.1, dim=8), loss="mse")
    model.fit(np.ones((8, 6)), np.ones((8, 6)), verbose=0)
    path = tmp_path / "a.delta"
    written = delta.save_delta(path, model, twins("a"))
    other = twins("b")
    before = flat(other)
    with pytest.raises(delta.DeltaError, match="and the model trains"):
        delta.apply_delta(other, path)
    np.testing.assert_array_equal(flat(other), before)
    older = written._replace(layout=delta.layout(model.trainable_variables))  # of shapes alone
    path.write_bytes(delta.encoded(older))
    base = twins("a")
    delta.apply_delta(base, path)
    np.testing.assert_allclose(flat(base), flat(model), atol=1e-6)


def test_a_model_that_has_diverged_is_not_written_over_a_good_file(tmp_path):
    path, model = tmp_path / "a.delta", tuned(MAKERS["fpd normal"])
    delta.save_delta(path, model, dense())
    good = path.read_bytes()
    model.set_weights([np.full_like(w, np.nan) for w in model.get_weights()])
    with pytest.raises(ValueError, match="214 of 214 weights are not finite"):
        delta.save_delta(path, model, dense())
    assert path.read_bytes() == good


@pytest.mark.parametrize("kind", ["fpd", "adam"])
def test_what_rounding_moves_in_a_fine_tune_by_small_steps_is_no_change_outside(kind, tmp_path):
    def build():
        layers = [keras.layers.Dense(64, "tanh"), keras.layers.LayerNormalization(), keras.layers.Dense(8)]
        model = keras.Sequential([keras.Input((8,)), *layers])
        generator = np.random.default_rng(0)
        start = [generator.normal(size=w.shape) / 8 if w.ndim > 1 else np.ones(w.shape) for w in model.get_weights()]
        model.set_weights([w.astype(np.float32) for w in start])
        return model

    model = build()
    x = np.random.default_rng(1).normal(size=(64, 8)).astype(np.float32)
    of_adam = {"dim": 20, "distribution": "groups", "state": "coordinates", "redraw_every": 0}
    optimizer = (
        rbd_ipu.FixedProjectionDescent(1e-4, dim=20)
        if kind == "fpd"
        else rbd_ipu.SubspaceOptimizer(keras.optimizers.Adam(1e-5), **of_adam)
    )
    model.compile(optimizer=optimizer, loss="mse")
    model.fit(x, x, batch_size=8, epochs=25, verbose=0, shuffle=False)
    delta.save_delta(tmp_path / "a", model, build())
    base = build()
    delta.apply_delta(base, tmp_path / "a")
    np.testing.assert_allclose(flat(base), flat(model), atol=2e-5)
    moved = model.get_weights()
    moved[0] = moved[0] + np.float32(0.01) * np.random.default_rng(2).normal(size=moved[0].shape).astype(np.float32)
    model.set_weights(moved)
    with pytest.raises(ValueError, match="lies outside the subspace"):
        delta.save_delta(tmp_path / "b", model, build())


@pytest.mark.parametrize("name", ["fpd normal", "groups"])
def test_a_model_that_was_not_trained_yet_has_moved_by_nothing(name, tmp_path):
    model = dense()
    model.compile(optimizer=MAKERS[name](), loss=crossentropy())
    assert not delta.save_delta(tmp_path / "a", model, dense()).coordinates.any()


def test_a_loss_scale_around_the_optimizer(tmp_path):
    model = dense()
    scaling = keras.optimizers.LossScaleOptimizer if KERAS_3 else keras.mixed_precision.LossScaleOptimizer
    model.compile(optimizer=scaling(MAKERS["fpd normal"]()), loss=crossentropy())
    x, y = blobs(96)
    model.fit(x, y, batch_size=32, epochs=2, verbose=0, shuffle=False)
    delta.save_delta(tmp_path / "a", model, dense())
    base = dense()
    delta.apply_delta(base, tmp_path / "a")
    np.testing.assert_allclose(flat(base), flat(model), atol=2e-6)


def test_a_base_that_cannot_be_read_is_said(tmp_path):
    with pytest.raises(ValueError, match="the model is not compiled"):
        delta.save_delta(tmp_path / "a", dense(), dense())
    model = tuned(MAKERS["fpd normal"])
    (tmp_path / "junk.keras").write_bytes(b"no model")
    with pytest.raises(ValueError, match="junk.keras: the base cannot be read"):
        delta.save_delta(tmp_path / "a", model, tmp_path / "junk.keras")
    with pytest.raises(OSError, match="nothere"):
        delta.save_delta(tmp_path / "a", model, tmp_path / "nothere")
    assert not (tmp_path / "a").exists()


def test_the_command_says_what_is_wrong_with_its_files(tmp_path, capsys):
    end = "keras" if KERAS_3 else "h5"
    base, path = tmp_path / f"base.{end}", tmp_path / "a.delta"
    dense().save(str(base))
    delta.save_delta(path, tuned(MAKERS["fpd normal"]), dense())
    assert main(["delta", "show", str(tmp_path / "nothere")]) == 2
    assert "nothere: there is no such file" in capsys.readouterr().err
    assert main(["delta", "show", str(tmp_path)]) == 2
    assert "is a folder, and a delta is a file" in capsys.readouterr().err
    for model, output, words in (
        ("nothere", f"b.{end}", "nothere: there is no such file"),
        (base.name, base.name, "is there already"),
        (base.name, "b.txt", "accepted endings are .keras, .h5"),
        (base.name, f"no/b.{end}", "there is no folder"),
        ("a.delta", f"b.{end}", "a.delta: no model can be read from it"),
    ):
        line = ["delta", "apply", str(path), "--model", str(tmp_path / model), "--output", str(tmp_path / output)]
        assert main(line) == 2 and words in capsys.readouterr().err
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([base.name, path.name])


def test_what_does_not_fit_changes_nothing(tmp_path):
    path = tmp_path / "a.delta"
    delta.save_delta(path, tuned(MAKERS["fpd normal"]), dense())
    other = dense(seed=7)
    for model, words in ((other, "is for a base with SHA-256"), (dense(outputs=3), "and the model trains")):
        before = flat(model)
        with pytest.raises(delta.DeltaError, match=words):
            delta.apply_delta(model, path)
        np.testing.assert_array_equal(flat(model), before)
    data = bytearray(path.read_bytes())
    base = dense()
    before = flat(base)
    for place in (20, len(data) // 2, len(data) - 40, len(data) - 1):
        (tmp_path / "b").write_bytes(bytes([*data[:place], data[place] ^ 1, *data[place + 1 :]]))
        with pytest.raises(delta.DeltaError, match="damaged|cannot be read|format"):
            delta.apply_delta(base, tmp_path / "b")
    (tmp_path / "b").write_bytes(data[:-5])
    with pytest.raises(delta.DeltaError, match="damaged or cut off"):
        delta.apply_delta(base, tmp_path / "b")
    newer = bytes(data[:13]) + bytes([9]) + bytes(data[14:-32])
    (tmp_path / "b").write_bytes(newer + hashlib.sha256(newer).digest())
    with pytest.raises(delta.DeltaError, match="is of format 9, and this version of rbd_ipu knows format 1"):
        delta.apply_delta(base, tmp_path / "b")
    (tmp_path / "b").write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(delta.DeltaError, match="is no delta"):
        delta.load_delta(tmp_path / "b")
    np.testing.assert_array_equal(flat(base), before)


def forged(data, text=None, coordinates=None, **changes):
    """A whole file with another header: its SHA-256 is right."""
    (length,) = struct.unpack("<I", data[14:18])
    header = json.loads(zlib.decompress(data[18 : 18 + length]))
    header["basis"].update(changes.pop("basis", {}))
    packed = zlib.compress((text or json.dumps({**header, **changes})).encode())
    rest = data[18 + length : -32] if coordinates is None else np.zeros(coordinates, "<f4").tobytes()
    body = data[:14] + struct.pack("<I", len(packed)) + packed + rest
    return body + hashlib.sha256(body).digest()


@pytest.mark.parametrize("name", ["fpd normal", "fpd hadamard", "groups"])
def test_numbers_that_contradict_each_other_never_reach_the_kernels(name, tmp_path):
    path, base = tmp_path / "a.delta", dense()
    delta.save_delta(path, tuned(MAKERS[name]), dense())
    data, before = path.read_bytes(), flat(base)
    for content, words in (
        (
            forged(data, basis={"dim": 100_000}),
            "16 coordinates for 214 weights; its basis has|must be at most|more than",
        ),
        (forged(data, basis={"dim": 15}), "16 coordinates for 214 weights; its basis has 15 directions"),
        (forged(data, coordinates=0, d=0), "has 0 coordinates for 214 weights; its basis has 16 directions"),
        (forged(data, D=215), "16 coordinates for 215 weights; .* in the 214 weights that the model trains"),
        (forged(data, d=15), "has 16 coordinates, and its header says d = 15"),
        (forged(data, D=float("inf")), "cannot be read"),
        (forged(data, text=200_000 * "[" + 200_000 * "]"), "cannot be read"),
    ):
        path.write_bytes(content)
        with pytest.raises(delta.DeltaError, match=words):
            delta.apply_delta(base, path)
        np.testing.assert_array_equal(flat(base), before)


def test_what_is_no_fine_tune_in_a_subspace_is_refused(tmp_path):
    model = tuned(MAKERS["fpd normal"])
    with pytest.raises(ValueError, match="lies outside the subspace"):
        delta.save_delta(tmp_path / "a", model, dense(seed=7))
    with pytest.raises(ValueError, match="SGD has no fixed subspace"):
        delta.save_delta(tmp_path / "a", tuned(lambda: keras.optimizers.SGD(0.1)), dense())
    with pytest.raises(ValueError, match="RandomBasesDescent has no fixed subspace"):
        delta.save_delta(tmp_path / "a", tuned(lambda: rbd_ipu.RandomBasesDescent(0.1, dim=4)), dense())
    assert not (tmp_path / "a").exists()


def test_many_variables_still_make_a_small_file():
    read = delta.Delta(
        basis=delta.BasisSpec(dim=8),
        coordinates=np.arange(8, dtype=np.float32),
        size=10**6,
        shapes={f"layer_{i}/{hashlib.sha256(str(i).encode()).hexdigest()}/kernel": (i, 3) for i in range(300)},
        layout="0" * 64,
        base="1" * 64,
    )
    assert len(delta.encoded(read)) <= 4 * 8 + 1000
