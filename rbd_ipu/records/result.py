"""result.json: what a run came to."""

import math
from typing import Any, Dict, List, Mapping, Optional


def summarise(rows: List[Dict[str, Any]], test: Optional[Mapping[str, float]], outcome: str) -> Dict[str, Any]:
    """The last and the best epoch on the validation images, and the test if it was reached.

    Args:
      rows: the lines of metrics.jsonl.
      test: loss and accuracy of the final weights on the test images; None if it broke off.
      outcome: the word for how the run ended.
    """
    last = rows[-1] if rows else {}
    best = max(rows, key=_accuracy, default={})
    return {
        "outcome": outcome,
        "epochs": len(rows),
        "step": last.get("step", 0),
        "validation": _validation(last),
        "best": {"epoch": best.get("epoch"), "validation": _validation(best)},
        "test": dict(test) if test else None,
    }


def _accuracy(row: Mapping[str, Any]) -> float:
    value = row.get("val_accuracy")
    return -math.inf if value is None else value


def _validation(row: Mapping[str, Any]) -> Dict[str, Any]:
    return {"loss": row.get("val_loss"), "accuracy": row.get("val_accuracy")}
