"""Two drawings of many outcomes at once: a fan of paths, and how their ends are spread."""

import html
from typing import Any

import plotly.graph_objects as go

from plusultra_core.arrays import Float32Array
from plusultra_core.reporting.charts import Chart, Series

_FEW = 20
"""Outcomes below which each is shown as a point and no shape is made up around them."""


def fans(chart: Chart) -> list[Any]:
    """Lines, each on the band between its low and high; the widest band first, so that the narrower lie on it."""
    known = [(series, series.low, series.high) for series in chart.series]
    traces: list[Any] = [_band(series, low, high) for series, low, high in known if low is not None and high is not None]
    traces += [
        go.Scatter(
            x=list(series.x),
            y=series.y,
            name=_safe(series.name),
            mode="lines",
            line={"color": series.colour, "width": 1.2 if series.dashed else 2.0, "dash": "dot" if series.dashed else "solid"},
            hovertemplate="%{y:.4~g}",
        )
        for series in chart.series
        if series.name
    ]
    return traces


def _band(series: Series, low: Float32Array, high: Float32Array) -> Any:
    return go.Scatter(
        x=[*series.x, *reversed(series.x)],
        y=[*high.tolist(), *reversed(low.tolist())],
        fill="toself",
        fillcolor=_faint(series.colour),
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
    )


def spreads(chart: Chart) -> list[Any]:
    """One shape a series: its outcomes as points, with their density where there are enough of them."""
    return [_violin(series) if series.y.size >= _FEW else _points(series) for series in chart.series]


def _violin(series: Series) -> Any:
    return go.Violin(
        y=series.y,
        name=_safe(series.name),
        line={"color": series.colour, "width": 1.4},
        fillcolor=_faint(series.colour),
        box={"visible": True, "width": 0.18},
        points="all",
        jitter=0.35,
        pointpos=0,
        marker={"size": 3, "opacity": 0.5, "color": series.colour},
        spanmode="hard",
        text=[_safe(note) for note in series.notes],
        hoveron="points",
        hovertemplate="%{text}: %{y:.1%}<extra></extra>",
        showlegend=False,
    )


def _points(series: Series) -> Any:
    return go.Box(
        y=series.y,
        name=_safe(series.name),
        line={"color": series.colour, "width": 1.4},
        fillcolor=_faint(series.colour),
        boxpoints="all",
        jitter=0.35,
        pointpos=0,
        marker={"size": 5, "opacity": 0.7, "color": series.colour},
        text=[_safe(note) for note in series.notes],
        hoveron="points",
        hovertemplate="%{text}: %{y:.1%}<extra></extra>",
        showlegend=False,
    )


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.15)"


def _safe(text: str) -> str:
    return html.escape(text, quote=False)
