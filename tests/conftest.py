"""What all tests share: versions in the heading, two options, data sets, the marker `ipu`, clean sessions, no XLA."""

import functools
import gc
import importlib.util
import os
import platform
import signal
import sys
from importlib import metadata
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's job in the background; runs would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
HEADING = ("tensorflow-cpu", "tensorflow", "keras", "numpy", "numba", "tensorflow-datasets")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")
    parser.addoption("--minimum", type=int, metavar="N", help="fail where fewer than N tests pass")


def pytest_configure(config):
    if not config.option.slow and not config.option.markexpr:
        config.option.markexpr = "not slow"


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    """Tests that vanish must not pass unseen. Only the process that reports knows how many passed."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    minimum = session.config.option.minimum
    if reporter is None or minimum is None:
        return
    passed = len(reporter.stats.get("passed", ()))
    reporter.write_line("")
    reporter.write_line(f"{passed} tests passed, at least {minimum} are expected")
    if passed < minimum and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_collection_finish():
    """What all modules have made stays until the end; each collection of garbage would go through it again."""
    gc.collect()
    gc.freeze()


def pytest_report_header():
    versions = [f"Python {platform.python_version()}"]
    for name in HEADING:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return "stack: " + ", ".join(versions)


def pytest_collection_modifyitems(items):
    marked = [item for item in items if item.get_closest_marker("ipu")]
    if marked and not _ipu_tensorflow():
        reason = "tensorflow.python.ipu cannot be imported: this is not Graphcore's TensorFlow"
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))


def _ipu_tensorflow() -> bool:
    try:
        return importlib.util.find_spec("tensorflow.python.ipu") is not None
    except ModuleNotFoundError:
        return False


@pytest.fixture(autouse=True)
def _clean_keras_session():
    """Layer names count from the start in every test, whatever ran before it in this process."""
    yield
    stack = sys.modules.get("rbd_ipu._compat")
    if stack is not None:
        # Keras 3 also collects garbage unless told not to: 0.2 s a test.
        stack.keras.backend.clear_session(**({"free_memory": False} if stack.KERAS_3 else {}))
        _forget_gradients()


def _forget_gradients():
    """Optimizers of Keras 3 sum over replicas, and for the gradient of that sum TensorFlow keeps the whole graph."""
    known = importlib.import_module("tensorflow.python.framework.ops").gradient_registry._registry
    for name in [name for name in known if name.startswith("CustomGradient-")]:
        del known[name]


@pytest.fixture(autouse=True)
def _no_xla_by_default(monkeypatch):
    """``fit`` of Keras 3 compiles a model by XLA unless told not to: seconds for each of these, which run for less.

    Tests that are about it give ``jit_compile``, True or "auto".
    """
    stack = sys.modules.get("rbd_ipu._compat")
    if stack is None or not stack.KERAS_3:
        return
    trainer = next(c for c in reversed(stack.keras.Model.__mro__) if "compile" in vars(c))  # Keras asks for its own
    compile_of_keras = trainer.compile

    @functools.wraps(compile_of_keras)
    def compile_plain(self, *arguments, **options):
        return compile_of_keras(self, *arguments, **{"jit_compile": False, **options})

    monkeypatch.setattr(trainer, "compile", compile_plain)


@pytest.fixture
def rewritten(monkeypatch):
    """What AutoGraph rewrites: (module, name) of functions."""
    api = importlib.import_module("tensorflow.python.autograph.impl.api")
    transform, noted = api._TRANSPILER.transform, []

    def note(entity, context):
        noted.append((entity.__module__, entity.__qualname__))
        return transform(entity, context)

    monkeypatch.setattr(api._TRANSPILER, "transform", note)
    return noted


@pytest.fixture
def file_size_limit():
    """Makes real writes beyond so many bytes fail, as on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="session")
def tfds_dir() -> Path:
    """The folder of the prepared data sets: $RBD_DATA_DIR, or shared/tfds beside the checkout."""
    folder = Path(os.environ.get("RBD_DATA_DIR", CHECKOUT.parent / "shared" / "tfds"))
    if not folder.is_dir():
        pytest.skip(f"no data sets in {folder} (set RBD_DATA_DIR)")
    return folder


@pytest.fixture(scope="module")
def whole(request, tmp_path_factory) -> Path:
    """A finished run of three epochs with a checkpoint at the end of each, from the module's WORDS for `train`."""
    from rbd_ipu import training
    from rbd_ipu.cli import main

    folder = tmp_path_factory.mktemp("runs") / "whole"
    words = ["--set", "epochs=3", "--set", "checkpoint_seconds=0", "--set", "keep_checkpoints=9"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "CALL_SECONDS", 60.0)
        assert main(["train", *request.module.WORDS, *words, "--output", str(folder)]) == 0
    return folder
