"""What Graphcore's Keras does in ``fit``, as far as the record tells: its checks, its loop, the hooks that it calls.

The loop is one program of ``steps_per_execution`` steps. Of an optimizer it calls ``get_gradients(loss, variables)``
and ``apply_gradients(pairs)``, never ``minimize`` or a tape; with gradient accumulation (its first version) the
gradients of some micro-batches are added up, and applied once.
"""

import contextlib

from rbd_ipu._compat import keras, tf
from standin import machine, queues

OPTIONS = ("set_gradient_accumulation_options", "set_replication_options")


@contextlib.contextmanager
def patched_keras():
    """Models that were made in the scope of a strategy for IPUs are trained as Graphcore's Keras trains them."""
    original = keras.Model.fit

    def fit(model, *args, **kwargs):
        if type(model.distribute_strategy).__module__.startswith("tensorflow.python.ipu"):
            return _fit(model, *args, **kwargs)
        return original(model, *args, **kwargs)

    keras.Model.fit = fit
    keras.Model.set_gradient_accumulation_options = _accumulate
    keras.Model.set_replication_options = _replicate
    try:
        yield
    finally:
        keras.Model.fit = original
        for name in OPTIONS:
            delattr(keras.Model, name)


def _accumulate(
    model,
    gradient_accumulation_steps_per_replica=None,
    gradient_accumulation_reduction_method="sum",
    use_v2_gradient_accumulation_optimizer=False,
    **gradient_accumulation_optimizer_kwargs,
):
    assert gradient_accumulation_reduction_method in ("sum", "mean") and not gradient_accumulation_optimizer_kwargs
    if type(model.optimizer).minimize is not keras.optimizers.Optimizer.minimize:
        raise ValueError("an optimizer that overrides minimize cannot accumulate gradients")
    model._accumulated = gradient_accumulation_steps_per_replica, gradient_accumulation_reduction_method
    model._second_kind = use_v2_gradient_accumulation_optimizer


class SecondKind(keras.optimizers.Optimizer):
    """Gradient accumulation of the second kind, as far as it gets here: to the inner optimizer's last method.

    It hands everything on to the inner optimizer but the step and the last call: its own step counts, and it gives
    sums of what the inner one made of each micro-batch to the inner ``_resource_apply_dense``, variable by variable.
    """

    def __init__(self, inner):
        super().__init__("GradientAccumulationOptimizer")
        self._inner = inner
        self._prepare = inner._prepare
        self._aggregate_gradients = inner._aggregate_gradients
        self._transform_gradients = inner._transform_gradients
        self.get_gradients = inner.get_gradients

    def _create_all_weights(self, var_list):
        _ = self.iterations
        self._inner._create_all_weights(var_list)

    def _resource_apply_dense(self, grad, handle, apply_state):
        accumulated = tf.zeros_like(grad) + grad
        return self._inner._resource_apply_dense(accumulated, handle, apply_state)


def _replicate(model, replicated_metric_reduction_method="NONE"):
    model._reduction = replicated_metric_reduction_method.lower()


def _refuse_overrides(model):
    for name in ("train_step", "make_train_function"):
        if getattr(type(model), name) is not getattr(keras.Model, name):
            raise RuntimeError(f"a model for an IPU cannot override {name}")
    if model.run_eagerly:
        raise RuntimeError("a model for an IPU cannot run eagerly")


def _fit(model, x, y=None, batch_size=32, epochs=1, steps_per_epoch=None, verbose=0, shuffle=True):
    _refuse_overrides(model)
    dataset = x
    if y is not None:
        if len(x) % batch_size:
            raise ValueError(f"{len(x)} examples do not fill batches of {batch_size}")
        examples = tf.data.Dataset.from_tensor_slices((x, y))
        examples = examples.shuffle(len(x)) if shuffle else examples  # a dataset is taken as it comes
        dataset = examples.batch(batch_size).map(
            lambda a, b: (tf.ensure_shape(a, [batch_size, *a.shape[1:]]), tf.ensure_shape(b, [batch_size]))
        )
    replicas = machine.present().replicas
    steps = (steps_per_epoch or int(dataset.cardinality())) // replicas
    call = int(model._steps_per_execution.numpy())
    micro, reduction = getattr(model, "_accumulated", (1, "sum"))
    if steps % call or call % micro:
        raise ValueError(
            f"steps_per_execution {call} must divide the {steps} batches of a replica and be a multiple of the "
            f"{micro} steps of gradient accumulation"
        )
    history = keras.callbacks.History()
    history.set_model(model)
    history.on_train_begin()
    with model.distribute_strategy.scope():
        queue = queues.IPUOutfeedQueue()
        program = _program(model, call, micro, reduction, queue)
        iterator = iter(dataset.repeat())
        for epoch in range(epochs):
            losses = []
            for _ in range(steps // call):
                model.distribute_strategy.run(program, args=(iterator,))
                told = queue.dequeue().numpy().reshape(-1, replicas)
                losses.append(told.mean() if getattr(model, "_reduction", "none") == "mean" else told[:, -1].mean())
            history.on_epoch_end(epoch, {"loss": float(sum(losses) / len(losses))})
    return history


def _program(model, call, micro, reduction, queue):
    optimizer = model.optimizer
    if getattr(model, "_second_kind", False):
        optimizer, micro = SecondKind(optimizer), 1

    def train(iterator):
        for _ in tf.range(call // micro):
            variables, total, loss = model.trainable_variables, None, 0.0
            for _ in range(micro):
                x, y = next(iterator)
                outputs = model(x, training=True)
                loss = model.compiled_loss(y, outputs, None, regularization_losses=model.losses)
                gradients = optimizer.get_gradients(loss, variables)
                total = gradients if total is None else [a + g for a, g in zip(total, gradients)]
            if reduction == "mean":
                total = [g / micro for g in total]
            optimizer.apply_gradients(list(zip(total, variables)))
            queue.enqueue(loss)

    return tf.function(train, jit_compile=True)
