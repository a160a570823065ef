"""Results and run folders as a training leaves them, without the training."""

import json

from rbd_ipu import files
from rbd_ipu.config.yaml import dumps


def result(config, accuracies, outcome="finished", seconds=2.0):
    """A row with the given validation accuracies, one an epoch; the loss falls as they rise."""
    losses = [1.0 - value for value in accuracies]
    return {
        "kind": "run",
        "settings": config.as_dict(),
        "seed": config.seed,
        "outcome": outcome,
        "epochs": len(accuracies),
        "values": {"val_accuracy": accuracies[-1], "test_accuracy": 0.5} if accuracies else {},
        "curves": {
            "val_accuracy": list(accuracies),
            "val_loss": losses,
            "correlation": [0.1 * (i + 1) for i in range(len(accuracies))],
            "images_per_second": [100.0 * (i + 1) for i in range(len(accuracies))],
            "seconds": [seconds] * len(accuracies),
        },
        "seconds": seconds * len(accuracies),
        "command": "rbd-ipu train",
        "commit": "0123456789abcdef",
        "modified": False,
        "versions": {"python": "3.11", "tensorflow": "2.21.0", "keras": "3.15.1", "numpy": "2.4"},
        "machine": {"processor": "A processor", "usable_cores": 2, "system": "Linux"},
        "started": "2026-01-01T00:00:00Z",
        "ended": "2026-01-01T00:01:00Z",
        "d": config.dim or 1000,
        "D": 1000,
        "data": {"images.npz": "00c0ffee" * 8},
    }


def folder(path, config, accuracies, outcome="finished", half_a_line=False):
    """A run folder as records/folder.py describes it."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(dumps(config.as_dict()))
    facts = {"command": f"rbd-ipu train --quiet --output {path}", "outcome": outcome, "seed": config.seed}
    facts.update(d=8, D=1000, commit="abc", data={"images.npz": "00c0ffee" * 8})
    (path / "run.json").write_text(files.document(facts))
    lines = [
        files.line({"epoch": i + 1, "val_accuracy": value, "loss": 1 / 3, "seconds": 2.0})
        for i, value in enumerate(accuracies)
    ]
    (path / "metrics.jsonl").write_text("".join(lines) + ('{"epoch": 9' if half_a_line else ""))
    if outcome == "finished":
        document = {"outcome": outcome, "test": {"loss": 0.5, "accuracy": 0.75}}
        (path / "result.json").write_text(json.dumps(document))
    return path
