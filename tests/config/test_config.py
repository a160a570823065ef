"""Settings: the strict YAML, the schema, files and --set, the learning rates on record."""

import dataclasses
import math
import os
import re

import pytest

from rbd_ipu.config import FIELDS, TEXTS, describe_keys, from_assignments, from_file, resolve, yaml
from rbd_ipu.config.resolve import rates_on_record
from rbd_ipu.errors import ConfigError

# --- what a plain word means ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e-5", 1e-5),
        ("1E+3", 1000.0),
        (".5", 0.5),
        ("-0.25", -0.25),
        ("3.", 3.0),
        ("12", 12),
        ("-3", -3),
        ("+3", 3),
        ("2**-3", 0.125),
        ("2**+4", 16),
        ("2**0", 1),
        ("2**-126", 2.0**-126),
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        (" 7 ", 7),
    ],
)
def test_words_with_a_meaning(text, value):
    read = yaml.scalar(text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    "text",
    # YAML 1.1 reads most of these as booleans, octal, sexagesimal or dates; none may be evaluated.
    [
        "no",
        "yes",
        "on",
        "True",
        "010",
        "1_000",
        "1:30",
        "0x10",
        "2020-12-06",
        "even:4",
        "1e",
        "e5",
        "--1",
    ]
    + [
        "-2**-3",
        "2**-3+1",
        "3**2",
        "2**2**2",
        "2**",
        "2 ** 3",
        "2**1.5",
        "2**99999",
        "__import__('os')",
        "١",
    ],
)
def test_everything_else_stays_text(text):
    assert yaml.scalar(text) == text


@pytest.mark.parametrize("text", ["2**-127", "2**128", "2**9999"])
def test_powers_outside_float32_are_refused(text):
    with pytest.raises(yaml.YamlError, match=r"exponent must be from -126 to 127"):
        yaml.scalar(text)


def test_not_finite_numbers_are_read_so_that_the_schema_can_refuse_them():
    assert math.isnan(yaml.scalar(".nan"))
    assert yaml.scalar("-.inf") == -math.inf
    assert yaml.scalar("nan") == "nan"


# --- documents and files -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, reason",
    [
        ("dim: 1\nseed: 2\ndim: 3", "line 3: the key 'dim' is given twice"),
        ("a: &x 1\nb: 2", "line 1: an anchor"),
        ("b: *x", "line 1: an alias"),
        ("a: !!python/object/apply:os.getcwd []", "line 1: a tag"),
        ("a: !!int 3", "line 1: a tag"),
        ("a: 1\n---\nb: 2", "another document"),
        ("a: [1, 2", "line 1: .*expected ',' or ']'"),
        ("a: 1\n b: 2", "line 2"),
        ("a: 'x", "end of stream"),
        ("? [1, 2]\n: 3", "a key must be a plain word"),
        ("a: 2**200", "line 1: 2\\*\\*200: the exponent"),
        ("a: \x00", "not a YAML text"),
        pytest.param("[" * 3000, "nested too deeply", id="deep"),
    ],
)
def test_refused_documents_name_line_and_reason(text, reason):
    with pytest.raises(yaml.YamlError, match=reason):
        yaml.loads(text)


def test_quotes_make_text_and_keys_stay_text():
    assert yaml.loads("a: '5'\n'b': \"true\"\n1: 2") == {"a": "5", "b": "true", "1": 2}


def test_merge_keys_do_nothing():
    assert yaml.loads("<<: {a: 1}") == {"<<": {"a": 1}}


@pytest.mark.parametrize(
    "text", ["1e5", "2**3", "2**999", "true", "~", "", "010", "no", "a: b", "even:4", "ä", "x\ny"]
)
def test_what_dumps_writes_loads_reads(text):
    mapping = {"text": text, "number": 1e-5, "count": 3, "truth": True, "power": 2.0**-126}
    assert yaml.loads(yaml.dumps(mapping)) == mapping


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "empty"),
        (b"# only a comment\n", "empty"),
        (b"- dim\n- 3\n", "not a list"),
        (b"just words\n", "not the single value 'just words'"),
        (b"\x89PNG\r\n\x1a\n", "UTF-8"),
        ("dim: 3".encode("utf-16"), "UTF-8"),
        (b"dim: \x00\x01", "not a YAML text"),
        pytest.param(b"#" * 1_000_001, "larger than 1,000,000 bytes", id="large"),
    ],
)
def test_files_that_are_no_settings(tmp_path, content, reason):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=reason) as caught:
        from_file(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(ConfigError, match="none.yaml: cannot be read: No such file"):
        from_file(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        from_file(tmp_path)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(path, *_, **__):
        raise PermissionError(13, os.strerror(13), str(path))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ConfigError, match="secret.yaml: cannot be read: Permission denied"):
        from_file(tmp_path / "secret.yaml")


def test_byte_order_mark_and_windows_line_ends(tmp_path):
    path = tmp_path / "windows.yaml"
    path.write_bytes(b"\xef\xbb\xbfdim: 3\r\nlearning_rate: 2**-3\r\n")
    config = resolve(from_file(path))
    assert (config.dim, config.learning_rate) == (3, 0.125)


# --- the schema ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key, value, reason",
    [
        ("dim", 0, "an integer from 1, not 0"),
        ("dim", -1, "not -1"),
        ("dim", 2.5, "not 2.5"),
        ("dim", 3.0, "not 3.0"),
        ("dim", True, "not true"),
        ("dim", "many", "not the text 'many'"),
        ("dim", None, "not null"),
        ("dim", [250], "not a list"),
        ("dim", {"d": 250}, "not a mapping"),
        ("dim", 2**31, "not 2147483648"),
        ("epochs", 0, "an integer from 1"),
        ("batch_size", 1_000_001, "from 1 to 1000000"),
        ("seed", -1, "an integer from 0"),
        ("learning_rate", float("nan"), "a finite number above 0 in float32, 1.2e-38 to 3.4e38, not nan"),
        ("learning_rate", 1e-60, "in float32, 1.2e-38 to 3.4e38, not 1e-60"),
        ("learning_rate", 1e39, "in float32, 1.2e-38 to 3.4e38, not 1e+39"),
        ("sgd_learning_rate", 1e-60, "in float32, 1.2e-38 to 3.4e38, not 1e-60"),
        ("redraw_lowest", 0, "a finite number above 0 and below 1, not 0"),
        ("worker_timeout", 1e300, "a finite number above 0 to 604800, not 1e+300"),
        ("learning_rate", float("inf"), "not inf"),
        ("learning_rate", 0, "not 0"),
        ("learning_rate", -0.5, "not -0.5"),
        ("learning_rate", True, "not true"),
        ("learning_rate", "1e-5x", "not the text '1e-5x'"),
        ("learning_rate", "-2**-3", "not the text"),
        ("learning_rate", 10**400, "a finite number"),
        ("momentum", 1.0, "below 1, not 1.0"),
        ("momentum", -0.1, "from 0 and below 1"),
        ("augment", 1, "true | false, not 1"),
        ("augment", "yes", "not the text 'yes'"),
        ("dataset", "imagenet", "one of digits, mnist, fashion_mnist, cifar10, tiny_shakespeare"),
        ("method", "adam", "one of sgd, rbd, fpd"),
        ("distribution", "cauchy", "must be normal | uniform | rademacher | "),
        ("normalize", None, "one of unit, expected, none, not null"),
        ("compartments", "even", "even:K | layer | variable | factor:F, not the text 'even'"),
        ("compartments", "even:0", "not the text 'even:0'"),
        ("compartments", "layer:2", "not the text"),
        ("data_dir", "", "the path of a folder"),
        ("data_dir", 3, "the path of a folder, not 3"),
    ],
)  # fmt: skip
def test_wrong_values_are_quoted_with_what_is_accepted(key, value, reason):
    with pytest.raises(ConfigError) as caught:
        resolve({"learning_rate": 1.0, key: value})
    message = str(caught.value)
    assert message.startswith(f"{key}: ")
    assert reason in message


def test_an_unknown_key_gets_a_suggestion_and_the_list():
    with pytest.raises(ConfigError, match="unknown key 'learning-rate'; did you mean learning_rate") as caught:
        resolve({"learning-rate": 1.0})
    assert all(key in str(caught.value) for key in FIELDS)


def test_defaults_are_values_of_their_own_kind():
    for key, facts in FIELDS.items():
        if facts["default"] is not None:
            assert facts["kind"].check(facts["default"]) == facts["default"], key


def test_integers_are_numbers_too():
    rate = resolve({"learning_rate": 2}).learning_rate
    assert rate == 2.0 and isinstance(rate, float)


@pytest.mark.parametrize("key", ["dim", "distribution", "compartments", "normalize", "source", "redraw_every"])
def test_keys_that_the_method_has_no_use_for(key):
    with pytest.raises(ConfigError, match=f"{key}: method sgd takes no {key}; it takes dataset"):
        resolve({"method": "sgd", "learning_rate": 1.0, key: FIELDS[key]["default"]})
    assert getattr(resolve({"method": "sgd", "learning_rate": 1.0}), key) is None


def test_a_fixed_projection_is_never_redrawn():
    with pytest.raises(ConfigError, match="method fpd takes no redraw_every"):
        resolve({"method": "fpd", "learning_rate": 1.0, "redraw_every": 1})


def test_a_factor_gives_its_own_dim():
    assert resolve({"compartments": "factor:25", "learning_rate": 1.0}).dim is None
    assert resolve({"compartments": "factor:25", "learning_rate": 1.0, "dim": 3328}).dim == 3328


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"method": "sgd"},
        {"method": "sgd", "learning_rate": 1e-5, "data_dir": "2**3"},
        {"compartments": "factor:25", "learning_rate": 2.0**-19},
        {"method": "fpd", "learning_rate": 0.1, "seed": 2**31 - 1, "augment": False},
    ],
)
def test_the_resolved_settings_resolve_to_themselves(values):
    config = resolve(values)
    again = resolve(yaml.loads(yaml.dumps(config.as_dict())))
    assert again == config


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        resolve({"learning_rate": 1.0}).dim = 3


def test_options_are_those_of_the_method():
    assert set(resolve({"method": "sgd", "learning_rate": 1.0}).options()) == {
        "learning_rate",
        "momentum",
    }
    assert set(resolve({"learning_rate": 1.0}).options()) == {
        "learning_rate", "momentum", "dim", "distribution", "compartments", "normalize", "source",
        "redraw_every", "seed", "orthogonalize", "accumulate", "inner", "state", "on_redraw",
    }  # fmt: skip


def test_a_switch_goes_by_the_rates_of_its_methods_and_by_one_place():
    config = resolve({"method": "switch", "dataset": "mnist", "epochs": 7})
    alone = {method: resolve({"method": method, "dataset": "mnist"}) for method in ("rbd", "sgd")}
    assert config.learning_rate == alone["rbd"].learning_rate
    assert config.sgd_learning_rate == alone["sgd"].learning_rate
    assert (config.first, config.switch_epoch, config.switch_step) == ("rbd", 3, None)
    assert config.options(steps_per_epoch=100)["switch_step"] == 300
    assert "switch_epoch" not in config.options()
    given = resolve({"method": "switch", "switch_step": 50, "sgd_learning_rate": 0.5})
    assert given.options(steps_per_epoch=100)["switch_step"] == 50
    assert given.sgd_learning_rate == 0.5 and given.switch_epoch is None
    with pytest.raises(ConfigError, match="set sgd_learning_rate: none is on record for sgd on cifar10 resnet8"):
        resolve({"method": "switch", "dataset": "cifar10", "network": "resnet8", "learning_rate": 1.0})
    with pytest.raises(ConfigError, match="switch_epoch 3 and switch_step 50 are two places"):
        resolve({"method": "switch", "switch_epoch": 3, "switch_step": 50})


def test_sgd_within_rbd_has_the_rate_on_record_for_sgd():
    sgd = resolve({"method": "sgd", "dataset": "mnist"}).learning_rate
    for options in ({"sgd_layers": "logits"}, {"sgd_below": 0.01}):
        assert resolve({"dataset": "mnist", **options}).sgd_learning_rate == sgd
    assert resolve({"dataset": "mnist"}).sgd_learning_rate is None


def test_what_a_method_decides_by_itself_is_null():
    config = resolve({"method": "nes", "learning_rate": 0.25})
    assert config.sigma is None and config.transform is None
    assert not {"sigma", "transform"} & set(config.options())


def test_the_help_describes_every_key():
    text = describe_keys()
    lines = text.splitlines()
    for key in FIELDS:
        described = text.partition(f"\n  {key} ")[2].split("\n  ", 1)
        assert "default " in " ".join(described[:2]), key
    assert re.search(r"\n  redraw_every +an integer from 0; default 1\n", text)
    assert max(map(len, lines)) <= 100


# --- --set ---------------------------------------------------------------------------------------


def test_assignments_follow_the_rules_of_the_file():
    given = from_assignments(["learning_rate=2**-3", "dim = 10", "compartments=even:4", "data_dir=a=b"])
    assert {key: entry.value for key, entry in given.items()} == {
        "learning_rate": 0.125, "dim": 10, "compartments": "even:4", "data_dir": "a=b",
    }  # fmt: skip


@pytest.mark.parametrize(
    "texts, reason",
    [
        (["dim"], "--set dim: write --set KEY=VALUE"),
        (["=3"], "write --set KEY=VALUE"),
        (["dim=3", "dim=4"], "--set dim=4: dim is already set by --set dim=3"),
        (["learning_rate=2**-500"], "exponent"),
    ],
)
def test_refused_assignments(texts, reason):
    with pytest.raises(ConfigError) as caught:
        from_assignments(texts)
    assert reason in str(caught.value)


def test_errors_name_the_place_that_the_value_comes_from(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("dim: -3\n")
    with pytest.raises(ConfigError, match=r"a\.yaml: dim: must be an integer from 1, not -3"):
        resolve(from_file(path))
    with pytest.raises(ConfigError, match="--set dim=yes: must be an integer from 1, not the text 'yes'"):
        resolve(from_assignments(["dim=yes"]))


# --- learning rates ------------------------------------------------------------------------------


def test_rates_on_record_are_powers_of_two_with_a_source():
    for key, rate in rates_on_record().items():
        exponent = math.log2(rate.learning_rate)
        assert exponent == int(exponent) and -19 <= exponent <= 7, key
        assert rate.source, key
        assert (rate.dim is None) == (rate.method == "sgd"), key


def test_rates_on_record_are_for_settings_that_exist():
    for rate in rates_on_record().values():
        values = {"dataset": rate.dataset, "network": rate.network, "method": rate.method}
        config = resolve({**values, **({"dim": rate.dim} if rate.dim else {})})
        assert config.learning_rate == rate.learning_rate


def test_the_sgd_column_is_multiplied_by_the_batch_size():
    # Table 4 of the paper: exponents of SGD before the published code multiplies by 32 = 2**5.
    table_4 = {
        ("mnist", "fc"): -8, ("fashion_mnist", "fc"): -7, ("cifar10", "fc"): -12,
        ("mnist", "cnn"): -10, ("fashion_mnist", "cnn"): -9, ("cifar10", "cnn"): -11,
    }  # fmt: skip
    for (dataset, network), exponent in table_4.items():
        rate = rates_on_record()[(dataset, network, "sgd", None)]
        if rate.source.startswith("paper"):
            assert rate.learning_rate == 2.0 ** (exponent + 5)


def test_the_small_networks_have_a_rate_for_the_default_dim_on_every_data_set():
    for dataset in (name for name in FIELDS["dataset"]["kind"].names if name not in TEXTS):
        for network in ("fc", "cnn"):
            for method in ("sgd", "rbd", "fpd", "switch"):
                rate = resolve({"dataset": dataset, "network": network, "method": method}).learning_rate
                assert isinstance(rate, float) and rate > 0


@pytest.mark.parametrize("method", ["nes", "hybrid", "gradients"])
def test_methods_without_a_rate_on_record_ask_for_one(method):
    with pytest.raises(ConfigError, match=f"set learning_rate: none is on record for {method} with dim 250"):
        resolve({"method": method, "dataset": "fashion_mnist"})


def test_no_rate_on_record_asks_for_one_and_lists_the_combinations():
    with pytest.raises(ConfigError, match="set learning_rate: none is on record for rbd with dim 77") as caught:
        resolve({"dataset": "cifar10", "network": "cnn", "dim": 77})
    assert "cifar10 cnn: rbd with dim 10, 100, 250, 1000, 10000; fpd with dim 250; sgd" in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"momentum": 0.9},
        {"normalize": "none"},
        {"distribution": "bernoulli-0.5"},
        {"compartments": "layer"},
        {"transform": "rank"},
        {"top_k": 10},
        {"accumulate": 2},
    ],
)
def test_rates_on_record_are_not_used_where_they_do_not_hold(values):
    (key,) = values
    with pytest.raises(ConfigError, match=f"set learning_rate: the rates on record do not hold for {key}"):
        resolve({"dataset": "mnist", **values})
    assert resolve({"dataset": "mnist", "learning_rate": 0.5, **values}).learning_rate == 0.5
