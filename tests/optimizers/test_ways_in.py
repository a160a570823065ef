"""Every way into an optimizer: the weights move within the subspace, or there is an error before any has changed."""

import numpy as np
import pytest
from nets import dense, flat
from reference import close

import rbd_ipu
from rbd_ipu._compat import KERAS_3, keras, tf
from rbd_ipu.optimizers import OPTIMIZERS

only_keras_2 = pytest.mark.skipif(KERAS_3, reason="a method of the optimizers of Keras 2")
only_keras_3 = pytest.mark.skipif(not KERAS_3, reason="Keras 2 knows nothing of the kind")
DIM = 6
Base = keras.optimizers.Optimizer
SGD = keras.optimizers.SGD


def optimizer(kind=rbd_ipu.RandomBasesDescent, **options):
    return kind(0.5, dim=DIM, seed=3, **options)


def gradients(model, step=0):
    """Gradients that lie in no subspace, and are others at each step."""
    rng = np.random.default_rng(step)
    return [tf.constant(rng.standard_normal(v.shape).astype(np.float32)) for v in model.trainable_variables]


def pairs(model, step=0):
    return list(zip(gradients(model, step), model.trainable_variables))


def stays(model, subspace, steps, *ways):
    """Takes the steps; the d directions of each explain what has moved, to 1e-5."""
    start = flat(model)
    for way in ways:
        way()
    moved = flat(model) - start
    assert np.linalg.norm(moved) > 1e-3
    P = np.concatenate([subspace.directions(3, t).numpy().astype(np.float64) for t in range(steps)])
    close(P.T @ np.linalg.lstsq(P.T, moved, rcond=None)[0], moved, 1e-5)


def refused(model, way, error, message):
    """There is an error, and not one bit of a weight has changed."""
    start = [np.copy(w) for w in model.get_weights()]
    with pytest.raises(error, match=message):
        way()
    for before, after in zip(start, model.get_weights()):
        np.testing.assert_array_equal(before, after)


def around(inner):
    """As averages and look-ahead of other packages: hands on variable by variable."""

    class Around(SGD if KERAS_3 else Base):
        def __init__(self):
            super().__init__(0.5) if KERAS_3 else super().__init__("Around")
            if not KERAS_3:
                self._set_hyper("learning_rate", 0.5)

        def build(self, variables):
            super().build(variables)
            inner.build(variables)

        def update_step(self, gradient, variable, learning_rate):
            inner.update_step(gradient, variable, learning_rate)

        def _create_slots(self, var_list):
            inner._create_all_weights(var_list)

        def _resource_apply_dense(self, grad, var, apply_state=None):
            return inner._resource_apply_dense(grad, var)

        def _resource_apply_sparse(self, grad, var, indices, apply_state=None):
            return inner._resource_apply_sparse(grad, var, indices)

        def get_config(self):
            return {}

    return Around()


def space(opt, model):
    if KERAS_3 and not opt.built:
        opt.build(model.trainable_variables)
    return opt.subspace_of(model.trainable_variables)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_apply_gradients(name):
    model, opt = dense(), optimizer(OPTIMIZERS.get(name))
    steps = 2 if name == "RandomBasesDescent" else 1
    stays(
        model,
        space(opt, model),
        steps,
        lambda: opt.apply_gradients(pairs(model)),
        lambda: opt.apply_gradients(pairs(model, 1)),
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_part_of_the_variables(name):
    model, opt = dense(), optimizer(OPTIMIZERS.get(name))
    if KERAS_3:
        opt.build(model.trainable_variables)
    part = model.trainable_variables[:2]
    rest = [np.copy(w) for w in model.get_weights()[2:]]
    before = np.concatenate([np.ravel(v.numpy()) for v in part])
    opt.apply_gradients(pairs(model)[:2])
    moved = (np.concatenate([np.ravel(v.numpy()) for v in part]) - before).astype(np.float64)
    P = opt.subspace_of(part).directions(3, 0).numpy().astype(np.float64)
    close(P.T @ np.linalg.lstsq(P.T, moved, rcond=None)[0], moved, 1e-5)
    for old, new in zip(rest, model.get_weights()[2:]):
        np.testing.assert_array_equal(old, new)


def test_a_constraint_of_a_variable_is_refused():
    layer = keras.layers.Dense(4, kernel_constraint=keras.constraints.NonNeg())
    model = keras.Sequential([keras.layers.InputLayer((3,)), keras.layers.Dense(5), layer])
    opt = optimizer()
    refused(model, lambda: opt.apply_gradients(pairs(model)), ValueError, "the constraint of '.*kernel")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_that_a_subclass_changes_after_the_projection_are_refused(name):
    class Louder(OPTIMIZERS.get(name)):
        def descend(self, pairs):
            return [(2.0 * u if k == 3 else u, v) for k, (u, v) in enumerate(super().descend(pairs))]

    class Swapped(OPTIMIZERS.get(name)):
        def descend(self, pairs):
            (a, x), *rest = super().descend(pairs)
            return [(tf.identity(a), x), *rest]

    for kind in (Louder, Swapped):
        model, opt = dense(), optimizer(kind)
        refused(
            model,
            lambda opt=opt, model=model: opt.apply_gradients(pairs(model)),
            ValueError,
            "is not what it projected|had been projected",
        )


@only_keras_2
class TestKeras2:
    @pytest.mark.parametrize("momentum", [0.0, 0.9])
    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_an_optimizer_around_it(self, name, momentum):
        model = dense()
        outer = around(optimizer(OPTIMIZERS.get(name), momentum=momentum))
        refused(model, lambda: outer.apply_gradients(pairs(model)), ValueError, "train without a subspace")
        model.compile(outer, "mse")
        x, y = np.ones((8, 6)), np.ones((8, 10))
        refused(model, lambda: model.fit(x, y, verbose=0), ValueError, "train without a subspace")

    def test_an_optimizer_around_it_with_sparse_gradients(self):
        model = keras.Sequential([keras.layers.Embedding(5, 3, input_length=2)])
        model.build((None, 2))
        sparse = tf.IndexedSlices(tf.ones([1, 3]), tf.constant([1]), tf.constant([5, 3]))
        outer = around(optimizer())
        way = lambda: outer.apply_gradients([(sparse, model.trainable_variables[0])])  # noqa: E731
        refused(model, way, ValueError, "train without a subspace")

    def test_a_subclass_that_aggregates_by_itself(self):
        """As data-parallel wrappers do; the projection comes after."""

        class Parallel(rbd_ipu.RandomBasesDescent):
            def _aggregate_gradients(self, grads_and_vars):
                return [(tf.identity(g), v) for g, v in grads_and_vars]

        model, opt, plain = dense(), optimizer(Parallel, clipnorm=0.5), dense()
        stays(model, space(opt, model), 1, lambda: opt.apply_gradients(pairs(model)))
        optimizer(clipnorm=0.5).apply_gradients(pairs(plain))
        np.testing.assert_array_equal(flat(model), flat(plain))

    def test_a_subclass_that_transforms_gradients(self):
        class Signs(rbd_ipu.RandomBasesDescent):
            def _transform_gradients(self, grads_and_vars):
                return [(tf.sign(g), v) for g, v in super()._transform_gradients(grads_and_vars)]

        model, opt = dense(), optimizer(Signs)
        stays(model, space(opt, model), 1, lambda: opt.apply_gradients(pairs(model)))
        plain, start = dense(), flat(dense())
        optimizer().apply_gradients([(tf.sign(g), v) for g, v in pairs(plain)])
        close(flat(model) - start, flat(plain) - start, 1e-6)

    def test_an_aggregator_and_transformers(self):
        seen = []

        def aggregate(grads_and_vars):
            seen.append("aggregated")
            return [(3.0 * g, v) for g, v in grads_and_vars]

        def transform(grads_and_vars):
            seen.append("transformed")
            return [(tf.sign(g), v) for g, v in grads_and_vars]

        model, opt = dense(), optimizer(gradient_aggregator=aggregate, gradient_transformers=[transform])
        stays(model, space(opt, model), 1, lambda: opt.apply_gradients(pairs(model)))
        assert seen == ["aggregated", "transformed"]

    def test_updates_changed_between_aggregating_and_applying(self):
        class Doubled(rbd_ipu.RandomBasesDescent):
            def _aggregate_gradients(self, grads_and_vars):
                return [(2.0 * u, v) for u, v in super()._aggregate_gradients(grads_and_vars)]

        model, opt = dense(), optimizer(Doubled)
        refused(model, lambda: opt.apply_gradients(pairs(model)), ValueError, "changed after they had been projected")

    def test_what_was_projected_is_used_once(self):
        model, opt = dense(), optimizer()
        updates = opt._aggregate_gradients(pairs(model))
        way = lambda: opt.apply_gradients(updates, experimental_aggregate_gradients=False)  # noqa: E731
        stays(model, space(opt, model), 1, way)
        refused(model, way, ValueError, "train without a subspace")
        other = optimizer()
        taken = opt._aggregate_gradients(pairs(model))
        way = lambda: other.apply_gradients(taken, experimental_aggregate_gradients=False)  # noqa: E731
        refused(model, way, ValueError, "train without a subspace")

    def test_raw_gradients_without_aggregation(self):
        model, opt = dense(), optimizer()
        way = lambda: opt.apply_gradients(pairs(model), experimental_aggregate_gradients=False)  # noqa: E731
        refused(model, way, ValueError, "experimental_aggregate_gradients=False")

    @pytest.mark.parametrize("method", ["_resource_apply_dense", "_distributed_apply"])
    def test_a_subclass_with_its_own_way_to_write(self, method):
        """As decoupled weight decay does it."""

        def own(self, *args, **kwargs):
            for v in model.trainable_variables:
                v.assign_sub(0.1 * v)
            return getattr(rbd_ipu.RandomBasesDescent, method)(self, *args, **kwargs)

        model = dense()
        opt = optimizer(type("Decayed", (rbd_ipu.RandomBasesDescent,), {method: own}))
        refused(model, lambda: opt.apply_gradients(pairs(model)), TypeError, f"its {method} has been replaced")

    def test_minimize(self):
        model, opt = dense(), optimizer()
        loss = lambda: tf.add_n([tf.reduce_sum(tf.square(v - 0.3)) for v in model.trainable_variables])  # noqa: E731
        stays(model, space(opt, model), 1, lambda: opt.minimize(loss, model.trainable_variables))

    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_variables_in_a_central_place(self, name):
        """They do not say whether they have a constraint."""
        x, y = np.ones((32, 6), np.float32), np.ones((32, 10), np.float32)
        ends = []
        for strategy in (tf.distribute.get_strategy(), tf.distribute.experimental.CentralStorageStrategy()):
            with strategy.scope():
                model = dense()
                model.compile(optimizer(OPTIMIZERS.get(name)), "mse")
            model.fit(x, y, verbose=0)
            ends.append(flat(model))
        close(ends[1], ends[0], 1e-6)

    def test_the_replicas_of_no_strategy(self):
        model, opt = dense(), optimizer()
        with tf.distribute.OneDeviceStrategy("cpu").scope():
            refused(model, lambda: opt.apply_gradients(pairs(model)), RuntimeError, "for a replica")


@only_keras_3
class TestKeras3:
    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_apply(self, name):
        model, opt = dense(), optimizer(OPTIMIZERS.get(name))
        subspace = space(opt, model)
        stays(model, subspace, 1, lambda: opt.apply(gradients(model)))
        stays(model, subspace, 2, lambda: opt.apply(gradients(model, 1), iter(model.trainable_variables)))

    def test_stateless_apply(self):
        model, opt = dense(), optimizer()
        opt.build(model.trainable_variables)
        values = [v.numpy() for v in opt.variables], gradients(model), [v.numpy() for v in model.trainable_variables]
        refused(model, lambda: opt.stateless_apply(*values), ValueError, "not supported")

    @pytest.mark.parametrize("momentum", [0.0, 0.9])
    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_an_optimizer_around_it(self, name, momentum):
        inner = optimizer(OPTIMIZERS.get(name), momentum=momentum)

        class Around(SGD):
            def build(self, variables):
                super().build(variables)
                inner.build(variables)

            def update_step(self, gradient, variable, learning_rate):
                inner.update_step(gradient, variable, learning_rate)

        model = dense()
        outer = Around(0.5)
        refused(model, lambda: outer.apply_gradients(pairs(model)), ValueError, "train without a subspace")
        model.compile(outer, "mse")
        x, y = np.ones((8, 6)), np.ones((8, 10))
        refused(model, lambda: model.fit(x, y, verbose=0), ValueError, "train without a subspace")

    @pytest.mark.parametrize(
        "method", ["update_step", "assign_add", "_all_reduce_sum_gradients", "_backend_update_step"]
    )
    def test_a_subclass_with_its_own_way_to_write(self, method):
        def own(self, *args):
            return getattr(rbd_ipu.RandomBasesDescent, method)(self, *args)

        model = dense()
        opt = optimizer(type("Own", (rbd_ipu.RandomBasesDescent,), {method: own}))
        refused(model, lambda: opt.apply_gradients(pairs(model)), TypeError, f"its {method} has been replaced")
        opt = optimizer()
        object.__setattr__(opt, method, lambda *_: None)
        refused(model, lambda: opt.apply_gradients(pairs(model)), TypeError, f"its {method} has been replaced")

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"weight_decay": 0.1}, "weight_decay=0.1"),
            ({"use_ema": True, "ema_overwrite_frequency": 2}, "frequency=2"),
        ],
    )
    def test_settings_that_change_weights_otherwise(self, options, message):
        with pytest.raises(ValueError, match=message):
            optimizer(**options)
        model, opt = dense(), optimizer(use_ema=bool(options.get("use_ema")))
        for key, value in options.items():
            setattr(opt, key, value)
        refused(model, lambda: opt.apply_gradients(pairs(model)), ValueError, message)

    def test_a_variable_that_is_set_to_its_gradient(self):
        model, opt = dense(), optimizer()
        model.trainable_variables[1].overwrite_with_gradient = True
        refused(model, lambda: opt.apply_gradients(pairs(model)), ValueError, "to its gradient")

    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_a_part_of_a_step_by_itself(self, name):
        """It checks no setting and counts no step: bases would never be drawn anew."""
        model, opt = dense(), optimizer(OPTIMIZERS.get(name))
        opt.build(model.trainable_variables)
        way = lambda: opt._backend_update_step(gradients(model), model.trainable_variables, 0.5)  # noqa: E731
        refused(model, way, RuntimeError, "_backend_update_step was called by itself")

    def test_a_subclass_that_decays_weights_itself(self):
        class Decayed(rbd_ipu.RandomBasesDescent):
            def _apply_weight_decay(self, variables):
                for v in variables:
                    v.assign_sub(0.1 * v)

        model, opt = dense(), optimizer(Decayed)
        refused(
            model, lambda: opt.apply_gradients(pairs(model)), TypeError, "its _apply_weight_decay has been replaced"
        )

    def test_averages_and_accumulation_stay(self):
        model, opt = dense(), optimizer(use_ema=True, gradient_accumulation_steps=2)
        ways = [lambda k=k: opt.apply_gradients(pairs(model, k)) for k in range(4)]
        stays(model, space(opt, model), 2, *ways, lambda: opt.finalize_variable_values(model.trainable_variables))

    def test_optimizers_for_parts(self):
        """Each of them has a subspace of its own variables."""
        multi = getattr(keras.optimizers, "MultiOptimizer", None)
        if multi is None:
            pytest.skip("this Keras has no MultiOptimizer")
        model = dense()
        first, second = optimizer(), optimizer()
        own = {id(v): first if k < 2 else second for k, v in enumerate(model.trainable_variables)}
        outer = multi(lambda variable: own[id(variable)])
        start = [np.copy(w) for w in model.get_weights()]
        outer.apply(gradients(model), model.trainable_variables)
        for opt, part in ((first, slice(0, 2)), (second, slice(2, 4))):
            moved = [np.ravel(b - a) for a, b in zip(start[part], model.get_weights()[part])]
            moved = np.concatenate(moved).astype(np.float64)
            P = opt.subspace_of(model.trainable_variables[part]).directions(3, 0).numpy().astype(np.float64)
            close(P.T @ np.linalg.lstsq(P.T, moved, rcond=None)[0], moved, 1e-5)
