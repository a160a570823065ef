"""A replica of a MirroredStrategy: what it has of a model, and how all of them change their weights alike.

Weights are mirrored: a copy on each device, changed by all replicas together. All else that a model keeps, such as
the moving statistics of batch normalisation, is each replica's own; whoever reads it from outside gets replica 0's.
"""

import functools
from typing import Any, Callable, List, Sequence, Tuple

from rbd_ipu._stack import KERAS_3, apply_update, tensors, tf
from rbd_ipu.exchange.mirrored import replica

_FIRST = tf.VariableAggregation.ONLY_FIRST_REPLICA
_SHARED = (None, tf.VariableAggregation.NONE, tf.VariableAggregation.MEAN)


def beside_the_weights(create: Callable[..., Any], **options: Any) -> Any:
    """A variable creator for ``tf.variable_creator_scope``: what is not trained becomes each replica's own.

    Left to themselves, no replica may change the moving statistics of Keras 3, and reading those of Keras 2 takes the
    mean of the replicas'.
    """
    if options.get("trainable") is False and options.get("aggregation") in _SHARED:
        options.update(synchronization=tf.VariableSynchronization.ON_READ, aggregation=_FIRST)
    return create(**options)


def is_at_home(strategy: Any, model: Any) -> bool:
    """Whether a model was built in the scopes of a strategy and of :func:`beside_the_weights`."""
    return all(
        strategy.extended.variable_created_in_scope(variable)
        and (variable.trainable or variable.aggregation not in _SHARED)
        for variable in tensors(model.variables)
    )


def own(variables: Sequence[Any]) -> List[Any]:
    """The copies that the replica which is being traced has: it may assign to them wherever it wants to."""
    copies = tf.distribute.get_strategy().experimental_local_results
    return [copies(variable)[replica()] for variable in tensors(variables)]


class Part:
    """A model as the replica that is being traced has it: the same function, of its own copies of the variables."""

    def __init__(self, model: Any):
        self._model = model
        self.variables = own(model.variables)
        self.non_trainable_variables = own(model.non_trainable_variables)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._model(*arguments, **options)

    @property
    def losses(self) -> List[Any]:
        """Regularisers of the last call."""
        return self._model.losses


def subtract(optimizer: Any, pairs: Sequence[Tuple[Any, Any]]) -> None:
    """Applies (update, variable) pairs that all replicas hold alike, on each replica its own; nothing is sent.

    To be called by all replicas, outside of ``tf.cond`` and ``tf.while_loop``. Keras 2 can do it; Keras 3 would add
    the replicas' updates up, so that here its optimizer is asked for the step of each variable.
    """
    if not KERAS_3:
        apply_update(optimizer, pairs)
        return
    variables = [variable for _, variable in pairs]

    def on_all(strategy: Any, updates: Any) -> None:
        rate = optimizer.learning_rate
        for variable, update in zip(variables, updates):
            change = functools.partial(_change, optimizer, rate, variable.constraint)
            strategy.extended.update(variable.value, change, args=(update,), group=False)
        optimizer.iterations.assign_add(1)

    tf.distribute.get_replica_context().merge_call(on_all, args=([update for update, _ in pairs],))


def _change(optimizer: Any, rate: Any, constraint: Any, variable: Any, update: Any) -> None:
    optimizer.update_step(update, variable, rate)
    if constraint is not None:
        variable.assign(constraint(variable))
