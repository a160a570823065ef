"""Opening IPUs: what is configured, what is refused, and how calls and infeeds follow from the data."""

import subprocess
import sys

import numpy as np
import pytest
from nets import blobs, dense

import rbd_ipu
from rbd_ipu import methods
from rbd_ipu._compat import tf
from rbd_ipu.devices.ipu.description import check
from rbd_ipu.devices.ipu.device import IPUDevice, whole_calls
from rbd_ipu.devices.ipu.program import Infeed, Stream, check_static, each, fingerprint
from rbd_ipu.directions import resolve


def dataset(n, batch=4):
    return tf.data.Dataset.from_tensor_slices((np.zeros((n, 3), np.float32), np.arange(n, dtype=np.int32))).batch(
        batch, drop_remainder=True
    )


def without_sdk():
    from importlib.util import find_spec

    return find_spec("tensorflow.python.ipu") is None


@pytest.mark.skipif(not without_sdk(), reason="this is Graphcore's TensorFlow")
def test_without_the_sdk_it_is_said_plainly(tmp_path):
    path = tmp_path / "pod.yaml"
    path.write_text("device: ipu\nreplicas: 4\n")
    for name in ("ipu", path, str(path)):
        with pytest.raises(RuntimeError, match="an IPU needs the TensorFlow of the Poplar SDK"):
            rbd_ipu.open_device(name)


def test_descriptions_of_other_devices_open_them(tmp_path):
    path = tmp_path / "cpu.yaml"
    path.write_text("device: cpu\n")
    assert rbd_ipu.open_device(path).name == "cpu"
    path.write_text("device: ipu\nreplikas: 4\n")
    with pytest.raises(ValueError, match="replikas: unknown key; did you mean replicas"):
        rbd_ipu.open_device(path)


@pytest.mark.parametrize("options", [{"simulate_workers": 2}, {"simulate_workers": 4}])
def test_workers_of_an_ipu_are_its_replicas(options):
    with pytest.raises(ValueError, match="the workers of an IPU are its replicas: .* not simulate_workers="):
        rbd_ipu.open_device("ipu", **options)


def test_what_is_not_ready_is_refused():
    with pytest.raises(RuntimeError, match="precision 'float16' is not ready"):
        IPUDevice(check({"device": "ipu", "precision": "float16"}))


def test_a_device_is_what_its_description_says(open_ipu):
    device, machine = open_ipu(4, block_floats=5000, prng_stability=True)
    assert machine.config.auto_select_ipus == 4
    assert machine.config.experimental.enable_prng_stability is True
    assert device.exchange.workers == 4 and device.exchange.shards == [(0, 4, 4)]
    assert device.instance.writes_files
    assert resolve("auto") != "poprand:5000"
    with device:
        assert resolve("auto") == resolve("poprand") == "poprand:5000"
        assert resolve("counter") == "counter" and resolve("poprand:70") == "poprand:70"
        with device:  # a context can be entered again
            assert tf.distribute.get_strategy() is device.strategy


def test_poprun_chooses_the_ipus(open_ipu):
    device, machine = open_ipu(2, popdist=True)
    assert type(device.strategy).__name__ == "PopDistStrategy" and machine.replicas == 2


@pytest.mark.parametrize("index, writes, shards", [(0, True, [(0, 4, 2)]), (1, False, [(2, 4, 2)])])
def test_an_instance_feeds_its_replicas_and_has_the_seed_of_the_first(open_ipu, index, writes, shards):
    from standin import processes

    device, machine = open_ipu(4, popdist=True, index=index, instances=2)
    assert machine.config.auto_select_ipus == 2 and device.exchange.workers == 4
    assert device.instance.writes_files is writes and device.exchange.shards == shards
    processes.SAID[:] = [np.array([7, 1], np.int32)] * index
    assert device.shared_seed(2**40 + 7) == (2**32 + 7 if index else 2**40 + 7)
    assert not processes.SAID


def test_instances_agree_before_every_call_and_none_leaves_the_others_waiting(open_ipu):
    from standin import processes

    from rbd_ipu.devices.ipu.popdist import Stopped
    from rbd_ipu.errors import Dismissed

    device, _ = open_ipu(4, popdist=True, index=1, instances=2)
    processes.TOLD.clear()
    processes.OTHERS[:] = [[[5]], [[0]], [[-1]], [[-2]]]
    assert device.agree(7) == 5 and device.agree(7) == 0
    with pytest.raises(Dismissed, match="instance 1 of 2: another one has stopped"):
        device.agree(7)
    with pytest.raises(KeyboardInterrupt) as asked:  # as if this one had got the signal
        device.agree(7)
    assert isinstance(asked.value, Stopped) and processes.TOLD == [[7]] * 4
    processes.OTHERS[:] = [[[7]]] * 3
    for error in (KeyboardInterrupt(), OSError("full"), ValueError("data")):
        device.leave(error)
    assert processes.TOLD[4:] == [[-2], [-1], [-1]]
    met = [Stopped(), Dismissed("x"), rbd_ipu.NonFiniteError(0, 1, 0.5, None), tf.errors.AbortedError(0, 0, "")]
    for error in met:  # all know, or cannot be told
        device.leave(error)
    assert len(processes.TOLD) == 7 and not processes.OTHERS


OFFLINE = {"connection": "pre_compile", "executable_cache": "/tmp/programs"}


def test_an_offline_compile_compiles_both_programs_and_checks_no_numbers(open_ipu):
    """Once each, however long the run is; what comes out of the device is zeros."""
    device, machine = open_ipu(2, **OFFLINE)
    x, y = blobs(10 * 32 * 2)
    with device:
        model = dense()
    trainer = rbd_ipu.Trainer(model, methods.create("rbd", learning_rate=2.0, dim=20), device)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(32, drop_remainder=True)
    history = trainer.fit(data, (x[:64], y[:64]), epochs=20, verbose=0).history
    assert np.isnan(history["loss"]).all() and len(history["loss"]) == 1
    assert machine.runs == len(machine.programs) == 2


def test_a_run_goes_on_with_as_many_replicas(standin, tmp_path, monkeypatch, capsys):
    from rbd_ipu.cli import main

    monkeypatch.chdir(tmp_path)
    for replicas in (2, 4):
        (tmp_path / f"{replicas}.yaml").write_text(f"device: ipu\nreplicas: {replicas}\nsteps_per_execution: 37\n")
    words = ["--set", "parallel=same-data", "--set", "dim=4", "--set", "learning_rate=1", "--set", "epochs=1"]

    def run(*more):
        with standin.installed():  # a process configures its IPUs once
            status = main(["train", *more])
        return status, capsys.readouterr().err

    assert run(*words, "--set", "device=2.yaml", "--output", "run")[0] == 0
    before = (tmp_path / "run" / "run.json").read_bytes()
    for device, here in (("4.yaml", 4), ("cpu", 1)):
        status, said = run("--resume", "--set", f"device={device}", "--set", "epochs=2", "--output", "run")
        assert status == 2 and f"it is from a run with 2 workers, and here there are {here}" in said
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    for setting, words_of_it in (
        ("wire=bfloat16", "replicas of an IPU: they send float32"),
        ("source=native", "source=native is code for a CPU"),
    ):
        status, said = run(*words[2:], "--output", "other", "--set", "device=2.yaml", "--set", setting)
        assert status == 2 and words_of_it in said
    assert not (tmp_path / "other").exists()


def test_an_offline_run_leaves_no_folder(standin, tmp_path, monkeypatch, capsys):
    from rbd_ipu.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "offline.yaml").write_text(f"device: ipu\nconnection: pre_compile\nexecutable_cache: {tmp_path}/p\n")
    with standin.installed() as machine:
        status = main(["train", "--set", "device=offline.yaml", "--set", "dim=4", "--set", "learning_rate=1"])
        assert status == 0 and len(machine.programs) == machine.runs == 3
    assert "compiled for offline.yaml: training, validation and test; nothing was trained" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_synthetic_data_has_no_numbers(open_ipu, monkeypatch):
    """For timings alone: nothing comes out of the queues; also where the environment asks for it."""
    monkeypatch.setenv("TF_POPLAR_FLAGS", "--use_synthetic_data")
    device, machine = open_ipu(2)
    assert not device.has_numbers and not device.check_replicas
    x, y = blobs(10 * 32 * 2)
    with device:
        model = dense()
    trainer = rbd_ipu.Trainer(model, methods.create("sgd", learning_rate=0.1), device)
    history = trainer.fit((x, y), (x[:64], y[:64]), epochs=3, verbose=0).history
    assert np.isnan(history["loss"]).all() and len(history["loss"]) == 3 and history["images_per_second"][1] > 0
    assert trainer.step == 30


def test_an_epoch_of_a_prime_number_of_steps_is_said_to_be_slow(open_ipu):
    device, _ = open_ipu(steps_per_execution=100)
    with pytest.warns(UserWarning, match="1409 steps .* takes 1, .* epoch of 1400 steps would do with fewer"):
        assert device.steps_a_call(0, 1409) == 1
    assert device.steps_a_call(0, 1409) == 1  # said once
    assert device.steps_a_call(0, 1406) == 74 and device.steps_a_call(0, 37) == 37


@pytest.mark.parametrize("choice", [{"parallel": "split"}, {"wire": "float16"}, {"wire": "int8"}])
def test_what_replicas_cannot_do_is_refused(open_ipu, choice):
    ((name, value),) = choice.items()
    with pytest.raises(ValueError, match=f"{name}='{value}' "):
        open_ipu(2, **choice)


def test_models_are_built_on_the_device(open_ipu):
    device, _ = open_ipu()
    with pytest.raises(ValueError, match="was built elsewhere: build it inside `with device:`"):
        rbd_ipu.Trainer(dense(), methods.create("sgd", learning_rate=0.1), device)


@pytest.mark.parametrize("steps, most, n", [(1406, 100, 74), (37, 100, 37), (1500, 100, 100), (37, 5, 1), (1, 7, 1)])
def test_calls_divide_epochs(steps, most, n):
    assert whole_calls(steps, most) == n


@pytest.mark.parametrize(
    "element, error, message",
    [
        (dataset(10).map(lambda x, y: (tf.cast(x, tf.float64), y)), TypeError, "got float64: cast the dataset"),
        (dataset(10).unbatch().batch(4), ValueError, r"one static shape, got \(None, 3\): .*drop_remainder=True"),
    ],
)
def test_data_that_no_infeed_takes(element, error, message):
    with pytest.raises(error, match=message):
        check_static(element)


def test_a_batch_for_several_replicas_comes_so_many_times():
    assert [int(y[0]) for _, y in each(dataset(6, 2), 3)] == [0, 0, 0, 2, 2, 2, 4, 4, 4]


KINDS = {
    "arrays": lambda x, y: (x, y),
    "dataset": lambda x, y: tf.data.Dataset.from_tensor_slices((x, y)).batch(4, drop_remainder=True),
    "endless": lambda x, y: KINDS["dataset"](x, y).repeat(),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first, local, step, batches", [(0, 4, 3, 1), (2, 2, 1, 2)])
def test_an_infeed_reads_what_simulated_workers_read(kind, first, local, step, batches):
    """One stream for all replicas of a process, in which batch i L + l is the i-th of replica first + l: the order of
    the global batch is that of ``simulate_workers=4``, over the ends of epochs and from the middle of one.
    """
    from rbd_ipu.data.inputs import feed
    from rbd_ipu.parallel.exchange import Replicas, Simulated
    from rbd_ipu.parallel.plan import plan

    x = np.arange(4 * 27, dtype=np.float32)[:, np.newaxis]  # 27 batches of 4: not a multiple of 4 workers
    given = KINDS[kind](x, np.arange(4 * 27, dtype=np.int32))
    length = {"steps_per_epoch": 6} if kind == "endless" else {}
    replicas = Replicas(None, 4, plan(exchange="coordinates"), first, local)
    here, there = (
        feed(given, 4, seed=5, shards=exchange.shards, batches=batches, **length)
        for exchange in (replicas, Simulated(4))
    )
    assert (here.steps_per_epoch, here.images) == (there.steps_per_epoch, there.images)
    infeed, iterators = Infeed(), []
    ours, theirs = here.iterators(0, step, lambda d: Stream(d)), there.iterators(0, step)
    for epoch in range(3):
        stream, workers = next(ours), next(theirs)
        rounds = (here.steps_per_epoch - (0 if epoch else step)) * batches
        iterator = infeed.iterator(stream, rounds * local)
        iterators.append(iterator)
        for _ in range(rounds):
            wanted = [next(worker)[1].numpy().tolist() for worker in workers][first : first + local]
            assert [next(iterator)[1].numpy().tolist() for _ in range(local)] == wanted
    assert iterators[2] is iterators[1]  # repeated, so that nothing is compiled anew


def test_an_infeed_is_made_anew_only_where_the_data_change():
    """A finite dataset that was read to its end starts again by going on; another one, or a part of one, does not."""
    infeed, data = Infeed(), dataset(12, 2)
    endless = Stream(data.repeat())
    first = infeed.iterator(endless, 3)
    assert infeed.iterator(endless, 3) is first
    second = infeed.iterator(Stream(data), 6)
    assert second is not first
    assert infeed.iterator(Stream(data), 6) is second
    assert infeed.iterator(Stream(data), 4) is second
    third = infeed.iterator(Stream(data), 4)  # started again after four of six
    assert third is not second
    assert infeed.iterator(Stream(dataset(12, 2)), 4) is not third


def test_epochs_that_stop_early_begin_at_the_first_batch(open_ipu):
    """steps_per_epoch cuts each epoch of a dataset, on an IPU as elsewhere."""
    device, machine = open_ipu()
    x, y = blobs(6 * 32)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(32, drop_remainder=True)
    with device:
        model = dense()
    there = rbd_ipu.Trainer(model, methods.create("sgd", learning_rate=0.1), device)
    here = rbd_ipu.Trainer(dense(), methods.create("sgd", learning_rate=0.1), "cpu")
    for trainer in (there, here):
        trainer.fit(data, epochs=3, steps_per_epoch=4, verbose=0)
    for a, b in zip(there.model.get_weights(), here.model.get_weights()):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_fingerprint_tells_weights_apart():
    w = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    whole = int(fingerprint([tf.Variable(w)]))
    assert int(fingerprint([tf.Variable(w[:400].reshape(20, 20)), tf.Variable(w[400:])])) == whole
    for j in (0, 500, 999):
        other = w.copy()
        other[j] = np.nextafter(other[j], np.float32(9))
        assert int(fingerprint([tf.Variable(other)])) != whole
    assert int(fingerprint([tf.Variable(w[::-1].copy())])) != whole


def test_the_program_can_be_traced_without_the_sdk():
    """What the op lint does: the very program, with an iterator of stock TensorFlow and no queue behind it."""
    from rbd_ipu._compat import create_variables, keras
    from rbd_ipu.devices.ipu.program import TOLD, train_program
    from rbd_ipu.objective import Objective
    from rbd_ipu.parallel.exchange import Alone
    from rbd_ipu.step import one_step

    model, told = dense(), []
    method = methods.create("rbd", learning_rate=0.5, dim=4, source="poprand")
    method.build(model.trainable_variables)
    optimizer = keras.optimizers.SGD(0.5)
    create_variables(optimizer, model.trainable_variables)
    step = one_step(model, Objective(model), method, optimizer, model.trainable_variables, Alone(), 8)
    program = train_program(step, 3, told.append, model.trainable_variables)
    x, y = blobs(32)
    iterator = iter(tf.data.Dataset.from_tensors((x, y)).repeat())
    program.get_concrete_function(iterator, tf.TensorSpec([], tf.int32))
    assert told[0]["measures"].shape == [len(TOLD)] and told[0]["fingerprint"].shape == []


def test_a_cpu_needs_nothing_of_this():
    """Training on a CPU imports no module of the IPU path, nor looks for Graphcore's."""
    program = """
import sys, numpy as np, rbd_ipu
from rbd_ipu import methods, models
trainer = rbd_ipu.Trainer(models.build("fc", (4, 4, 1)), methods.create("rbd", learning_rate=0.1, dim=4), "cpu")
trainer.fit((np.zeros((8, 4, 4, 1), np.float32), np.zeros(8, int)), epochs=1, batch_size=4, verbose=0)
found = [m for m in sys.modules if m.startswith(("rbd_ipu.devices.ipu", "popdist", "tensorflow.python.ipu"))]
print(found)
"""
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip().endswith("[]")
