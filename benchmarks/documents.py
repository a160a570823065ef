"""What the scripts share: where numbers come from, and runs that are kept as soon as they are done."""

import json
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence, Union

from rbd_ipu import files, provenance
from rbd_ipu.lab.bench.report import load


def heading(script: str, words: Sequence[str]) -> Dict[str, Any]:
    """The first entries of every document: command, versions, commit, machine."""
    arguments = provenance.command_line(words).partition(" ")[2]
    return {
        "command": f"python benchmarks/{script} {arguments}".rstrip(),
        **provenance.origin(),
        "load_average": {"begin": load()},
    }


def write(path: Union[str, Path], document: Dict[str, Any]) -> None:
    """Writes a document as JSON, whole or not at all."""
    files.write_text(path, files.document(document))


def rows(path: Path) -> List[Dict[str, Any]]:
    """The rows of a file, a line of JSON each; a last line that was cut off is taken away, and counts as not done."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    if lines.pop():  # the last line has no end: make the next one begin on its own
        files.write_text(path, "".join(f"{line}\n" for line in lines))
    return [json.loads(line) for line in lines]


class Finished:
    """Runs that are done, one line of JSON each: settings, result, commit. A stopped script goes on after them.

    A last line that was cut off by a crash counts as not done. Runs of another stack are other runs.

    Args:
      path: of the file; it need not be there yet.
    """

    def __init__(self, path: Union[str, Path]):
        self.path = Path(path)
        self._stack = provenance.versions()["tensorflow"]
        self._commit = provenance.commit()
        self._results: Dict[str, Any] = {run["key"]: run["result"] for run in rows(self.path)}

    def run(self, settings: Dict[str, Any], function: Callable[[], Any]) -> Any:
        """The result of the run with these settings: as kept, or of ``function()``, which is then kept."""
        key = json.dumps({**settings, "tensorflow": self._stack}, sort_keys=True)
        if key not in self._results:
            result = files.plain(function())
            with files.naming(self.path), open(self.path, "a", encoding="utf-8") as file:
                file.write(files.line({"key": key, "settings": settings, "result": result, **self._commit}))
            self._results[key] = result
        return self._results[key]

    def __len__(self) -> int:
        return len(self._results)


def powers(text: str) -> List[int]:
    """Exponents from "-7..-2" or "-3,-2,-1" (for argparse).

    Example:
      >>> powers("-4..-2"), powers("1,3")
      ([-4, -3, -2], [1, 3])
    """
    if ".." in text:
        first, last = (int(part) for part in text.split(".."))
        return list(range(first, last + 1))
    return [int(part) for part in text.split(",")]
