"""One instance among several: who it is, its batches, its seed."""

import sys
import types

import numpy as np
import pytest

from rbd_ipu._compat import tf
from rbd_ipu.devices.ipu import description, popdist
from rbd_ipu.devices.ipu.popdist import Instance
from rbd_ipu.errors import ConfigError
from rbd_ipu.parallel.workers import running


def stand_in(instances=4, index=1, replicas=16, ipus=1, started=True):
    calls = []
    return types.SimpleNamespace(
        isPopdistEnvSet=lambda: started,
        init=lambda: calls.append("init"),
        getNumInstances=lambda: instances,
        getInstanceIndex=lambda: index,
        getNumTotalReplicas=lambda: replicas,
        getNumLocalReplicas=lambda: replicas // instances,
        getNumIpusPerReplica=lambda: ipus,
        calls=calls,
    )


def pod(**keys):
    return description.check({"device": "ipu", "replicas": 16, "instances": 4, **keys})


def test_without_popdist_there_is_one_instance(monkeypatch):
    monkeypatch.setitem(sys.modules, "popdist", None)
    assert running() is None
    assert popdist.instance(pod(instances=1), None) == Instance(0, 1, 16)


def test_popdist_counts_only_where_poprun_started_the_process(monkeypatch):
    module = stand_in(started=False)
    monkeypatch.setitem(sys.modules, "popdist", module)
    assert running() is None and module.calls == []
    module = stand_in()
    monkeypatch.setitem(sys.modules, "popdist", module)
    assert running() is module and module.calls == ["init"]


def test_a_broken_popdist_is_not_taken_for_none(monkeypatch, tmp_path):
    (tmp_path / "popdist.py").write_text("import a_library_that_is_missing\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "popdist", raising=False)
    with pytest.raises(ModuleNotFoundError, match="a_library_that_is_missing"):
        running()


@pytest.mark.parametrize("index", range(4))
def test_an_instance_learns_its_place(index):
    here = popdist.instance(pod(), stand_in(index=index))
    assert here == Instance(index, 4, 4) and here.replicas == 16
    assert here.writes_files == (index == 0)


@pytest.mark.parametrize(
    ("told", "key"),
    [({"instances": 2}, "instances"), ({"replicas": 8}, "replicas"), ({"ipus": 2}, "ipus_per_replica")],
)
def test_poprun_and_the_description_must_agree(told, key):
    with pytest.raises(ConfigError, match=f"^{key}: the description has .*, but poprun was started with"):
        popdist.instance(pod(), stand_in(**told))


def test_several_instances_are_started_by_poprun():
    with pytest.raises(ConfigError, match="instances: 4 processes are started by poprun, and this one was not"):
        popdist.instance(pod(), None)


def test_set_ipu_config_is_called_as_graphcores_examples_call_it(monkeypatch):
    calls = []
    module = types.SimpleNamespace(set_ipu_config=lambda *args, **kwargs: calls.append((args, kwargs)))
    monkeypatch.setitem(sys.modules, "popdist", types.SimpleNamespace(tensorflow=module))
    monkeypatch.setitem(sys.modules, "popdist.tensorflow", module)
    popdist.configure("config", pod(ipus_per_replica=2))
    assert calls == [(("config",), {"ipus_per_replica": 2, "configure_device": True})]


@pytest.mark.parametrize("seed", [3, 2**31, 2**40 + 7, 2**63 + 5])
def test_the_seed_is_that_of_the_first_instance(seed):
    sent = []

    def broadcast(value, root_rank=0, tensor_name=None):
        sent.append((value.dtype, value.shape.as_list(), root_rank))
        return tf.constant(words.pop(0)) if words else value

    words = []
    collectives = types.SimpleNamespace(broadcast=broadcast)
    assert popdist.broadcast_seed(seed, collectives, Instance(0, 2, 1)) == seed
    words = [np.array([7, 1], np.int32)]  # what instance 0 has told
    assert popdist.broadcast_seed(3, collectives, Instance(1, 2, 1)) == 2**32 + 7
    assert sent == [(tf.int32, [2], 0)] * 2
    assert popdist.broadcast_seed(seed, None, Instance()) == seed


def test_poprun_is_told_what_the_description_says():
    assert popdist.poprun_arguments(pod()) == ["--num-instances=4", "--num-replicas=16", "--ipus-per-replica=1"]
    offline = pod(connection="pre_compile", executable_cache="/tmp/c")
    assert popdist.poprun_arguments(offline)[-1] == "--offline-mode=yes"
    for keys in ({"device": "cpu"}, {"device": "ipu", "emulator": True}):
        with pytest.raises(ConfigError, match="device: poprun starts processes on IPUs, not on"):
            popdist.poprun_arguments(description.check(keys))


@pytest.mark.parametrize("index", [0, 1, 3])
def test_only_the_first_instance_writes_a_folder(index, monkeypatch):
    from rbd_ipu import config
    from rbd_ipu.runs import train

    poprun = types.SimpleNamespace(getInstanceIndex=lambda: index)
    monkeypatch.setattr(train, "running", lambda: poprun)
    monkeypatch.setattr(train, "follow", lambda config, folder: "follows")
    settings = config.resolve({"method": "sgd", "learning_rate": 0.1})
    assert train.is_follower() == (index > 0)
    assert train.elsewhere(settings, []) == (None if index == 0 else "follows")


def test_an_instance_that_gets_sigterm_ends_where_all_end(monkeypatch):
    """It is noted, and the callback ends the fit; the status of a later one is 0, or MPI would end instance 0 too."""
    import os
    import signal

    from rbd_ipu.runs import train

    seen = []

    class Experiment:
        def fit(self, callbacks=(), **options):
            os.kill(os.getpid(), signal.SIGTERM)
            for callback in callbacks:
                callback.on_train_batch_end(0)
            seen.append("went on")

    monkeypatch.setattr(train, "running", lambda: types.SimpleNamespace(getInstanceIndex=lambda: 1))
    monkeypatch.setattr(train, "prepare", lambda config: Experiment())
    assert train.follow(None, None) == 0 and not seen


def test_a_run_that_ends_with_another_instance_says_so():
    from rbd_ipu.runs import record

    assert record._interrupted(0, elsewhere=True)[:2] == ("terminated", 143)
    assert record._interrupted(2, elsewhere=True)[:2] == ("interrupted", 130)
