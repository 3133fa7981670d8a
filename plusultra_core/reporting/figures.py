"""Charts as Plotly figures: transparent, in the page's font, coloured for light and dark by the page itself."""

import html
from typing import Any

import numpy as np
import plotly.graph_objects as go

from plusultra_core.reporting.charts import COLOURS, Chart, Series
from plusultra_core.reporting.pages.bands import fans, spreads
from plusultra_core.reporting.tables import money

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def figure(chart: Chart) -> go.Figure:
    """The chart for the page. Names are data: they are escaped, and never read as markup, numbers or dates."""
    draw = {
        "line": _lines, "bar": _bars, "interval": _intervals, "waterfall": _waterfall, "heatmap": _heatmap, "diverging": _diverging,
        "fills": _fills, "fan": fans, "spread": spreads, "points": _points,
    }[chart.kind]  # fmt: skip
    return go.Figure(data=draw(chart), layout=_layout(chart))


def _lines(chart: Chart) -> list[Any]:
    form = ".1%" if chart.percent else ".4~g"
    markers = max(len(series.x) for series in chart.series) <= 40 and not chart.dates
    return [
        go.Scatter(
            x=list(series.x),
            y=series.y,
            name=_safe(series.name),
            mode="lines+markers" if markers and not series.dashed else "lines",
            line={"color": series.colour, "width": 1.4 if series.dashed else 2.0, "dash": "dot" if series.dashed else "solid"},
            hovertemplate=f"%{{y:{form}}}",
        )
        for series in chart.series
    ]


def _points(chart: Chart) -> list[Any]:
    return [
        go.Scatter(
            x=list(series.x),
            y=series.y,
            name=_safe(series.name),
            mode="markers+text",
            marker={"color": series.colour, "size": 12},
            text=[_safe(series.name)],
            textposition="bottom center" if place % 2 else "top center",  # neighbours on either side
            cliponaxis=False,
            hovertemplate="%{x:.4~g}: %{y:.3f}",
        )
        for place, series in enumerate(chart.series)
    ]


def _bars(chart: Chart) -> list[Any]:
    if len(chart.series) == 1:
        only = chart.series[0]
        shades = [COLOURS["gain"] if value >= 0 else COLOURS["loss"] for value in only.y.tolist()]
        return [
            go.Bar(x=only.y, y=_labels(only), orientation="h", marker={"color": shades}, name=_safe(only.name), hovertemplate="%{x:,.0f}")
        ]
    form = ".1%" if chart.percent else ".2f"
    return [
        go.Bar(x=_labels(series), y=series.y, name=_safe(series.name), marker={"color": series.colour}, hovertemplate=f"%{{y:{form}}}")
        for series in chart.series
    ]


def _intervals(chart: Chart) -> list[Any]:
    traces: list[Any] = []
    for series in chart.series:
        low, high = series.low, series.high
        assert low is not None and high is not None
        error = {"type": "data", "symmetric": False, "array": high - series.y, "arrayminus": series.y - low, "thickness": 2, "width": 5}
        traces.append(
            go.Scatter(
                x=series.y,
                y=_labels(series),
                mode="markers",
                name=_safe(series.name),
                marker={"color": series.colour, "size": 11},
                error_x={**error, "color": series.colour},
                hovertemplate=f"%{{x:.3f}} ({float(low[0]):.3f} to {float(high[0]):.3f})",
                showlegend=False,
            )
        )
    return traces


def _waterfall(chart: Chart) -> list[Any]:
    only = chart.series[0]
    return [
        go.Waterfall(
            x=_labels(only),
            y=only.y,
            measure=[*["relative"] * (len(only.x) - 1), "total"],
            name=_safe(only.name),
            increasing={"marker": {"color": COLOURS["gain"]}},
            decreasing={"marker": {"color": COLOURS["loss"]}},
            totals={"marker": {"color": COLOURS["total"]}},
            connector={"line": {"color": COLOURS["reference"], "width": 1}},
            text=[money(value) for value in only.y.tolist()],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y:,.0f}",
            showlegend=False,
        )
    ]


def _heatmap(chart: Chart) -> list[Any]:
    grid = np.stack([series.y for series in chart.series])
    return [
        go.Heatmap(
            x=_labels(chart.series[0]),
            y=[_safe(series.name) for series in chart.series],
            z=grid,
            zmin=0,
            zmax=1,
            colorscale=[[0.0, "rgba(47,111,237,0.04)"], [1.0, "rgba(47,111,237,0.9)"]],
            showscale=False,
            text=[[f"{value:.0%}" for value in row] for row in grid.tolist()],
            texttemplate="%{text}",
            hovertemplate="%{y} to %{x}: %{z:.1%}<extra></extra>",
            xgap=2,
            ygap=2,
        )
    ]


def _diverging(chart: Chart) -> list[Any]:
    """A map of signed values around 0, red below and blue above, on one scale."""
    grid = np.stack([series.y for series in chart.series])
    most = float(np.nanmax(np.abs(grid))) if np.isfinite(grid).any() else 1.0
    shown = ".0%" if chart.percent else ".3f"
    return [
        go.Heatmap(
            x=_labels(chart.series[0]),
            y=[_safe(series.name) for series in chart.series],
            z=grid,
            zmin=-most,
            zmax=most,
            colorscale=[[0.0, "rgba(214,69,80,0.9)"], [0.5, "rgba(135,146,166,0.06)"], [1.0, "rgba(47,111,237,0.9)"]],
            showscale=False,
            text=[[f"{value:{shown}}" if value == value else "" for value in row] for row in grid.tolist()],
            texttemplate="%{text}",
            textfont={"size": 10},
            hovertemplate="%{y}, %{x}: %{z:.4f}<extra></extra>",
            xgap=2,
            ygap=2,
        )
    ]


def _fills(chart: Chart) -> list[Any]:
    """Bars (a line where they have no open), fills on them, and the position below. Series: price, position, then one a kind of marker."""
    price, position, *markers = chart.series
    if price.open is None:
        line = {"color": price.colour, "width": 1.4}
        drawn: Any = go.Scatter(x=list(price.x), y=price.y, name=_safe(price.name), mode="lines", line=line, hovertemplate="%{y:.6~g}")
    else:
        drawn = go.Candlestick(
            x=list(price.x),
            open=price.open,
            high=price.high,
            low=price.low,
            close=price.y,
            name=_safe(price.name),
            increasing={"line": {"color": "#6f9c8e", "width": 1.2}, "fillcolor": "#6f9c8e"},
            decreasing={"line": {"color": "#a9858b", "width": 1.2}, "fillcolor": "#a9858b"},
            whiskerwidth=0,
        )
    held = go.Scatter(
        x=list(position.x),
        y=position.y,
        name=_safe(position.name),
        yaxis="y2",
        mode="lines",
        line={"color": position.colour, "width": 1.2, "shape": "hv"},
        fill="tozeroy",
        fillcolor="rgba(47,111,237,0.14)",
        hovertemplate="%{y:,.6~g}",
    )
    return [drawn, held, *(_marked(series) for series in markers)]


def _marked(series: Series) -> Any:
    """Fills as triangles, up where they bought, each with its whole story."""
    up = series.name == "buy"
    return go.Scatter(
        x=list(series.x),
        y=series.y,
        name=_safe(series.name),
        mode="markers",
        marker={
            "symbol": "triangle-up" if up else "triangle-down",
            "color": series.colour,
            "size": series.size,
            "opacity": 0.85,
            "line": {"width": 1, "color": "rgba(255,255,255,0.8)"},
        },
        text=[_safe(note).replace("\n", "<br>") for note in series.notes],
        hovertemplate="%{text}<extra></extra>",
    )


def _layout(chart: Chart) -> dict[str, Any]:
    sideways = chart.kind == "interval" or (chart.kind == "bar" and len(chart.series) == 1)
    rows = len(chart.series) if chart.kind == "interval" else len(chart.series[0].x)
    grid = chart.kind in ("heatmap", "diverging")
    height = max(220, 90 + 26 * rows) if sideways else 280 if chart.kind == "heatmap" else 360
    height = 100 + 22 * len(chart.series) if chart.kind == "diverging" else height
    layout: dict[str, Any] = {
        "font": {"family": _FONT, "size": 13},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 56, "r": 16, "t": 12, "b": 44 if chart.x_label else 28},
        "height": height,
        "hovermode": "x unified" if chart.kind in ("line", "fan") else "closest",
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        "xaxis": {"title": {"text": chart.x_label, "font": {"size": 12}}, "automargin": True, "zeroline": False},
        "yaxis": {"title": {"text": chart.y_label, "font": {"size": 12}}, "automargin": True, "zeroline": False},
    }
    if chart.percent and not grid:
        layout["yaxis"]["tickformat"] = ".1~%"
    if chart.dates:
        layout["xaxis"]["type"] = "date"
    elif chart.kind in ("bar", "waterfall", "heatmap", "diverging") and not sideways:
        layout["xaxis"]["type"] = "category"
    if sideways or grid:
        layout["yaxis"]["type"] = "category"
    if sideways:
        layout["xaxis"] |= {"zeroline": True, "zerolinewidth": 2}
    if grid:
        layout["yaxis"] |= {"autorange": "reversed", "showgrid": False}
        layout["xaxis"]["showgrid"] = False
    if chart.reference is not None:
        line = {"color": COLOURS["reference"], "width": 1.5, "dash": "dash"}
        at = {"y0": chart.reference, "y1": chart.reference, "x0": 0, "x1": 1}
        layout["shapes"] = [{"type": "line", "xref": "paper", "line": line, **at}]
    if chart.kind == "fills":
        layout["height"] = 430
        layout["xaxis"] |= {"rangeslider": {"visible": False}, "anchor": "y2"}
        layout["yaxis"] |= {"domain": [0.3, 1.0], "tickformat": ",.6~r"}
        layout["yaxis2"] = {**layout["yaxis"], "domain": [0.0, 0.22], "tickformat": ",.4~r", "nticks": 4}
        layout["yaxis2"]["title"] = {"text": "position", "font": {"size": 12}}
    if chart.kind == "points":
        layout["xaxis"]["range"] = _roomy([float(place) for series in chart.series for place in series.x])
        layout["yaxis"]["range"] = _roomy(
            [*(float(series.y[0]) for series in chart.series), *([] if chart.reference is None else [chart.reference])]
        )
    layout["showlegend"] = chart.kind in ("fills", "fan") or (chart.kind in ("line", "bar") and len(chart.series) > 1)
    return layout


def _roomy(values: list[float]) -> list[float]:
    """A range in which the names of the outermost points have room."""
    room = 0.2 * (max(values) - min(values)) or 0.1 * (abs(values[0]) or 1.0)
    return [min(values) - room, max(values) + room]


def _labels(series: Series) -> list[str]:
    return [_safe(str(label)) for label in series.x]


def _safe(text: str) -> str:
    return html.escape(text, quote=False)
