"""RandomBasesDescent in Keras' fit on IPUs, through the stand-in: the hooks that Graphcore's Keras calls."""

import numpy as np
import pytest
from ipu_algorithm import run
from nets import blobs, crossentropy, dense, flat
from reference import close

import rbd_ipu
from rbd_ipu import methods
from rbd_ipu._compat import tf

DIM = 20
METHODS = {"RandomBasesDescent": "rbd", "FixedProjectionDescent": "fpd"}


def fitted(device, x, y, name="RandomBasesDescent", steps=5, accumulate=None, epochs=1, **options):
    """A model trained by fit, and its history; ``accumulate`` are options of gradient accumulation."""
    options = {"learning_rate": 0.5, "dim": DIM, "seed": 7, **options}
    with device:
        model = dense()
        model.compile(getattr(rbd_ipu, name)(**options), crossentropy(), steps_per_execution=steps)
    if accumulate:
        model.set_gradient_accumulation_options(**accumulate)
    return model, model.fit(x, y, batch_size=32, epochs=epochs, shuffle=False)


def expected(x, y, replicas=1, batch=32, name="rbd", momentum=0.0, **options):
    method = methods.create(name, learning_rate=0.5, dim=DIM, seed=7, source="poprand", **options)
    model = dense()
    method.build(model.trainable_variables)
    batches = [(x[i : i + batch], y[i : i + batch]) for i in range(0, len(x), batch)]
    return run(model, method, batches, replicas, shared=True, momentum=momentum)[-1]


def moved(model_or_theta):
    theta = model_or_theta if isinstance(model_or_theta, np.ndarray) else flat(model_or_theta)
    return theta - flat(dense())


@pytest.mark.parametrize("popdist", [False, True], ids=["IPUStrategy", "PopDistStrategy"])
@pytest.mark.parametrize("replicas", [1, 2])
def test_an_epoch_is_what_numpy_makes_of_it(open_ipu, replicas, popdist):
    """One basis for all replicas and the mean of their coordinates, whether Keras divides the loss or not."""
    device, machine = open_ipu(replicas, popdist)
    assert device.strategy.num_replicas_in_sync == (replicas if popdist else 1)
    x, y = blobs(5 * 32 * replicas)
    model, _ = fitted(device, x, y)
    assert int(model.optimizer.iterations.numpy()) == 5
    close(moved(model), moved(expected(x, y, replicas)), 1e-4)
    for variable in model.trainable_variables:
        everywhere = machine.weights(variable)
        np.testing.assert_array_equal(everywhere, np.broadcast_to(everywhere[:1], everywhere.shape))


@pytest.mark.parametrize(
    "name, momentum, popdist, clip",
    [
        ("RandomBasesDescent", 0.0, False, {"clipnorm": 0.05}),
        ("RandomBasesDescent", 0.0, True, {"global_clipnorm": 0.1}),
        ("FixedProjectionDescent", 0.5, True, {"clipvalue": 0.01}),
    ],
)
def test_what_is_clipped_is_the_gradient_of_the_whole_batch(open_ipu, name, momentum, popdist, clip):
    """Two replicas of half a batch are one device with all of it, whether Keras divides the loss or not."""
    device, _ = open_ipu(2, popdist)
    x, y = blobs(3 * 64)
    model, _ = fitted(device, x, y, name, steps=3, momentum=momentum, **clip)
    alone = dense()
    options = {"dim": DIM, "seed": 7, "momentum": momentum, "source": "poprand", **clip}
    alone.compile(getattr(rbd_ipu, name)(0.5, **options), crossentropy())
    alone.fit(x, y, batch_size=64, shuffle=False, verbose=0)
    close(moved(model), moved(alone), 1e-5)
    free = dense()
    free.compile(getattr(rbd_ipu, name)(0.5, dim=DIM, seed=7, momentum=momentum, source="poprand"), crossentropy())
    free.fit(x, y, batch_size=64, shuffle=False, verbose=0)
    assert np.linalg.norm(moved(alone)) < 0.7 * np.linalg.norm(moved(free))  # there was something to clip


@pytest.mark.parametrize("name", METHODS)
def test_fit_and_trainer_agree(open_ipu, name):
    device, _ = open_ipu(2, parallel="shared")
    x, y = blobs(10 * 32 * 2)
    model, history = fitted(device, x, y, name, momentum=0.5)
    with device:
        other = dense()
    method = methods.create(METHODS[name], learning_rate=0.5, dim=DIM, seed=7, momentum=0.5)
    trainer = rbd_ipu.Trainer(other, method, device)
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(32, drop_remainder=True)
    trainer.fit(dataset, epochs=1, verbose=0)
    close(moved(model), moved(other), 1e-5)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_fixed_projections_keep_momentum_in_coordinates(open_ipu, momentum):
    """State of d numbers, not D, on the device too; with and without the all-reduce of the sum."""
    device, _ = open_ipu(2)
    x, y = blobs(5 * 32 * 2)
    model, _ = fitted(device, x, y, "FixedProjectionDescent", momentum=momentum)
    close(moved(model), moved(expected(x, y, 2, name="fpd", momentum=momentum)), 1e-4)
    shapes = [variable.shape.as_list() for variable in model.optimizer.variables()]
    assert shapes == ([[], [DIM]] if momentum else [[]])


def test_gradients_accumulate_before_they_are_projected(open_ipu):
    """Four micro-batches and one basis: a step of the mean of their gradients."""
    device, _ = open_ipu()
    x, y = blobs(8 * 32)
    options = {"gradient_accumulation_steps_per_replica": 4, "gradient_accumulation_reduction_method": "mean"}
    model, _ = fitted(device, x, y, steps=8, accumulate=options)
    assert int(model.optimizer.iterations.numpy()) == 2
    close(moved(model), moved(expected(x, y, batch=4 * 32)), 1e-4)


def test_the_second_kind_of_accumulation_is_refused(open_ipu):
    """It would project every micro-batch, and its own step would count: the basis of step 0 would stay."""
    device, _ = open_ipu()
    x, y = blobs(4 * 32)
    options = {"gradient_accumulation_steps_per_replica": 2, "use_v2_gradient_accumulation_optimizer": True}
    with pytest.raises(ValueError, match="accumulate on an IPU with .*use_v2_gradient_accumulation_optimizer=False"):
        fitted(device, x, y, steps=4, accumulate=options)


def test_one_collective_of_all_coordinates(open_ipu):
    """A step sends one vector of d numbers, whatever the compartments are."""
    from rbd_ipu.devices.ipu.lint.report import walk

    device, machine = open_ipu(2)
    x, y = blobs(2 * 32 * 2)
    fitted(device, x, y, steps=2, compartments="variable")
    ((program, *_),) = machine.programs.values()
    sent = [op for op, *_ in walk(program.function.graph) if op.type == "QueueEnqueueV2" and "outfeed" not in op.name]
    assert [[t.shape.as_list() for t in op.inputs if t.dtype == tf.float32] for op in sent] == [[[DIM]]]


def test_a_strategy_that_nobody_described(open_ipu):
    """Users who set up their IPUs themselves: the number of replicas is unknown, the mean is right all the same."""
    device, _ = open_ipu(2)
    from tensorflow.python import ipu  # the stand-in

    strategy = ipu.ipu_strategy.IPUStrategy()
    x, y = blobs(5 * 32 * 2)
    with strategy.scope():
        model = dense()
        model.compile(rbd_ipu.RandomBasesDescent(0.5, dim=DIM, seed=7), crossentropy(), steps_per_execution=5)
    model.fit(x, y, batch_size=32, shuffle=False)
    close(moved(model), moved(expected(x, y, 2)), 1e-4)
