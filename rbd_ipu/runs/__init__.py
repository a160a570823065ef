"""Runs: from settings to a folder with everything about a training."""

from rbd_ipu.runs.folder import RunFolder, check_free, check_search, facts_of, new_folder

__all__ = ["RunFolder", "check_free", "check_search", "facts_of", "new_folder"]
