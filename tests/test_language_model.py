"""A language model by the command line: a run and its folder, going on, the demonstration, and what is refused."""

import json
import math

import pytest

from rbd_ipu.cli import main
from rbd_ipu.config import FIELDS, OF_TEXT, SIZES, TEXTS, resolve
from rbd_ipu.errors import ConfigError
from rbd_ipu.lab import demo
from rbd_ipu.lab import report as page
from rbd_ipu.lab.results import from_folder

SMALL = {"dataset": "shakespeare_excerpt", "network": "gpt", "layers": 1, "width": 8, "heads": 2, "context": 32}
RUN = {**SMALL, "method": "rbd", "dim": 20, "learning_rate": 4, "batch_size": 64}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def words(**settings):
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def test_a_run_leaves_losses_perplexities_and_a_sample(tmp_path, capsys):
    assert main(["train", *words(**RUN, epochs=1), "--output", "here"]) == 0
    out = capsys.readouterr().out
    result = json.loads((tmp_path / "here" / "result.json").read_text())
    for numbers in (result["validation"], result["best"]["validation"], result["test"]):
        assert set(numbers) == {"loss", "accuracy", "perplexity"}
        assert numbers["perplexity"] == pytest.approx(math.exp(numbers["loss"]))
        assert 1 < numbers["loss"] < math.log(59) + 0.2
    sample = (tmp_path / "here" / "sample.txt").read_text()
    assert len(sample) == 201 and sample.strip()[:40] in out
    assert f"perplexity {result['test']['perplexity']:.3f}" in out
    about = json.loads((tmp_path / "here" / "run.json").read_text())
    assert list(about["data"]) == ["shakespeare.txt"] and about["D"] == 1_992 and about["d"] == 20
    assert (tmp_path / "here" / "checkpoints" / "best.weights.h5").exists()

    # It goes on, and a run of the same settings without a break gives the same bits.
    assert main(["train", "--resume", "--output", "here", "--set", "epochs=2", "--quiet"]) == 0
    assert main(["train", *words(**RUN, epochs=2), "--output", "whole", "--quiet"]) == 0
    texts = [(tmp_path / folder / "sample.txt").read_text() for folder in ("here", "whole")]
    losses = [json.loads((tmp_path / folder / "result.json").read_text())["test"] for folder in ("here", "whole")]
    assert texts[0] == texts[1] and losses[0] == losses[1]

    rows = from_folder(tmp_path)
    assert all(row["values"]["val_perplexity"] == math.exp(row["values"]["val_loss"]) for row in rows)
    html = page.of_runs(rows)
    assert "val. perplexity" in html and f"{losses[0]['perplexity']:.3f}" in html and "validation loss (nats)" in html
    assert "val. acc. %" not in html


def test_the_best_epoch_of_a_text_has_the_lowest_loss():
    from rbd_ipu.runs.folder import summarise

    rows = [{"epoch": 1, "val_loss": 2.0, "val_accuracy": 0.1}, {"epoch": 2, "val_loss": 3.0, "val_accuracy": 0.9}]
    assert summarise(rows, None, "finished", of_text=True)["best"]["epoch"] == 1
    assert summarise(rows, None, "finished")["best"]["epoch"] == 2
    assert summarise([], None, "failed", of_text=True)["validation"]["perplexity"] is None


def test_the_demonstration_on_a_text(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "QUICK_TEXT", demo.TEXT._replace(epochs=1, seeds=(0,), dim=20, settings=SMALL))
    assert main(["demo", "--text", "--quick", "--output", "here"]) == 0
    out = capsys.readouterr().out
    assert "test perplexity" in out and "windows/s" in out and "nats" in out
    table = json.loads((tmp_path / "here" / "demo.json").read_text())["table"]
    assert [row["method"] for row in table] == ["SGD", "RBD", "FPD"]
    assert all(1 < row["test_perplexity_mean"] < 70 for row in table)


def test_the_schema_knows_the_registries():
    from rbd_ipu.data.datasets import TEXTS as texts
    from rbd_ipu.models import OF_TEXT as of_text
    from rbd_ipu.models import SIZES as sizes

    assert tuple(TEXTS) == texts and tuple(OF_TEXT) == of_text
    assert {key: value for key, value in SIZES.items() if key != "context"} == sizes["gpt"]


def test_sizes_are_resolved_for_networks_of_text_alone():
    config = resolve({"dataset": "shakespeare_excerpt", "network": "gpt", "learning_rate": 1.0, "width": 32})
    assert (config.context, config.layers, config.width, config.heads) == (48, 3, 32, 4)
    assert config.sizes() == {"layers": 3, "width": 32, "heads": 4}
    assert resolve(config.as_dict()) == config
    images = resolve({})
    assert all(getattr(images, key) is None for key in SIZES) and images.sizes() == {}
    assert all(FIELDS[key]["networks"] == OF_TEXT for key in SIZES)


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"dataset": "digits", "network": "gpt"},
            "network gpt reads text and dataset digits holds images; accepted:",
        ),
        ({"dataset": "shakespeare_excerpt"}, "with dataset shakespeare_excerpt network gpt; with network fc dataset"),
        ({"width": 32}, "width: network fc takes no width; accepted with network gpt"),
        ({**SMALL, "heads": 3}, "heads=3 do not divide width=8; accepted: 1, 2, 4, 8"),
        ({**SMALL, "heads": 0}, "heads: must be an integer from 1"),
    ],
)
def test_settings_that_do_not_go_together(settings, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        resolve({"learning_rate": 1.0, **settings})


def test_what_the_data_refuse_is_said_before_anything_is_written(tmp_path, capsys):
    for given, message in (
        ({"context": 5000}, "a context of 5000 needs more tokens than that, and the validation text of"),
        ({"batch_size": 5000}, "batch_size 5000 is more than the 1249 training windows of shakespeare_excerpt"),
    ):
        assert main(["train", *words(**{**RUN, **given}), "--output", "here"]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "here").exists()
