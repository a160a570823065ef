"""Modules made from the record: they hold what is played here, and fail for what the record does not know."""

import functools
import importlib.machinery
import inspect
import types

from rbd_ipu.devices.ipu import sdk_record
from standin import collectives, options, processes, queues, strategy

ROOT = "tensorflow.python.ipu"

# Full recorded name -> what plays it.
PLAYED = {
    f"{ROOT}.config.IPUConfig": options.IPUConfig,
    f"{ROOT}.ipu_strategy.IPUStrategyV1": strategy.IPUStrategyV1,
    f"{ROOT}.ipu_strategy.IPUStrategy": strategy.IPUStrategyV1,
    f"{ROOT}.distributed.popdist_strategy.PopDistStrategy": strategy.PopDistStrategy,
    f"{ROOT}.ipu_infeed_queue.IPUOwnedIterator": queues.IPUOwnedIterator,
    f"{ROOT}.ipu_outfeed_queue.IPUOutfeedQueue": queues.IPUOutfeedQueue,
    f"{ROOT}.ops.replication_ops.replication_index": collectives.replication_index,
    f"{ROOT}.ops.all_to_all_op.all_gather": collectives.all_gather,
    f"{ROOT}.ops.cross_replica_ops.cross_replica_sum": collectives.cross_replica_sum,
    f"{ROOT}.ops.cross_replica_ops.cross_replica_mean": collectives.cross_replica_mean,
    f"{ROOT}.ops.custom_ops.precompiled_user_op": collectives.precompiled_user_op,
    f"{ROOT}.distributed.host_collective_ops.allgather": processes.allgather,
    f"{ROOT}.distributed.host_collective_ops.broadcast": processes.broadcast,
    **{f"{ROOT}.config.{name}": kind for name, kind in options.ENUMS.items()},
}

# Public methods of recorded bases, which the record lists there.
INHERITED = {"IPUOwnedIterator": ("get_next", "next"), "PopDistStrategy": ("run",)}


class Recorded(types.ModuleType):
    """A module that knows the names of the record."""

    def __getattr__(self, name):
        full = f"{self.__name__}.{name}"
        if full in sdk_record.api()["tensorflow"]:
            raise NotImplementedError(f"{full} is recorded, but the stand-in does not play it")
        raise AttributeError(f"the record knows no {full}")


def make():
    """Full module name -> module, with the package ``ipu`` first."""
    made = {}
    for full, played in PLAYED.items():
        facts = sdk_record.api()["tensorflow"].get(full)
        assert facts is not None, f"{full} is played but not recorded"
        name, _, attribute = full.rpartition(".")
        module = _module(made, name)
        setattr(module, attribute, played if inspect.isclass(played) else checked(full, facts, played))
        if inspect.isclass(played):
            _check_class(full, facts, played)
    package = made[ROOT]
    for alias, target in sdk_record.api()["package"].items():
        if target.startswith(f"{ROOT}.") and target not in sdk_record.api()["tensorflow"]:
            setattr(package, alias, _module(made, target))
    return made


def _module(made, name):
    parent, _, last = name.rpartition(".")
    if name not in made:
        if name != ROOT:
            _module(made, parent)
        made[name] = Recorded(name)
        made[name].__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        made[name].__path__ = []
        # The package exports what the record says it does; other modules hold their submodules.
        if name != ROOT and parent != ROOT:
            setattr(made[parent], last, made[name])
    return made[name]


def checked(name, text, function):
    """A function whose arguments are held against the recorded signature."""
    signature = sdk_record.parse(text)

    @functools.wraps(function)
    def call(*args, **kwargs):
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{name}{text}: {error}") from None
        return function(*args, **kwargs)

    return call


def _check_class(full, facts, played):
    """A class may have no public method that the record does not know, and takes the recorded arguments."""
    if "alias_of" in facts or "members" in facts:
        return
    public = {name for name in vars(played) if not name.startswith("_")}
    unknown = public - set(facts["methods"]) - set(INHERITED.get(played.__name__, ()))
    assert not unknown, f"{full} has no {sorted(unknown)} in the record"
    recorded = sdk_record.parse(facts["signature"])
    own = inspect.signature(played.__init__)
    assert list(own.parameters)[1:] == list(recorded.parameters), f"{full}{facts['signature']}, not {own}"
    assert played.__module__ == full.rpartition(".")[0], played.__module__
