"""HTML from plain values: escaped text, elements, tables."""

import html
from typing import Any, Iterable, Sequence


def escaped(text: Any) -> str:
    """Text as HTML shows it.

    Example:
      >>> escaped("d < D & more")
      'd &lt; D &amp; more'
    """
    return html.escape(str(text))


def element(name: str, *content: str, **attributes: Any) -> str:
    """An element around content that is HTML already; ``class_`` is the attribute class.

    Example:
      >>> element("p", "text", class_="note")
      '<p class="note">text</p>'
    """
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"' for key, value in attributes.items())
    return f"<{name}{given}>{''.join(content)}</{name}>"


def table(lines: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table of texts in a box that scrolls sideways where it must; the first line is its heading.

    Args:
      lines: equally long.
      left: columns of words; the others, of numbers, are aligned to the right.
    """

    def row(cells: Sequence[str], name: str) -> str:
        return element("tr", *(_cell(cell, name, i < left) for i, cell in enumerate(cells)))

    head = element("thead", row(lines[0], "th"))
    body = element("tbody", *(row(line, "td") for line in lines[1:]))
    return element("div", element("table", head, body), class_="scroll", tabindex="0")


_QUIET = ("not measured", "not on record", "-")


def _cell(text: str, name: str, words: bool, more: str = "") -> str:
    content = element("span", escaped(text), class_="quiet") if text in _QUIET else escaped(text)
    return element(name, content, more, **({"class_": "words"} if words else {}))


def beside_the_paper(lines: Sequence[Sequence[str]]) -> str:
    """A table in which a column ``NAME, paper`` stands below the numbers of ``NAME``, in the same places."""
    theirs = {i for i, name in enumerate(lines[0]) if i and name == f"{lines[0][i - 1]}, paper"}
    if not theirs:
        return table(lines)

    def row(cells: Sequence[str], name: str) -> str:
        parts = []
        for i, text in enumerate(cells):
            if i in theirs:
                continue
            below = cells[i + 1] if i + 1 in theirs and name == "td" else ""
            second = element("small", escaped(f"paper {below}")) if below else ""
            parts.append(_cell(text, name, i == 0, second))
        return element("tr", *parts)

    head = element("thead", row(lines[0], "th"))
    body = element("tbody", *(row(line, "td") for line in lines[1:]))
    return element("div", element("table", head, body), class_="scroll", tabindex="0")


def notes(sentences: Iterable[str]) -> str:
    """A list of small remarks; nothing for none."""
    items = [element("li", escaped(sentence)) for sentence in sentences]
    return element("ul", *items, class_="notes") if items else ""


def section(title: str, anchor: str, *content: str) -> str:
    """A part of the page with a heading that can be linked to."""
    return element("section", element("h2", escaped(title)), *content, id=anchor)
