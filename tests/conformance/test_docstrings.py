"""Every public function and class says its arguments and errors where it has them, and shows itself in an example."""

import ast
import importlib
import inspect
import textwrap

import pytest

ROOMS = ("", "analysis", "checkpoints", "config", "data", "devices", "directions", "methods", "optimizers", "runs")
USERS = {"ConfigError", "ValueError", "TypeError", "CheckpointError"}  # errors that a user can mend
#: What is still missing, by public name.
EXEMPT = {
    "data.ImageData": ["Args:"],
    "data.TextData": ["Args:"],
    "directions.Compiled": ["Args:", "Example:"],
    "directions.Source": ["Example:"],
    "directions.check_distribution": ["Args:", "Example:"],
    "directions.distribution_names": ["Example:"],
    "directions.make_source": ["Example:"],
    "directions.resolve": ["Args:", "Example:"],
    "methods.FPD": ["Raises:"],
    "methods.Method": ["Example:"],
    "methods.create": ["Args:"],
}


def public():
    """The functions and classes of the rooms' ``__all__``, each once, at the first name that it has."""
    found = {}
    for room in ROOMS:
        module = importlib.import_module(".".join(filter(None, ("rbd_ipu", room))))
        for name in module.__all__:
            thing = getattr(module, name)
            exception = inspect.isclass(thing) and issubclass(thing, BaseException)
            if (inspect.isclass(thing) or inspect.isfunction(thing)) and not exception:
                found.setdefault(thing, ".".join(filter(None, (room, name))))
    return {name: thing for thing, name in found.items()}


PUBLIC = public()


def function_of(thing):
    """What runs when it is called; None for a class that has no ``__init__`` of its own."""
    return vars(thing).get("__init__") if inspect.isclass(thing) else thing


def tree_of(function):
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError):
        return ast.Module([], [])


def raised(function):
    """The names of the errors that its body raises."""
    found = set()
    for node in ast.walk(tree_of(function)):
        if isinstance(node, ast.Raise) and node.exc is not None:
            error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            found.add(getattr(error, "id", getattr(error, "attr", "")))
    return found


def called(function):
    """The functions of this package that its body calls by a name that can be looked up."""
    for node in ast.walk(tree_of(function)):
        if isinstance(node, ast.Call):
            thing = looked_up(node.func, function.__globals__)
            if inspect.isfunction(thing) and thing.__module__.startswith("rbd_ipu"):
                yield thing


def looked_up(node, names):
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = looked_up(node.value, names)
        return getattr(owner, node.attr, None) if inspect.ismodule(owner) else None
    return None


def wanted(thing):
    """The parts that a docstring must have. A NamedTuple is what functions give: the example is theirs."""
    function = function_of(thing)
    fields = getattr(thing, "_fields", ())
    parts = set() if fields else {"Example:"}
    arguments = [name for name in inspect.signature(function).parameters if name != "self"] if function else []
    if arguments and inspect.isfunction(function) or fields:
        parts.add("Args:")
    if inspect.isfunction(function) and USERS & set.union(raised(function), *map(raised, called(function))):
        parts.add("Raises:")
    return parts


def missing(thing):
    text = inspect.getdoc(thing) or ""
    found = {part for part in ("Args:", "Raises:", "Example:") if part in text}
    if hasattr(thing, "_fields") and "Attributes:" in text:  # of a NamedTuple they are the arguments
        found.add("Args:")
    return sorted(wanted(thing) - found)


@pytest.mark.parametrize("name", PUBLIC)
def test_docstrings_have_their_parts(name):
    assert missing(PUBLIC[name]) == EXEMPT.get(name, []), f"{name}; a docstring that is whole is exempt no more"


def test_exemptions_are_of_public_names():
    assert set(EXEMPT) <= set(PUBLIC)


def test_the_rules_find_what_is_missing():
    def one(count):
        """Gives it back.

        Raises:
          ValueError: never.

        Example:
          >>> one(1)
        """
        return count

    def other(count):
        """Args:, but neither an error nor an example."""
        if count:
            raise ValueError(count)

    assert missing(one) == ["Args:"] and missing(other) == ["Example:", "Raises:"]
