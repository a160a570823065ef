"""What the documentation site adds to mkdocs: notebooks, links to files outside docs/, and the docstrings' markup.

mkdocs calls the functions ``on_*``; mkdocstrings loads :class:`Docstrings`. Nothing here needs Jupyter or a network.
"""

import ast
import json
import re
from pathlib import Path
from typing import Any, Dict, Iterator

import griffe
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

CHECKOUT = Path(__file__).resolve().parents[1]
# ](../path/of/a/file) on a page; the pages of docs/ lie in one folder, so these are the files outside it.
OUTSIDE = re.compile(r"\]\(\.\./([^)#\s]+)\)")
COPIES = "files"


class Notebook(File):
    """A notebook, which becomes a page as a Markdown file does."""

    def is_documentation_page(self) -> bool:
        return True


def on_files(files: Any, config: Any) -> Any:
    """Makes pages of the notebooks, and copies the files outside docs/ that a page links to into the site."""
    pages = [file for file in files if file.src_uri.endswith(".md")]
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        files.remove(file)
        files.append(Notebook(file.src_uri, file.src_dir, file.dest_dir, file.use_directory_urls))
    for name in sorted({name for page in pages for name in outside(page.content_string)}):
        if not (CHECKOUT / name).is_file():
            raise PluginError(f"a page links to ../{name}, and there is no such file")
        content = (CHECKOUT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, copy_of(name), content=content))
    return files


def on_page_read_source(page: Any, config: Any) -> Any:
    """The text of a notebook; None leaves other pages to mkdocs."""
    if not isinstance(page.file, Notebook):
        return None
    return markdown_of(json.loads(page.file.content_string))


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turns links to files outside docs/ into links to their copies."""
    if not page.file.src_uri.endswith(".md"):
        return markdown
    return OUTSIDE.sub(lambda found: f"]({copy_of(found[1])})", markdown)


def outside(markdown: str) -> Iterator[str]:
    """The files outside docs/ that a page links to, relative to the checkout."""
    return (found[1] for found in OUTSIDE.finditer(markdown))


def copy_of(name: str) -> str:
    """Where the copy of a file lies in the site. A browser shows .txt where it would store a .py."""
    return f"{COPIES}/{name}" + ("" if name.endswith((".txt", ".json")) else ".txt")


def markdown_of(notebook: Dict[str, Any]) -> str:
    """A notebook as Markdown: its text, its code, and what the code printed."""
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        printed = "".join("".join(output.get("text", "")) for output in cell["outputs"])
        if printed:
            parts.append(f"```text\n{printed.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


class Docstrings(griffe.Extension):
    """Shows public names where users import them, and reads the reStructuredText in the docstrings."""

    def on_package(self, *, pkg: Any, **_: Any) -> None:
        """Gives ``rbd_ipu`` and its parts the names that they look up late, so that griffe finds them there."""
        for module in [pkg, *(one for one in pkg.modules.values() if not one.is_alias)]:
            names = {name for name in module.exports or () if isinstance(name, str)}
            for table in ("_HOME", "_LATE"):
                if table in module.members:
                    names.update(ast.literal_eval(str(module.members[table].value)))
            for name in sorted(names - set(module.members)):
                target = next((path for path in definitions(module, name)), None)
                if target is not None:
                    module.set_member(name, griffe.Alias(name, target=target))

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Roles become code or links, and a colon that opens a block becomes one colon."""
        if obj.docstring is not None:
            text = re.sub(r":(?:class|func|meth|attr|mod):`~?([\w.]+)`", _role, obj.docstring.value)
            text = re.sub(r"::$", ":", text, flags=re.MULTILINE)
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.MULTILINE)


def definitions(module: Any, name: str) -> Iterator[str]:
    """The paths of what is called ``name`` in the parts of a module."""
    for part in module.modules.values():
        if not part.is_alias:
            if name in part.members and not part.members[name].is_alias:
                yield part.members[name].path
            yield from definitions(part, name)


def _role(found: Any) -> str:
    name = found[1]
    if not name.startswith("rbd_ipu."):
        return f"`{name}`"
    return f'<autoref identifier="{name}" optional><code>{name}</code></autoref>'
