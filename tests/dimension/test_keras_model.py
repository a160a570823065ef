"""``rbd_ipu.intrinsic_dimension`` on a small Keras model of one's own."""

import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest
from nets import blobs, crossentropy, dense

import rbd_ipu
from rbd_ipu import methods
from rbd_ipu._compat import keras, tf
from rbd_ipu.data import Batches
from rbd_ipu.dimension import keras_model
from rbd_ipu.errors import ConfigError
from rbd_ipu.files import installed

PAGE = Path(__file__).resolve().parents[2] / "docs" / "dimension.md"
X, Y = blobs(192)
DATA = (X[:128], Y[:128]), (X[128:], Y[128:])
QUICK = {"epochs": 3, "learning_rates": [2.0], "full_learning_rates": [0.5], "share": 0.7}


def looked_for(**options):
    return rbd_ipu.intrinsic_dimension(dense, *DATA, **{**QUICK, **options})


def test_it_finds_a_d_and_says_nothing(capsys):
    result = looked_for(least=8, tolerance=0.25, learning_rates=[2.0, 0.5])
    assert capsys.readouterr().out == ""
    assert result.size == 214 and result.finished and result.full[:2] == (214, 0.5) and result.full.accuracy > 0.5
    assert 8 <= result.dim <= 214 and result.below < result.dim <= max(8, 1.25 * result.below)
    verdicts = {point.dim: point.reaches for point in result.curve}
    assert verdicts[result.dim] and (not result.below or not verdicts[result.below])
    assert [point.accuracy >= result.threshold for point in result.curve] == list(verdicts.values())


def test_a_run_is_a_plain_training_by_the_trainer():
    result = looked_for(least=16, greatest=16, seeds=[3], momentum=0.5)
    assert [run.dim for run in result.runs] == [None, 16]
    ways = [("sgd", {"learning_rate": 0.5})]
    ways += [("fpd", {"learning_rate": 2.0, "dim": 16, "distribution": "hadamard", "seed": 3})]
    for run, (name, options) in zip(result.runs, ways):
        trainer = rbd_ipu.Trainer(dense(3), methods.create(name, momentum=0.5, **options))
        history = trainer.fit(DATA[0], DATA[1], epochs=3, verbose=0, seed=3).history
        assert run.accuracy == pytest.approx(history["val_accuracy"][-1], abs=1e-6)


def test_a_redrawn_subspace_and_a_tf_dataset():
    train, validation = (tf.data.Dataset.from_tensor_slices(part).batch(32) for part in DATA)
    result = rbd_ipu.intrinsic_dimension(dense, train, validation, **QUICK, method="rbd", least=32, greatest=64)
    assert result.size == 214 and result.finished


def test_a_compiled_model_keeps_its_loss():
    def build(seed):
        model = dense(seed)
        model.compile(optimizer="sgd", loss=crossentropy(), metrics=["accuracy"])
        return model

    result = rbd_ipu.intrinsic_dimension(build, *DATA, **QUICK, least=64, greatest=64)
    assert result.full.accuracy == pytest.approx(looked_for(least=64, greatest=64).full.accuracy, abs=0.02)


def test_it_goes_on_after_a_kill_and_repeats_nothing(tmp_path, monkeypatch, capsys):
    built = []

    def build(seed):
        built.append(seed)
        if len(built) == 5:
            raise KeyboardInterrupt
        return dense(seed)

    folder, few = tmp_path / "search", {**QUICK, "least": 8, "greatest": 64, "tolerance": 1.0, "verbose": True}
    with pytest.raises(KeyboardInterrupt):
        rbd_ipu.intrinsic_dimension(build, *DATA, **few, folder=folder)
    kept = (folder / "runs.jsonl").read_text()
    assert len(kept.splitlines()) == 1
    facts = json.loads((folder / "dimension.json").read_text())
    assert facts["sittings"][0]["outcome"] == "interrupted" and len(facts["runs"]) == 1
    result = rbd_ipu.intrinsic_dimension(build, *DATA, **few, folder=folder)
    assert "(kept)" in capsys.readouterr().out and (folder / "runs.jsonl").read_text().startswith(kept)
    assert (folder / "curve.csv").exists() and (folder / "curve.png").exists() == installed("matplotlib")
    count = len(built)
    again = rbd_ipu.intrinsic_dimension(build, *DATA, **few, folder=folder)
    assert again == result and len(built) == count + 3  # D, and both ends of the range: nothing is trained
    with pytest.raises(ValueError, match="folder .*: a search with other settings is kept there: epochs 3 there"):
        rbd_ipu.intrinsic_dimension(build, *DATA, **{**few, "epochs": 1}, folder=folder)
    with pytest.raises(ValueError, match="other settings is kept there: train "):
        rbd_ipu.intrinsic_dimension(build, (X[:96], Y[:96]), DATA[1], **few, folder=folder)


def test_a_run_that_diverges_is_a_row(tmp_path):
    few = {"least": 32, "greatest": 32, "learning_rates": [1e30, 2.0], "full_learning_rates": [1e30, 0.5]}
    for _ in range(2):  # also as it was kept
        result = looked_for(**few, folder=tmp_path / "search")
        lost = [run for run in result.runs if run.outcome == "not finite"]
        assert len(lost) == 2 and all(np.isnan(run.accuracy) for run in lost)
        assert result.full.diverged == 1 and result.full.learning_rate == 0.5 and result.curve[0].learning_rate == 2.0
    rows = [json.loads(line) for line in (tmp_path / "search" / "runs.jsonl").read_text().splitlines()]
    assert [row["accuracy"] is None for row in rows] == [True, False, True, False]


BAD = [
    ({"share": 1.5}, ValueError, "share must be a number above 0 and at most 1, got 1.5"),
    ({"share": 0}, ValueError, "share must be a number above 0 and at most 1, got 0"),
    ({"share": float("nan")}, ValueError, "share must be a number above 0 and at most 1, got nan"),
    ({"share": "most"}, TypeError, "share must be a number above 0 and at most 1, got 'most'"),
    ({"epochs": 0}, ValueError, "epochs must be an integer >= 1, got 0"),
    ({"epochs": 2.0}, TypeError, "epochs must be an integer >= 1, got 2.0"),
    ({"batch_size": 0}, ValueError, "batch_size must be an integer >= 1, got 0"),
    ({"tolerance": -0.1}, ValueError, r"tolerance must be a number in \[0, 1\], got -0.1"),
    ({"method": "sgd"}, ValueError, "unknown method 'sgd'; accepted: 'fpd', 'rbd'"),
    ({"distribution": "gauss"}, ValueError, "unknown distribution 'gauss'; accepted: "),
    ({"learning_rates": []}, ValueError, r"learning_rates must be one or more different numbers above 0, got \[\]"),
    ({"learning_rates": [1.0, 1.0]}, ValueError, "learning_rates must be one or more different"),
    ({"learning_rates": 0.5}, TypeError, "learning_rates must be a list of numbers above 0, got 0.5"),
    ({"learning_rates": [-1.0]}, ValueError, "each of learning_rates must be a finite number above 0, got -1.0"),
    ({"full_learning_rates": [10**400]}, ValueError, "each of full_learning_rates must be a finite number above 0"),
    ({"seeds": []}, ValueError, "seeds must be one or more different integers"),
    ({"seeds": [0, 0]}, ValueError, "seeds must be one or more different integers"),
    ({"seeds": "0"}, TypeError, "seeds must be a list of integers, got '0'"),
    ({"seeds": [0.5]}, TypeError, "seed must be an integer of at most 64 bits, got 0.5"),
    ({"least": 0}, ValueError, "least must be an integer >= 1, got 0"),
    ({"greatest": 215}, ValueError, "greatest must be an integer from 1 to D = 214, got 215"),
    ({"least": 9, "greatest": 8}, ValueError, "least must be at most greatest, got least=9 and greatest=8"),
    ({"also": [1, 999]}, ValueError, "also must be an integer from 1 to D = 214, got 999"),
    ({"also": "many"}, TypeError, "also must be an integer >= 1, got 'many'"),
    ({"verbose": 1}, TypeError, "verbose must be True or False, got 1"),
    ({"dimension": 3}, TypeError, "method 'fpd' does not take dimension; it takes "),
    ({"compartments": "layer"}, ValueError, "dim=1 is less than the 2 compartments"),
]


@pytest.mark.parametrize("options, error, message", BAD)
def test_what_is_refused_trains_and_writes_nothing(options, error, message, tmp_path, monkeypatch):
    monkeypatch.setattr(rbd_ipu.Trainer, "fit", None)
    with pytest.raises(error, match=message):
        looked_for(**{"folder": tmp_path / "search", **options})
    assert not (tmp_path / "search").exists()


def test_models_and_data_that_are_none_are_refused(tmp_path):
    with pytest.raises(TypeError, match="build_model must be a function from a seed to a built Keras model, got 3"):
        rbd_ipu.intrinsic_dimension(3, *DATA, **QUICK)
    with pytest.raises(TypeError, match="model must be a Keras model, got None"):
        rbd_ipu.intrinsic_dimension(lambda seed: None, *DATA, **QUICK)
    with pytest.raises(ValueError, match="is not built yet"):
        rbd_ipu.intrinsic_dimension(lambda seed: keras.Sequential([keras.layers.Dense(3)]), *DATA, **QUICK)
    for train, validation in ((None, DATA[1]), (DATA[0], None), (X, DATA[1])):
        with pytest.raises(TypeError, match="data must be"):
            rbd_ipu.intrinsic_dimension(dense, train, validation, **QUICK)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds no search"):
        looked_for(folder=tmp_path)


def test_a_model_without_accuracy_is_refused():
    def build(seed):
        model = dense(seed)
        model.compile(optimizer="sgd", loss="mse")
        return model

    one_hot = np.eye(10, dtype=np.float32)[Y]
    with pytest.raises(ValueError, match=r'must measure "accuracy" .* measures loss: compile it with metrics'):
        rbd_ipu.intrinsic_dimension(build, (X, one_hot), (X, one_hot), **QUICK)


def test_a_folder_of_another_network_or_other_data_is_refused(tmp_path):
    def other(seed):
        model = dense(seed)
        model.layers[1].activation = keras.activations.sigmoid
        return model

    sets = [tf.data.Dataset.from_tensor_slices(DATA[0]).take(n).batch(32) for n in (128, 64)]
    options = {"least": 16, "greatest": 16, "folder": tmp_path / "a"}
    kept = rbd_ipu.intrinsic_dimension(dense, sets[0], DATA[1], **QUICK, **options)
    again = rbd_ipu.intrinsic_dimension(dense, sets[0], DATA[1], **QUICK, **options)  # its layers have other names
    assert again.runs == kept.runs
    for build, train, what in ((other, sets[0], "network"), (dense, sets[1], "train")):
        with pytest.raises(ConfigError, match=f"a search with other settings is kept there: {what}"):
            rbd_ipu.intrinsic_dimension(build, train, DATA[1], **QUICK, **options)
    path = tmp_path / "a" / keras_model.RUNS
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ConfigError, match=r"line 2 is damaged .* its run is made again"):
        rbd_ipu.intrinsic_dimension(dense, sets[0], DATA[1], **QUICK, **options)


def test_a_model_is_described_by_what_it_computes():
    def build(activation="relu", units=4, rate=0.1):
        layers = [keras.layers.Dense(units, activation), keras.layers.Dropout(rate), keras.layers.Dense(2)]
        inputs = outputs = keras.Input((3,))
        for layer in layers:
            outputs = layer(outputs)
        return keras.Model(inputs, outputs)

    one = keras_model.described(build())
    assert one == keras_model.described(build())
    assert one not in [
        keras_model.described(build(**o)) for o in ({"activation": "tanh"}, {"units": 5}, {"rate": 0.2})
    ]


def test_one_model_for_all_runs_is_refused():
    model = dense()
    with pytest.raises(ValueError, match="it must build a new one at each call"):
        rbd_ipu.intrinsic_dimension(lambda seed: model, *DATA, **QUICK)


def test_fingerprints_tell_data_apart():
    one, other = (np.zeros((2, 3)), np.arange(2)), (np.zeros((3, 2)), np.arange(2))
    assert keras_model.fingerprint(one) == keras_model.fingerprint((np.zeros((2, 3)), np.arange(2)))
    assert keras_model.fingerprint(one) != keras_model.fingerprint(other)
    assert keras_model.fingerprint({"a": one, "b": [[1, 2]]}) and keras_model.fingerprint(iter([])) is None
    images, labels = np.zeros((6, 4, 4, 1), np.float32), np.zeros(6, np.int32)
    streams = [((images, labels), 2), ((images, labels), 3), ((images, labels), 2, 1), ((images, labels + 1), 2)]
    streams += [((images, labels), 2, 0, "pad_crop"), ((images + 1, labels), 2)]
    found = [keras_model.fingerprint(Batches(*stream)) for stream in streams]
    assert len(set(found)) == 6 and keras_model.fingerprint(Batches(*streams[0])) == found[0]


@pytest.mark.skipif(not PAGE.is_file(), reason="the pages are not beside the tests")
def test_the_example_of_the_page_calls_it_rightly(monkeypatch, tmp_path):
    images = np.zeros((64, 28, 28), np.uint8), np.arange(64, dtype=np.uint8) % 10
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: (images, images))
    signature = inspect.signature(rbd_ipu.intrinsic_dimension)

    def shorter(*arguments, **named):
        given = signature.bind(*arguments, **named).arguments
        assert given["folder"] == "runs/mine"
        few = {"epochs": 1, "learning_rates": [1.0], "full_learning_rates": [0.1], "least": 64, "greatest": 64}
        return genuine(**{**given, **few, "folder": tmp_path / "mine"})

    genuine = rbd_ipu.intrinsic_dimension
    monkeypatch.setattr(rbd_ipu, "intrinsic_dimension", shorter, raising=False)
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(compile(block, str(PAGE), "exec"), {})
