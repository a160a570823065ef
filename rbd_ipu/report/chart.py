"""A panel as inline SVG, with its numbers beside it for the page's script."""

import json
import math
from typing import Any, Callable, Dict, List, Sequence, Tuple

from rbd_ipu.paper.figure import Line, Panel, without_paper
from rbd_ipu.report.markup import element, escaped
from rbd_ipu.report.style import LIGHT

WIDTH, HEIGHT = 420, 270
LEFT, RIGHT, TOP, BOTTOM = 52, 8, 10, 40
_POINTS = 200  # of a line: more than a screen shows
_FEW = 7  # places on the axis: each gets its number


def ticks(low: float, high: float, about: int = 5, least: float = 0.0) -> List[float]:
    """Round numbers that cover [low, high], about so many and at least so far apart.

    Example:
      >>> ticks(0.0, 97.0), ticks(10.33, 10.33)
      ([0.0, 20.0, 40.0, 60.0, 80.0, 100.0], [10.2, 10.4])
    """
    span = (high - low) or max(abs(high) * 0.05, 1e-6)
    step = 10.0 ** math.floor(math.log10(span / about))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= about)
    step = max(step, least)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    return [round(number * step, 12) for number in range(first, last + 1)]


def chart(panel: Panel, colours: Dict[str, int]) -> str:
    """A ``<figure>`` of a panel that has lines; ``colours`` has the number of the colour by name of the line."""
    lines = [_thinned(line) for line in panel.lines]
    across, columns = _x_axis(panel, [x for line in lines for x in line.x])
    down, rows = _y_axis(panel, lines)
    parts = [_frame(panel, rows, columns, across, down)]
    parts += [_drawn(line, colours[line.name], across, down, panel.dots) for line in lines]
    parts.append(f'<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    label = f"{panel.title}: {panel.ylabel} against {panel.xlabel}"
    svg = element("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label)
    key = element("ul", *(_key(line, colours[line.name]) for line in lines), class_="key")
    data = {"width": WIDTH, "xlabel": panel.xlabel, "lines": [_data(line, colours, across) for line in lines]}
    tip = element("div", class_="tip")
    caption = element("figcaption", escaped(panel.title))
    return element("figure", caption, svg, key, tip, data_chart=json.dumps(data, separators=(",", ":")))


def colours_of(panels: Sequence[Panel]) -> Dict[str, int]:
    """A colour for each name, the same in all panels, and for the paper's line beside ours."""
    every = [line.name for panel in panels for line in panel.lines]
    numbers = {name: i for i, name in enumerate(dict.fromkeys(map(without_paper, every)))}
    return {name: numbers[without_paper(name)] % len(LIGHT) for name in every}


Axis = Callable[[float], float]


def _x_axis(panel: Panel, values: List[float]) -> Tuple[Axis, List[float]]:
    """Where an x lies, and the numbers to write below."""
    log = panel.log_x
    place: Axis = math.log10 if log else float
    low, high = place(min(values)), place(max(values))
    if low == high:
        low, high = low - 0.5, high + 0.5

    def across(x: float) -> float:
        return round(LEFT + (place(x) - low) / (high - low) * (WIDTH - LEFT - RIGHT - 10) + 5, 1)

    if len(set(values)) <= _FEW:
        marks = _apart(sorted(set(values)), across)
    elif log:
        marks = [10.0**power for power in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)]
    else:
        marks = [
            mark for mark in ticks(low, high, least=1.0 if panel.xlabel == "epoch" else 0.0) if low <= mark <= high
        ]
    return across, marks or sorted({min(values), max(values)})


def _y_axis(panel: Panel, lines: Sequence[Line]) -> Tuple[Axis, List[float]]:
    """Where a y lies, and the numbers to write beside; on a logarithmic axis a band may leave by the bottom."""
    low = min(y for line in lines for y in line.y)
    high = max(y + s for line in lines for y, s in zip(line.y, line.std))
    log = panel.log_y and low > 0
    if log:
        powers = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 2)
        rows = [10.0**power for power in powers]
    else:
        rows = ticks(min(y - s for line in lines for y, s in zip(line.y, line.std)), high)
    place: Axis = (lambda y: math.log10(max(y, rows[0]))) if log else float
    first, last = place(rows[0]), place(rows[-1])

    def down(y: float) -> float:
        return round(HEIGHT - BOTTOM - (place(y) - first) / (last - first) * (HEIGHT - BOTTOM - TOP), 1)

    return down, rows


def _apart(marks: List[float], across: Axis) -> List[float]:
    """Those that have room for their numbers."""
    kept = marks[:1]
    for mark in marks[1:]:
        if across(mark) - across(kept[-1]) >= 28:
            kept.append(mark)
    return kept


def _frame(panel: Panel, rows: List[float], columns: List[float], across: Axis, down: Axis) -> str:
    parts = []
    for y in rows:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down(y)}" y2="{down(y)}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{down(y) + 4}" text-anchor="end">{y:g}</text>')
    for x in columns:
        anchor = "end" if across(x) > WIDTH - 20 and x >= 100 else "middle"
        parts.append(f'<text x="{across(x)}" y="{HEIGHT - BOTTOM + 17}" text-anchor="{anchor}">{x:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    axes = f"{panel.ylabel} against {panel.xlabel}"
    parts.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escaped(axes)}</text>')
    return "".join(parts)


def _drawn(line: Line, colour: int, across: Axis, down: Axis, dots: bool) -> str:
    paint = f"var(--c{colour})"
    top = [f"{across(x)},{down(y + s)}" for x, y, s in zip(line.x, line.y, line.std)]
    below = [f"{across(x)},{down(y - s)}" for x, y, s in zip(line.x, line.y, line.std)]
    middle = [f"{across(x)},{down(y)}" for x, y in zip(line.x, line.y)]
    parts = []
    if not line.n:
        return _printed(line, paint, across, down)
    if any(line.std):
        parts.append(f'<polygon class="band" fill="{paint}" points="{" ".join(top + below[::-1])}"/>')
    parts.append(f'<polyline class="line" stroke="{paint}" points="{" ".join(middle)}"/>')
    if dots or len(line.x) < 12:
        centres = (f'cx="{across(x)}" cy="{down(y)}"' for x, y in zip(line.x, line.y))
        parts += [f'<circle {centre} r="3" fill="{paint}"/>' for centre in centres]
    if line.switch is not None and line.x[0] <= line.switch <= line.x[-1]:
        x = across(line.switch)
        parts.append(f'<line class="switch" stroke="{paint}" x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    return "".join(parts)


def _printed(line: Line, paint: str, across: Axis, down: Axis) -> str:
    """The paper's points: hollow, with bars for their deviation, and a dashed line where there are several."""
    points = " ".join(f"{across(x)},{down(y)}" for x, y in zip(line.x, line.y))
    parts = [f'<polyline class="line printed" stroke="{paint}" points="{points}"/>'] if len(line.x) > 1 else []
    for x, y, s in zip(line.x, line.y, line.std):
        bar = f'x1="{across(x)}" x2="{across(x)}" y1="{down(y - s)}" y2="{down(y + s)}"'
        parts.append(f'<line stroke="{paint}" {bar}/>')
        parts.append(f'<circle class="printed" stroke="{paint}" cx="{across(x)}" cy="{down(y)}" r="4"/>')
    return "".join(parts)


def _key(line: Line, colour: int) -> str:
    kind = {} if line.n else {"class_": "printed"}
    swatch = element("i", style=f"{'background' if line.n else 'border-color'}:var(--c{colour})", **kind)
    runs = f" ({line.n} runs)" if line.n > 1 else ""
    return element("li", swatch, escaped(line.name + runs))


def _data(line: Line, colours: Dict[str, int], across: Axis) -> Dict[str, Any]:
    text = [f"{y:.4g}" + (f" ± {s:.2g}" if s else "") for y, s in zip(line.y, line.std)]
    return {
        "name": line.name,
        "colour": colours[line.name],
        "at": [across(x) for x in line.x],
        "x": [f"{x:g}" for x in line.x],
        "y": [float(f"{y:.5g}") for y in line.y],
        "text": text,
    }


def _thinned(line: Line) -> Line:
    """At most about 200 points, the last among them."""
    step = max(1, len(line.x) // _POINTS)
    if step == 1:
        return line
    kept = sorted({*range(0, len(line.x), step), len(line.x) - 1})
    x, y, std = ([values[i] for i in kept] for values in (line.x, line.y, line.std))
    return line._replace(x=x, y=y, std=std)
