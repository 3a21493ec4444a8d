"""Draw charts as SVG text for use inside a page. The same chart and key give the same bytes.

The page sets the colours, so that one drawing serves the light and the dark theme: text and axes are `currentColor`,
the grid is `var(--rule)`, and the n-th curve is `var(--s<n>)`, with n modulo COLOURS. matplotlib is imported when a
chart is drawn.
"""

import io
import itertools
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from masksearch_jax.evals.report.sections import Chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.typing import RcKeyType

COLOURS = 8
_INK, _RULE = "#010101", "#020202"
_STYLES = ("-", "--", "-.", ":")  # in addition to colours, for colour-blind readers
_INCHES = (3.7, 2.5)
_NUMBERS = re.compile(r' (?:d|x|y|x1|x2|y1|y2|points|transform|width|height)="[^"]*"')


def svg(chart: Chart, key: str) -> str:
    """Return `<svg ..>..</svg>` without width, height or any URL. key: unique on the page, since ids are global.

    Raises ImportError that says what to install.
    """
    try:
        import matplotlib
        import matplotlib.style
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("report.html needs matplotlib: pip install -c launch/constraints.txt '.[report]'") from error
    settings: dict[RcKeyType, object] = {
        "svg.fonttype": "none", "svg.hashsalt": key, "text.parse_math": False, "font.size": 8, "text.color": _INK,
        "axes.edgecolor": _INK, "axes.labelcolor": _INK, "xtick.color": _INK, "ytick.color": _INK, "grid.color": _RULE,
        "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "lines.linewidth": 1.3,
        "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none", "legend.frameon": False,
        "legend.fontsize": 7, "axes.formatter.useoffset": False,
    }  # fmt: skip
    with matplotlib.style.context("default"), matplotlib.rc_context(settings):
        figure = Figure(figsize=(_INCHES[0], _height(chart)), layout="constrained")
        axes = figure.add_subplot()
        {"line": _lines, "stack": _stack, "bars": _bars, "parts": _parts}[chart.kind](axes, chart)
        axes.set_xlabel(chart.x_label)
        axes.set_ylabel(chart.y_label)
        if len(chart.curves) > 1:
            columns = 2 if max(len(curve.label) for curve in chart.curves) < 22 else 1
            figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns)
        file = io.StringIO()
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    return _for_page(file.getvalue(), chart.title, key)


def file(chart: Chart, colours: str) -> str:
    """Return the chart as an SVG document. colours: style sheet that sets --ink, --paper, --rule and --s<n>."""
    style = "svg { color: var(--ink); background: var(--paper); font-family: sans-serif; stroke-linejoin: round }"
    head, rest = svg(chart, "c").split(">", 1)
    head = head.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    return f"{head}>\n<style>\n{colours}{style}\n</style>{rest}\n"


def _height(chart: Chart) -> float:
    if chart.kind == "bars":
        return max(1.2, 0.6 + 0.17 * len(chart.names) * len(chart.curves))
    return 1.0 + 0.09 * len(chart.curves) if chart.kind == "parts" else _INCHES[1]


def _colour(index: int) -> str:
    return f"#0301{index % COLOURS:02x}"


def _lines(axes: "Axes", chart: Chart) -> None:
    for index, curve in enumerate(chart.curves):
        colour, style = _colour(index), _STYLES[index % len(_STYLES)]
        marker = "o" if len(curve.x) <= 12 else None
        axes.plot(curve.x, curve.y, label=curve.label, marker=marker, markersize=3, color=colour, linestyle=style)
        if curve.half_width and any(width is not None for width in curve.half_width):
            low = [y - (width or 0.0) for y, width in zip(curve.y, curve.half_width, strict=True)]
            high = [y + (width or 0.0) for y, width in zip(curve.y, curve.half_width, strict=True)]
            axes.fill_between(curve.x, low, high, color=_colour(index), alpha=0.18, linewidth=0)
    if chart.log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")  # the default formatter writes TeX
        axes.yaxis.set_minor_formatter("")
    whole = [x for curve in chart.curves for x in curve.x]
    if all(x == int(x) for x in whole):
        axes.locator_params(axis="x", integer=True, nbins=6)
    axes.grid(True, linewidth=0.5)


def _stack(axes: "Axes", chart: Chart) -> None:
    parts, labels = [curve.y for curve in chart.curves], [curve.label for curve in chart.curves]
    colours = [_colour(index) for index in range(len(parts))]
    axes.stackplot(chart.curves[0].x, parts, labels=labels, colors=colours, alpha=0.75, linewidth=0)
    axes.locator_params(axis="x", integer=True, nbins=6)
    axes.margins(0)


def _parts(axes: "Axes", chart: Chart) -> None:
    start = 0.0
    for index, curve in enumerate(chart.curves):
        axes.barh(0, curve.y[0], 1.0, left=start, label=curve.label, color=_colour(index), alpha=0.75)
        start += curve.y[0]
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.margins(0)


def _bars(axes: "Axes", chart: Chart) -> None:
    thick = 0.8 / len(chart.curves)
    for index, curve in enumerate(chart.curves):
        at = [x + (index - (len(chart.curves) - 1) / 2) * thick for x in curve.x]
        error = [width or 0.0 for width in curve.half_width] if curve.half_width else None
        axes.barh(
            at, curve.y, thick * 0.9, xerr=error, label=curve.label, color=_colour(index), ecolor=_INK,
            error_kw={"elinewidth": 0.8, "capsize": 1.5},
        )  # fmt: skip
    axes.set_yticks(range(len(chart.names)), chart.names)
    axes.set_ylim(len(chart.names) - 0.5, -0.5)
    axes.grid(True, axis="x", linewidth=0.5)
    axes.set_axisbelow(True)


def _for_page(text: str, title: str, key: str) -> str:
    """Remove what only an SVG file needs, round coordinates, and make ids unique to this chart."""
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    head, rest = text.split(">", 1)
    view = re.findall(r'viewBox="[^"]*"', head)[0]
    rest = rest.replace("xlink:href", "href")
    rest = _NUMBERS.sub(lambda match: re.sub(r"\d+\.\d{3,}", lambda n: f"{float(n[0]):.2f}", match[0]), rest)
    rest = re.sub(r"font: (?:\w+ )*?([\d.]+px) [^;\"]*", r"font-size: \1", rest)
    used = {*re.findall(r"url\(#([^)]+)\)", rest), *re.findall(r'href="#([^"]+)"', rest)}
    names = {old: f"{key}-{number}" for number, old in enumerate(sorted(used, key=rest.index))}
    rest = re.sub(r' id="([^"]*)"', lambda m: f' id="{names[m[1]]}"' if m[1] in names else "", rest)
    rest = re.sub(r"url\(#([^)]+)\)", lambda m: f"url(#{names[m[1]]})", rest)
    rest = re.sub(r'href="#([^"]+)"', lambda m: f'href="#{names[m[1]]}"', rest)
    colours = {_INK: "currentColor", _RULE: "var(--rule)"} | {_colour(i): f"var(--s{i})" for i in range(COLOURS)}
    for placeholder, colour in colours.items():
        rest = rest.replace(placeholder, colour)
    label = "".join({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}.get(char, char) for char in title)
    rest = "\n".join(line for line in (line.strip() for line in rest.splitlines()) if line)
    return f'<svg {view} role="img" aria-label="{label}">{rest}'


def keys() -> Iterator[str]:
    """Yield 'c1', 'c2', ..: a key for each chart of a page."""
    return (f"c{number}" for number in itertools.count(1))
