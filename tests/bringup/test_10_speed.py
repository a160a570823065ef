"""Speed: images a second of the paper's networks, written down; nothing is asserted but that there is a number."""

import numpy as np
import pytest

import rbd_ipu
from rbd_ipu import methods, models

pytestmark = pytest.mark.ipu

BATCH, EPOCHS = 32, 3
CASES = [
    ("fc", (28, 28, 1), "sgd", None, ""),
    ("fc", (28, 28, 1), "rbd", 250, "normal"),
    ("cnn", (32, 32, 3), "sgd", None, ""),
    ("cnn", (32, 32, 3), "rbd", 250, "normal"),
    ("cnn", (32, 32, 3), "rbd", 10_000, "normal"),
    ("cnn", (32, 32, 3), "rbd", 10_000, "hadamard"),
]


@pytest.mark.parametrize(("network", "shape", "method", "dim", "distribution"), CASES)
def test_images_a_second(device, description, measured, network, shape, method, dim, distribution):
    """The paper has 31 a second for the CNN at d = 10,000 on one IPU of the first generation.

    Images are random numbers; of the epochs, the fastest that did not compile counts.
    """
    count = BATCH * description.replicas * max(4, description.steps_per_execution)
    rng = np.random.default_rng(0)
    x, y = rng.random((count, *shape), np.float32), rng.integers(0, 10, count).astype(np.int32)
    with device:
        model = models.build(network, shape, seed=0)
    options = {} if dim is None else {"dim": dim, "distribution": distribution}
    trainer = rbd_ipu.Trainer(model, methods.create(method, learning_rate=1e-3, **options), device=device)
    history = trainer.fit((x, y), epochs=EPOCHS, batch_size=BATCH, verbose=0).history
    speeds = history["images_per_second"][-(EPOCHS - 1) :]
    name = f"{network} {method}" + (f" d={dim} {distribution}" if dim else "")
    measured[name] = {
        "images_per_second": max(speeds),
        "all": speeds,
        "batch": BATCH,
        "replicas": description.replicas,
        "commit": _commit(),
    }
    assert max(speeds) > 0


def _commit():
    from rbd_ipu.provenance import commit

    return commit()
