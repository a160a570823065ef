"""Does a GPU compute what a CPU does? Directions, steps with and without XLA, a MirroredStrategy of one device.

    python benchmarks/gpu_checks.py [--device GPU:0] [--output checks.json]

Each check prints a line, and the exit status is 1 if one of them fails. With --device CPU:0 the script can be tried
where there is no GPU. See gpu.sh.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, Callable, Dict

import numpy as np
from documents import heading, write

ARGUMENTS = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ARGUMENTS.add_argument("--device", default="GPU:0", help="GPU:0, or CPU:0 to try the script")
ARGUMENTS.add_argument("--output", type=Path, help="a JSON file")

SIZE, DIM = 20_000, 40


def directions(device: str) -> Dict[str, float]:
    """The largest difference of directions, and of a projection there and back, by distribution."""
    import rbd_ipu
    from rbd_ipu._compat import tf
    from rbd_ipu.directions import distribution_names

    v, found = np.random.default_rng(0).standard_normal(SIZE).astype(np.float32), {}
    for name in distribution_names():
        basis = rbd_ipu.RandomBasis(SIZE, SIZE if name == "blocks" else DIM, name, source="counter")
        results = []
        for place in ("CPU:0", device):
            with tf.device(f"/{place}"):
                c, u = basis.sketch(v, 7)
                results.append([basis.directions(7, 0, 3).numpy(), c.numpy(), u.numpy()])
        for what, one, other in zip(("directions", "coordinates", "update"), *results):
            found[f"{name} {what}"] = float(np.abs(one - other).max() / np.abs(one).max())
    return found


def trained(make: Callable[[], Any], scope: Any, jit: bool) -> np.ndarray:
    """All weights after two epochs."""
    from rbd_ipu._compat import keras

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((256, 20)).astype(np.float32), rng.integers(0, 10, 256)
    with scope:
        glorot = keras.initializers.GlorotUniform
        layers = [keras.layers.Dense(64, "relu", kernel_initializer=glorot(1)), keras.layers.Dense(10)]
        layers[1].kernel_initializer = glorot(2)
        model = keras.Sequential([keras.layers.InputLayer((20,)), *layers])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer=make(), loss=loss, jit_compile=jit)
    model.fit(x, y, batch_size=32, epochs=2, shuffle=False, verbose=0)
    return np.concatenate([np.ravel(w) for w in model.get_weights()])


def steps(device: str) -> Dict[str, float]:
    """The largest difference from the CPU, in units of the change: fit, with XLA and without, and mirrored."""
    import rbd_ipu
    from rbd_ipu import presets
    from rbd_ipu._compat import tf

    makers = {
        "RandomBasesDescent": lambda: rbd_ipu.RandomBasesDescent(1.0, dim=50, source="counter"),
        "small_messages": lambda: presets.small_messages(0.01, 1 / 16, source="counter"),
        "small_state": lambda: presets.small_state(0.02, source="counter"),
    }
    found = {}
    for name, make in makers.items():
        wanted = trained(make, tf.device("/CPU:0"), False)
        size = np.abs(wanted).max()
        for jit in (False, True):
            other = trained(make, tf.device(f"/{device}"), jit)
            found[f"{name}, XLA {jit}"] = float(np.abs(other - wanted).max() / size)
        mirrored = trained(make, tf.distribute.MirroredStrategy([device]).scope(), False)
        found[f"{name}, MirroredStrategy"] = float(np.abs(mirrored - wanted).max() / size)
    return found


def main() -> int:
    """Runs the checks; returns the exit status."""
    options = ARGUMENTS.parse_args()
    from rbd_ipu._compat import tf

    known = [device.name.replace("/device:", "") for device in tf.config.list_logical_devices()]
    if options.device not in known:
        ARGUMENTS.error(f"--device {options.device}: TensorFlow sees {', '.join(known)}")
    failed, document = 0, heading("gpu_checks.py", sys.argv[1:])
    # A step multiplies and adds in another order there: what is selected may differ in places after some of them.
    for part, check, most in (("directions", directions, 1e-5), ("steps", steps, 5e-2)):
        document[part] = check(options.device)
        for name, error in document[part].items():
            verdict = "ok" if error <= most else "FAILED"
            failed += error > most
            print(f"{verdict:<7} {part}: {name}: {error:.1e} (at most {most:g})", flush=True)
    if options.output:
        write(options.output, document)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
