"""What importing ``rbd_ipu`` arranges: Keras knows its classes by name, and old module paths lead to new ones.

Files that Keras writes name the optimizers and layers of this library; they load wherever ``rbd_ipu`` was imported.
Keras finds a class by its registered name. The classes themselves need TensorFlow, so that as soon as there is a
Keras their names alone are registered; what stands behind a name is imported when a file asks for it.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
import warnings
from typing import Any, Callable, Dict

PACKAGE = "rbd_ipu"
#: The classes that files may name, and the module of each.
NAMES = {
    "RandomBasesDescent": "optimizers",
    "FixedProjectionDescent": "optimizers",
    "SubspaceOptimizer": "optimizers",
    "Positions": "gpt",
    "CausalAttention": "gpt",
}


def announce() -> None:
    """Registers the names with Keras, now or as soon as it has been imported; finds modules that have moved."""
    sys.meta_path.append(_Moved())
    if "keras" in sys.modules:
        _register_names(sys.modules["keras"])
    else:
        sys.meta_path.insert(0, _Keras())


class _Keras(importlib.abc.MetaPathFinder):
    """Finds Keras where everybody finds it, and registers the names once it has run."""

    _asking = False

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname != "keras" or self._asking:
            return None
        self._asking = True  # the other finders, of which this is the first
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._asking = False
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            run(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            _register_names(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def register(registrar: Callable[..., Any], registry: Dict[str, Any]) -> Callable[[type], type]:
    """Decorates the class behind a name: Keras' ``register_keras_serializable``, of which one name can have one."""

    def decorate(cls: type) -> type:
        registry.pop(f"{PACKAGE}>{cls.__name__}", None)
        return registrar(package=PACKAGE)(cls)

    return decorate


def _register_names(keras: Any) -> None:
    module = importlib.import_module("keras.saving" if keras.__version__ >= "3" else "keras.utils.generic_utils")
    for name in NAMES:
        module.get_custom_objects().setdefault(f"{PACKAGE}>{name}", _later(name))


def _later(name: str) -> type:
    def from_config(cls: type, config: Dict[str, Any], custom_objects: Any = None) -> Any:
        found = getattr(importlib.import_module(f"{PACKAGE}.{NAMES[name]}"), name)
        if NAMES[name] != "optimizers":
            return found.from_config(config)  # that of a layer takes no more
        return found.from_config(config, custom_objects)

    return type(name, (), {"from_config": classmethod(from_config)})


#: Modules of version 0.1.0 that have moved: the old path keeps working for one minor version, with a warning.
MOVED = {
    "callbacks": "runs.callbacks",
    "devices.description": "devices.ipu.description",
    "devices.ipu_config": "devices.ipu.ipu_config",
    "devices.popdist": "devices.ipu.popdist",
    "devices.record": "devices.ipu.sdk_record",
    "devices.registry": "devices.open",
    "exchange": "parallel.exchange",
    "exchange.plan": "parallel.plan",
    "experiment": "runs.experiment",
    "losses": "objective",
    "paper": "lab",
    "paper.publish": "lab.publish",
    "place": "placement",
    "registry": "checks",
    "report": "lab.report",
    "scaling": "parallel.cost_model",
    "state": "step",
    "statistics": "methods.base",
    "steps": "step",
    "strict_yaml": "config.yaml",
    "tuning": "lab.trials",
    "workers": "runs.train",
    "workers.errors": "errors",
}


class _Moved(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module that has moved, and says where it is now."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        package, _, name = fullname.partition(".")
        if package != PACKAGE or name not in MOVED:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: Any) -> types.ModuleType:
        now = f"{PACKAGE}.{MOVED[spec.name.partition('.')[2]]}"
        warnings.warn(f"{spec.name} is {now} now", DeprecationWarning, stacklevel=2)
        module = types.ModuleType(spec.name)
        module.__getattr__ = importlib.import_module(now).__getattribute__  # type: ignore[method-assign]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing is left to run."""
