"""What the bring-up tests share: the device that they bring up, and how a function is run on it.

The tests go from the plainest to the whole, in the order of their files; the first that fails is the one to look at.
One process can configure its IPUs once, so there is one configuration for each run of them:

    RBD_IPU_CONFIG        the configuration; default ipu_configs/single.yaml
    RBD_BRINGUP_OUTPUT    a JSON file for what was measured; default: none is written, it is printed
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = ROOT / "ipu_configs" / "single.yaml"


@pytest.fixture(scope="session")
def config_file():
    path = Path(os.environ.get("RBD_IPU_CONFIG", DEFAULT))
    if not path.is_file():
        pytest.skip(f"there is no configuration {path} (set RBD_IPU_CONFIG)")
    return path


@pytest.fixture(scope="session")
def description(config_file):
    from rbd_ipu.devices.ipu import description

    described = description.load(config_file)
    if described.device != "ipu":
        pytest.skip(f"{config_file} is for device {described.device}, and these tests bring up IPUs")
    return described


@pytest.fixture(scope="session")
def device(config_file, description):
    import rbd_ipu

    return rbd_ipu.open_device(str(config_file))


@pytest.fixture(scope="session")
def on_device(device):
    """``on_device(function, *arrays)``: compiles a function of tensors for the device, runs it; gives arrays."""
    from rbd_ipu._compat import tf

    def run(function, *arrays):
        compiled = tf.function(function, jit_compile=True, autograph=False)
        with device:
            results = device.strategy.run(compiled, args=tuple(tf.constant(array) for array in arrays))
        return tf.nest.map_structure(np.asarray, results)

    return run


@pytest.fixture(scope="session")
def several(description):
    """The number of replicas of this process, where there are several."""
    if description.local_replicas == 1:
        pytest.skip("one replica only: set RBD_IPU_CONFIG to a configuration with several, such as pod4.yaml")
    return description.local_replicas


@pytest.fixture(scope="session")
def measured():
    """What the tests measure, by name; written or printed when they are done."""
    numbers = {}
    yield numbers
    text = json.dumps(numbers, indent=1, sort_keys=True)
    path = os.environ.get("RBD_BRINGUP_OUTPUT")
    if path:
        from rbd_ipu import files

        files.write_text(path, text + "\n")
    else:
        print(f"\nmeasured: {text}")
