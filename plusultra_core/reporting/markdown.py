"""The Markdown form: text that no symbol can turn into markup, and the charts as PNG."""

import io
import math
import re
from datetime import datetime
from typing import Any

import matplotlib.dates
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from plusultra_core.reporting.charts import COLOURS, Chart
from plusultra_core.reporting.tables import money

_INK = "#1a2233"
_LINE = "#dfe3ea"
_MARKUP = re.compile(r"([\\`*_{}\[\]#|~$<>&])")
_WIDTH_INCH = 9.0


def escape(text: str) -> str:
    """The same words as Markdown that shows them as they are: no link, no table cell, no HTML, no second line."""
    flat = " ".join(text.split())
    return _MARKUP.sub(lambda match: {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(match[1], f"\\{match[1]}"), flat)


def png(chart: Chart, dpi: int) -> bytes:
    """The chart as PNG; the same bytes for the same chart."""
    sideways = chart.kind == "interval" or (chart.kind == "bar" and len(chart.series) == 1)
    rows = len(chart.series) if chart.kind == "interval" else len(chart.series[0].x)
    height = max(2.4, 0.9 + 0.27 * rows) if sideways else 3.4
    figure = Figure(figsize=(4.2 if chart.kind == "heatmap" else _WIDTH_INCH, height), dpi=dpi, layout="constrained")
    axes = figure.add_subplot()
    draw = {"line": _lines, "bar": _bars, "interval": _intervals, "waterfall": _waterfall, "heatmap": _heatmap, "points": _points}
    draw[chart.kind](axes, chart)
    _dress(axes, chart, sideways)
    target = io.BytesIO()
    canvas: Any = FigureCanvasAgg(figure)
    canvas.print_png(target, metadata={"Software": None})
    return target.getvalue()


def _lines(axes: Axes, chart: Chart) -> None:
    for series in chart.series:
        x: Any = [datetime.fromisoformat(str(value)) for value in series.x] if chart.dates else series.x
        axes.plot(x, series.y, color=series.colour, label=_plain(series.name), linestyle=":" if series.dashed else "-", linewidth=1.4)
    if chart.dates:
        dates: Any = matplotlib.dates
        locator = dates.AutoDateLocator()
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))


def _points(axes: Axes, chart: Chart) -> None:
    for number, series in enumerate(chart.series):
        place: Any = (float(series.x[0]), float(series.y[0]))
        axes.plot(*place, "o", color=series.colour, markersize=7)
        side = -1 if number % 2 else 1
        va = "top" if number % 2 else "bottom"
        axes.annotate(_plain(series.name), place, ha="center", va=va, fontsize=8.5, xytext=(0, 6 * side), textcoords="offset points")
    axes.margins(0.15, 0.25)


def _bars(axes: Axes, chart: Chart) -> None:
    if len(chart.series) == 1:
        only = chart.series[0]
        shades = [COLOURS["gain"] if value >= 0 else COLOURS["loss"] for value in only.y.tolist()]
        axes.barh(np.arange(len(only.x)), only.y, color=shades)
        axes.set_yticks(np.arange(len(only.x)), [_plain(str(label)) for label in only.x])
        return
    width = 0.8 / max(len(chart.series), 1)
    for index, series in enumerate(chart.series):
        at = np.arange(len(series.x)) + (index - (len(chart.series) - 1) / 2) * width
        axes.bar(at, series.y, width, color=series.colour, label=_plain(series.name))
    labels = [_plain(str(label)) for label in chart.series[0].x]
    axes.set_xticks(np.arange(len(labels)), labels)


def _intervals(axes: Axes, chart: Chart) -> None:
    for row, series in enumerate(chart.series):
        assert series.low is not None and series.high is not None
        spread = np.stack([series.y - series.low, series.high - series.y])
        axes.errorbar(series.y, [row], xerr=spread, fmt="o", color=series.colour, capsize=3)
    axes.set_yticks(np.arange(len(chart.series)), [_plain(series.name) for series in chart.series])
    axes.axvline(0.0, color=COLOURS["reference"], linewidth=1.0)


def _waterfall(axes: Axes, chart: Chart) -> None:
    only = chart.series[0]
    steps = only.y[:-1].astype(np.float64)
    starts = np.concatenate([[0.0], np.cumsum(steps)[:-1]])
    shades = [COLOURS["gain"] if value >= 0 else COLOURS["loss"] for value in steps.tolist()]
    at = np.arange(len(only.x))
    axes.bar(at[:-1], steps, bottom=starts, color=shades)
    axes.bar(at[-1:], only.y[-1:], color=COLOURS["total"])
    axes.set_xticks(at, [_plain(str(label)) for label in only.x])
    ends = np.concatenate([starts + steps, only.y[-1:], [0.0]])
    room = 0.12 * max(float(ends.max() - ends.min()), 1e-9)
    axes.set_ylim(float(ends.min()) - (room if ends.min() < 0 else 0.0), float(ends.max()) + room)
    for place, value, start in zip(at.tolist(), only.y.tolist(), [*starts.tolist(), 0.0], strict=True):
        axes.annotate(
            money(value).replace("−", "-"),
            (place, max(start, start + value)),
            ha="center",
            va="bottom",
            fontsize=8,
            xytext=(0, 2),
            textcoords="offset points",
        )


def _heatmap(axes: Axes, chart: Chart) -> None:
    grid = np.stack([series.y for series in chart.series])
    axes.imshow(grid, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    axes.set_xticks(np.arange(grid.shape[1]), [_plain(str(label)) for label in chart.series[0].x])
    axes.set_yticks(np.arange(grid.shape[0]), [_plain(series.name) for series in chart.series])
    for row, values in enumerate(grid.tolist()):
        for column, value in enumerate(values):
            axes.text(
                column,
                row,
                "" if math.isnan(value) else f"{value:.0%}",
                ha="center",
                va="center",
                color="white" if value > 0.6 else _INK,
                fontsize=9,
            )


def _dress(axes: Axes, chart: Chart, sideways: bool) -> None:
    axes.set_title(_plain(chart.title), loc="left", fontsize=10, color=_INK)
    axes.set_xlabel(chart.x_label, fontsize=9)
    axes.set_ylabel(chart.y_label, fontsize=9)
    axes.tick_params(labelsize=8.5, colors=_INK, length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    if chart.kind != "heatmap":
        axes.grid(axis="x" if sideways else "y", color=_LINE, linewidth=0.8)
        axes.set_axisbelow(True)
        if chart.percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    if chart.reference is not None:
        axes.axhline(chart.reference, color=COLOURS["reference"], linewidth=1.0, linestyle="--")
    if chart.kind == "line" or (chart.kind == "bar" and len(chart.series) > 1):
        axes.legend(fontsize=8, frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.14))


def _plain(text: str) -> str:
    """Text that matplotlib takes as it is: no mathematics, no letters without a glyph."""
    return text.replace("–", "-").encode("ascii", "replace").decode().replace("$", r"\$")
