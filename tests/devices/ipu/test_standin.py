"""The stand-in is as strict as what it stands for: a test that it lets pass must mean something."""

import numpy as np
import pytest

from rbd_ipu._compat import KERAS_3, keras, tf

if KERAS_3:
    pytest.skip("the stand-in plays TensorFlow 2.6, which Graphcore's is built on", allow_module_level=True)

import standin
from standin.strict import CompileError


@pytest.fixture
def ipu():
    with standin.installed() as machine:
        from tensorflow.python import ipu

        ipu.machine_of_the_tests = machine
        yield ipu


def strategy_of(ipu, replicas=1):
    config = ipu.config.IPUConfig()
    config.auto_select_ipus = replicas
    config.configure_ipu_system()
    return ipu.ipu_strategy.IPUStrategy()


def run(strategy, function, *args, **options):
    with strategy.scope():
        return strategy.run(tf.function(function, jit_compile=True, **options), args=args)


def test_it_is_there_only_while_it_is_installed(ipu):
    from importlib.util import find_spec

    assert find_spec("tensorflow.python.ipu") is not None
    assert type(strategy_of(ipu)).__module__ == "tensorflow.python.ipu.ipu_strategy"


def test_names_and_arguments_come_from_the_record(ipu):
    with pytest.raises(AttributeError, match="the record knows no tensorflow.python.ipu.ops.replication_ops.replica"):
        ipu.replication_ops.replica  # noqa: B018
    with pytest.raises(NotImplementedError, match="is recorded, but the stand-in does not play it"):
        ipu.internal_ops.print_tensor  # noqa: B018
    with pytest.raises(TypeError, match="missing a required argument: 'replication_factor'"):
        ipu.all_to_all_op.all_gather(tf.zeros(3))
    with pytest.raises(TypeError, match="unexpected keyword argument 'groups'"):
        ipu.cross_replica_ops.cross_replica_sum(tf.zeros(3), groups=2)
    with pytest.raises(TypeError):
        ipu.ipu_outfeed_queue.IPUOutfeedQueue(depth=3)


@pytest.mark.parametrize(
    "path, value, error",
    [
        ("auto_select_ipus", "4", TypeError),
        ("auto_select_ipus", np.int64(4), TypeError),
        ("auto_select_ipu", 4, ValueError),
        ("floating_point_behaviour.esr", True, TypeError),
        ("floating_point_behaviour.esr", "OFF", TypeError),
        ("floating_point_behaviour.inv", 1, TypeError),
        ("floating_point_behaviour", {}, Exception),
        ("matmuls.poplar_options", "none", TypeError),
    ],
)
def test_options_are_strict(ipu, path, value, error):
    target = ipu.config.IPUConfig()
    *categories, name = path.split(".")
    for category in categories:
        target = getattr(target, category)
    with pytest.raises(error):
        setattr(target, name, value)


def test_options_of_poplar_are_text(ipu):
    config = ipu.config.IPUConfig()
    config.matmuls.poplar_options = {"availableMemoryProportion": 0.1}
    with pytest.raises(TypeError, match="must be a str, got 0.1"):
        config.configure_ipu_system()


def test_a_strategy_needs_ipus(ipu):
    with pytest.raises(RuntimeError, match="configure_ipu_system"):
        ipu.ipu_strategy.IPUStrategy()


def test_programs_are_compiled_functions(ipu):
    strategy = strategy_of(ipu)
    with pytest.raises(TypeError, match="runs a tf.function in eager mode"):
        strategy.run(lambda: tf.constant(1))
    with pytest.raises(ValueError, match="jit_compile=True"):
        strategy.run(tf.function(lambda: tf.constant(1)))
    with pytest.raises(TypeError, match="float64"):
        run(strategy, lambda x: x, tf.constant(1.0, tf.float64))
    assert int(run(strategy, lambda x: x + 1, tf.constant(4))) == 5


@pytest.mark.parametrize(
    "function, message",
    [
        (lambda x: tf.cast(tf.cast(x, tf.float64) * 2.0, tf.float32), "double"),
        (lambda x: tf.cast(tf.cast(x, tf.uint32) + tf.cast(x, tf.uint32), tf.float32), "uint32"),
        (lambda x: tf.random.experimental.stateless_fold_in([1, 2], tf.cast(x[0], tf.int32)), "Stateless"),
        (lambda x: tf.reduce_sum(tf.boolean_mask(x, x > 0)), "unknown shape|Where"),
    ],
)
def test_what_has_no_kernel_is_refused(ipu, function, message):
    with pytest.raises(CompileError, match=message):
        run(strategy_of(ipu), function, tf.constant([1.0, -1.0]))


def test_a_print_is_refused(ipu):
    def function(x):
        tf.print(x)
        return x

    with pytest.raises(CompileError, match="PrintV2"):
        run(strategy_of(ipu), function, tf.constant(1.0))


def test_infeeds_need_static_shapes_and_ipu_types(ipu):
    strategy = strategy_of(ipu)
    data = tf.data.Dataset.from_tensor_slices(np.zeros((10, 3), np.float32))
    with strategy.scope():
        with pytest.raises(ValueError, match="drop_remainder=True"):
            iter(data.batch(4))
        with pytest.raises(TypeError, match="float64"):
            iter(data.batch(4, drop_remainder=True).map(lambda x: tf.cast(x, tf.float64)))
        with pytest.raises(RuntimeError, match="known on the device only"):
            next(iter(data.batch(4, drop_remainder=True)))
    assert next(iter(data)).shape == [3]  # elsewhere iterators are what they are


def test_an_outfeed_takes_one_enqueue(ipu):
    strategy, queue = strategy_of(ipu), ipu.ipu_outfeed_queue.IPUOutfeedQueue()

    def twice(x):
        queue.enqueue(x)
        queue.enqueue(x + 1.0)

    with pytest.raises(ValueError, match="can only be enqueued once"):
        run(strategy, twice, tf.constant(1.0))
    with pytest.raises(ValueError, match="can only be enqueued once, .* is that of another program"):
        run(strategy, lambda x: queue.enqueue(x), tf.constant(1.0))
    with pytest.raises(ValueError, match="before it is dequeued"):
        ipu.ipu_outfeed_queue.IPUOutfeedQueue().dequeue()


def test_replicas_have_their_own_data_variables_and_index(ipu):
    """Element i R + r is replica r's i-th; TensorFlow's replica id is 0 on all of them; variables may drift apart."""
    strategy, queue = strategy_of(ipu, 3), ipu.ipu_outfeed_queue.IPUOutfeedQueue()
    with strategy.scope():
        variable = tf.Variable(0.0)
        iterator = iter(tf.data.Dataset.range(6).map(lambda x: tf.cast(x, tf.float32)))

    def program(iterator):
        def body(i):
            x = next(iterator)
            rank = ipu.replication_ops.replication_index()
            variable.assign_add(tf.cast(rank, tf.float32))
            queue.enqueue(
                {
                    "x": x,
                    "rank": rank,
                    "id": tf.distribute.get_replica_context().replica_id_in_sync_group + tf.zeros([], tf.int32),
                    "all": ipu.all_to_all_op.all_gather(tf.stack([x]), 3),
                    "sum": ipu.cross_replica_ops.cross_replica_sum(x),
                    "mean": tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, x + 0.0),
                }
            )
            return (i + 1,)

        tf.while_loop(lambda i: i < 2, body, (tf.constant(0),), parallel_iterations=1)

    run(strategy, program, iterator)
    told = {name: value.numpy() for name, value in queue.dequeue().items()}
    np.testing.assert_array_equal(told["x"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(told["rank"], [[0, 1, 2]] * 2)
    np.testing.assert_array_equal(told["id"], np.zeros((2, 3)))
    np.testing.assert_array_equal(told["all"][1, :, :, 0], [[3, 4, 5]] * 3)
    np.testing.assert_array_equal(told["sum"], [[3, 3, 3], [12, 12, 12]])
    np.testing.assert_array_equal(told["mean"], [[1, 1, 1], [4, 4, 4]])
    assert float(variable) == 0.0  # what TensorFlow reads is replica 0's
    machine = ipu.machine_of_the_tests
    np.testing.assert_array_equal(machine.weights(variable), [0, 2, 4])


def test_all_gather_is_over_all_replicas(ipu):
    with pytest.raises(ValueError, match="over 4 replicas, but there are 2"):
        run(strategy_of(ipu, 2), lambda x: ipu.all_to_all_op.all_gather(x, 4), tf.constant([1.0]))


def test_keras_refuses_overrides(ipu):
    class Own(keras.Sequential):
        def train_step(self, data):
            return {}

    with strategy_of(ipu).scope():
        model = Own([keras.layers.Dense(1, input_shape=(2,))])
        model.compile("sgd", "mse", steps_per_execution=2)
        with pytest.raises(RuntimeError, match="cannot override train_step"):
            model.fit(np.zeros((4, 2), np.float32), np.zeros(4, np.float32), batch_size=2)
        plain = keras.Sequential([keras.layers.Dense(1, input_shape=(2,))])
        plain.compile("sgd", "mse", steps_per_execution=2)
        with pytest.raises(ValueError, match="5 examples do not fill batches of 2"):
            plain.fit(np.zeros((5, 2), np.float32), np.zeros(5, np.float32), batch_size=2)
        with pytest.raises(ValueError, match="steps_per_execution 2 must divide the 3 batches"):
            plain.fit(np.zeros((6, 2), np.float32), np.zeros(6, np.float32), batch_size=2)


def test_fit_shuffles_arrays_unless_told_not_to(ipu):
    x = np.arange(64, dtype=np.float32)[:, np.newaxis]

    def losses(**options):
        with strategy.scope():
            model = keras.Sequential([keras.layers.Dense(1, "linear", False, "ones", input_shape=(1,))])
            model.compile(keras.optimizers.SGD(1e-5), "mse", steps_per_execution=4)
            model.fit(x, np.zeros(64, np.float32), batch_size=16, **options)
        return model.get_weights()[0].item()

    strategy = strategy_of(ipu)
    assert losses(shuffle=False) == losses(shuffle=False)
    assert len({losses(shuffle=False), losses(), losses()}) > 1


def test_variables_under_popdist_are_mirrored():
    """As with the real strategy: they are no numbers, and have no handle outside a replica."""
    with standin.installed(2, 0, 1):
        from tensorflow.python import ipu
        from tensorflow.python.ipu.distributed.popdist_strategy import PopDistStrategy

        config = ipu.config.IPUConfig()
        config.auto_select_ipus = 2
        config.configure_ipu_system()
        strategy = PopDistStrategy()
        with strategy.scope():
            weight = tf.Variable(1.0)
            optimizer = keras.optimizers.SGD(0.5)
            steps = optimizer.iterations
        for variable in (weight, steps):
            assert type(variable).__name__ == "IPUMirroredVariable"
            with pytest.raises(TypeError):
                int(variable)
            with strategy.scope(), pytest.raises(ValueError, match="not available outside the replica context"):
                variable.handle  # noqa: B018
        assert int(steps.numpy()) == 0
