"""What is drawn, apart from how: each chart is read from the scorecard once and drawn twice, by Plotly and by matplotlib."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from plusultra_core.arrays import Float32Array, Int64Array
from plusultra_core.clock import iso
from plusultra_core.evaluation import metrics
from plusultra_core.reporting.tables import plain

Kind = Literal["line", "bar", "interval", "waterfall", "heatmap", "diverging", "fills", "fan", "spread", "points"]

COLOURS = {
    "policy": "#2f6fed",
    "sized_hybrid": "#d9820f",
    "sized_linear": "#0f9f6e",
    "buy_and_hold": "#8792a6",
    "random": "#b48ad6",
    "no_trade": "#b6bdc9",
    "equal_weight": "#a3701a",
    "mean_variance": "#14a3b8",
    "hybrid": "#d9820f",
    "linear": "#0f9f6e",
    "gain": "#0f9f6e",
    "loss": "#d64550",
    "total": "#2f6fed",
    "reference": "#8792a6",
}
_BASELINES = ("no_trade", "buy_and_hold", "equal_weight", "random")
_TITLES = {"hmm": "HMM", "ppo": "PPO"}
_THIN_BIN = 0.01
CYCLE = ("#2f6fed", "#d9820f", "#0f9f6e", "#b48ad6", "#d64550", "#8792a6", "#14a3b8", "#a3701a")
TERM_NAMES = {
    "price_pnl": "price gain",
    "spread": "spread",
    "impact": "impact",
    "latency_drift": "latency drift",
    "fees": "fees",
    "funding": "funding",
    "borrow": "borrow",
}


@dataclass(frozen=True, slots=True)
class Series:
    """One line, set of bars, or row of a heatmap."""

    name: str
    x: tuple[str, ...] | tuple[float, ...]
    y: Float32Array
    colour: str
    dashed: bool = False
    low: Float32Array | None = None
    high: Float32Array | None = None
    open: Float32Array | None = None
    size: Float32Array | None = None
    """Of each marker, in pixels."""
    notes: tuple[str, ...] = ()
    """What is said of each point when one points at it; lines end in a line break."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing of a few series; `identifier` is its place in the page and its file name."""

    identifier: str
    title: str
    kind: Kind
    series: tuple[Series, ...]
    x_label: str = ""
    y_label: str = ""
    percent: bool = False
    dates: bool = False
    reference: float | None = None
    """Where a perfect forecast would stand, as a line across."""


def downsample(y_T: Float32Array, max_points: int) -> Int64Array:
    """Rows to keep so that no peak or trough is lost: first, last, and least and greatest of each bucket."""
    if y_T.size <= max_points:
        return np.arange(y_T.size, dtype=np.int64)
    buckets = max(max_points // 2 - 1, 1)
    width = -(-y_T.size // buckets)
    padded = np.concatenate([y_T, np.full(width * buckets - y_T.size, y_T[-1], dtype=y_T.dtype)]).reshape(buckets, width)
    starts = np.arange(buckets) * width
    rows = np.concatenate([starts + padded.argmin(axis=1), starts + padded.argmax(axis=1), [0, y_T.size - 1]])
    return np.unique(np.minimum(rows, y_T.size - 1)).astype(np.int64)


def equity_and_drawdown(runs: Mapping[str, Mapping[str, Any]], prefix: str, span: str, max_points: int) -> tuple[Chart, Chart]:
    """Wealth from 1 and loss from its peak of every run: `{name: {"ts_ns": [...], "ret": [...]}}`."""
    wealth: list[Series] = []
    depth: list[Series] = []
    for name, run in runs.items():
        ret_T = np.asarray(run["ret"], dtype=np.float64)
        for target, curve_T in ((wealth, metrics.equity_curve(ret_T)), (depth, -metrics.drawdown_curve(ret_T))):
            y_T = curve_T.astype(np.float32)
            keep = downsample(y_T, max_points)
            x = tuple(iso(run["ts_ns"][row]) for row in keep.tolist())
            target.append(Series(plain(name), x, y_T[keep], colour(name), dashed=name in _BASELINES))
    return (
        Chart(f"{prefix}_equity", f"Wealth after costs, {span}", "line", tuple(wealth), y_label="wealth, start = 1", dates=True),
        Chart(f"{prefix}_drawdown", f"Drawdown, {span}", "line", tuple(depth), y_label="loss from peak", percent=True, dates=True),
    )


def sharpe_intervals(card: Mapping[str, Any]) -> Chart | None:
    """Sharpe of every strategy with its interval, best at the top."""
    rows = [(name, entry["metrics"]["sharpe"], entry["ci"]["sharpe"]) for name, entry in card["strategies"].items()]
    rows = sorted([row for row in rows if row[1] is not None and row[2]], key=lambda row: row[1])
    if not rows:
        return None
    series = tuple(
        Series(plain(name), (plain(name),), _f32([value]), colour(name), low=_f32([ci[0]]), high=_f32([ci[1]])) for name, value, ci in rows
    )
    return Chart("sharpe_intervals", "Sharpe a year after costs, with its interval", "interval", series, x_label="Sharpe ratio")


def seeds(found: Mapping[str, Any]) -> Chart | None:
    """Validation of every seed against its Sharpe on the locked window; the line is the best baseline."""
    runs = [run for run in found["runs"] if run["sharpe"] is not None]
    if len({(run["valid_reward"], run["sharpe"]) for run in runs}) < 2:
        return None
    series = tuple(
        Series(
            f"seed {run['seed']}{', served' if run['is_served'] else ''}",
            (float(run["valid_reward"]),),
            _f32([run["sharpe"]]),
            COLOURS["policy" if run["is_served"] else "reference"],
        )
        for run in sorted(runs, key=lambda run: (run["valid_reward"], run["is_served"]))
    )
    line = None if found["best_baseline"] is None else found["best_baseline_sharpe"]
    dashed = "" if line is None else f"; dashed: {plain(found['best_baseline'])}"
    title = f"Validation against the locked window, one point a seed{dashed}"
    labels = ("validation reward a bar", "Sharpe, locked window")
    return Chart("policy_seeds", title, "points", series, *labels, reference=line)


def waterfall(card: Mapping[str, Any], name: str) -> Chart:
    """From price gain through every cost to the net gain of one strategy."""
    costs = card["strategies"][name]["costs"]
    values = [costs["terms_ccy"][term] for term in TERM_NAMES]  # a scorecard read back from JSON has its keys in the order of the alphabet
    series = Series(plain(name), (*TERM_NAMES.values(), "net"), _f32([*values, costs["net_ccy"]]), COLOURS["total"])
    return Chart("cost_waterfall", f"From price gain to net gain: {plain(name)}", "waterfall", (series,), y_label=card["currency"])


def attribution(rows: Sequence[Mapping[str, Any]], identifier: str, title: str, currency: str) -> Chart:
    """Net gain by name, least at the bottom."""
    ordered = sorted(rows, key=lambda row: row["net_ccy"])
    series = Series("net gain", tuple(str(row["name"]) for row in ordered), _f32([row["net_ccy"] for row in ordered]), COLOURS["gain"])
    return Chart(identifier, title, "bar", (series,), x_label=currency)


def reliability_of_levels(scored: Mapping[str, Mapping[str, Any]], horizon: str) -> Chart:
    """Observed share below each quantile against its level; on the diagonal it is calibrated."""
    series = [Series("calibrated", (0.0, 1.0), _f32([0.0, 1.0]), COLOURS["reference"], dashed=True)]
    for model, horizons in scored.items():
        if horizon in horizons:
            levels = horizons[horizon]["levels"]
            series.append(Series(plain(model), tuple(float(level) for level in levels), _f32(list(levels.values())), colour(model)))
    title = f"Reliability of quantiles, horizon {horizon}"
    return Chart("reliability", title, "line", tuple(series), x_label="quantile level", y_label="share of outcomes below")


def pit(scored: Mapping[str, Mapping[str, Any]], horizon: str) -> Chart:
    """Share of outcomes between neighbouring quantiles over what it should be: 1 everywhere when calibrated."""
    series: list[Series] = []
    for model, horizons in scored.items():
        if horizon in horizons:
            shares = horizons[horizon]["pit"]
            levels = [0.0, *(float(level) for level in horizons[horizon]["levels"]), 1.0]
            labels = tuple(f"{100 * low:g}–{100 * high:g}" for low, high in pairwise(levels))
            ratio = np.asarray(shares["observed"]) / np.asarray(shares["expected"])
            series.append(Series(plain(model), labels, ratio.astype(np.float32), colour(model)))
    title = f"PIT: outcomes between quantiles, observed over expected, horizon {horizon}"
    return Chart("pit", title, "bar", tuple(series), x_label="between quantiles, %", y_label="observed / expected", reference=1.0)


def direction_reliability(scored: Mapping[str, Mapping[str, Any]], horizon: str) -> Chart | None:
    """How often the likeliest direction came, against the probability it was given, in bins that hold 1 % of the rows."""
    series: list[Series] = []
    for model, horizons in scored.items():
        bins = [row for row in horizons[horizon]["reliability"] if row[3] >= _THIN_BIN] if horizon in horizons else []
        if bins:
            series.append(Series(plain(model), tuple(row[1] for row in bins), _f32([row[2] for row in bins]), colour(model)))
    if not series:
        return None
    ends = [value for line in series for value in (min(line.x), max(line.x))]
    diagonal = (float(min(ends)), float(max(ends)))
    series.insert(0, Series("calibrated", diagonal, _f32(list(diagonal)), COLOURS["reference"], dashed=True))
    title = f"Reliability of directions, horizon {horizon}"
    return Chart("direction_reliability", title, "line", tuple(series), x_label="probability of the likeliest", y_label="how often it came")


def coverage_by_regime(scored: Mapping[str, Mapping[str, Any]], horizon: str) -> Chart:
    """Coverage of the widest interval in each volatility regime."""
    series: list[Series] = []
    for model, horizons in scored.items():
        if horizon in horizons:
            states = horizons[horizon]["coverage_by_regime"]
            values = [entry.get("coverage_90") for entry in states.values()]
            series.append(Series(plain(model), tuple(f"{state} volatility" for state in states), _f32(values), colour(model)))
    title = f"Coverage of the 90 % interval by volatility regime, horizon {horizon}"
    return Chart("coverage_by_regime", title, "bar", tuple(series), y_label="coverage", percent=True, reference=0.9)


def transitions(card: Mapping[str, Any], kind: str) -> Chart | None:
    """How often a state is followed by each state on the next bar."""
    found = card["regimes"][kind]
    rows = [(state, row) for state, row in zip(found["states"], found["transitions"], strict=True) if row is not None]
    if not rows:
        return None
    series = tuple(Series(state, tuple(found["states"]), _f32(row), COLOURS["total"]) for state, row in rows)
    return Chart(f"transitions_{kind}", f"{_titled(kind)}: next state", "heatmap", series, "next bar", "this bar", percent=True)


def history(stage: str, rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Loss (or reward) of a training stage by epoch: a chart for each model, a line for each fold and split."""
    step = next((name for name in ("epoch", "update", "step") if rows and name in rows[0]), None)
    wanted = ("train_loss", "valid_loss", "valid_reward")
    columns = [name for name in wanted if any(isinstance(row.get(name), int | float) for row in rows)]
    if step is None or not columns:
        return []
    drawn: list[Chart] = []
    for model in dict.fromkeys(str(row.get("model", stage)) for row in rows):
        own = [row for row in rows if str(row.get("model", stage)) == model]
        series: list[Series] = []
        for index, fold in enumerate(dict.fromkeys(row.get("fold") for row in own)):
            part = [row for row in own if row.get("fold") == fold]
            shade = CYCLE[index % len(CYCLE)]
            for column in columns:
                known = [row for row in part if row.get(column) is not None]
                label = plain(column) if fold is None else f"fold {fold}, {plain(column)}"
                x = tuple(float(row[step]) for row in known)
                series.append(Series(label, x, _f32([row[column] for row in known]), shade, dashed=column.startswith("train")))
        name = _titled(stage) if model == stage else f"{_titled(stage)}, {plain(model)}"
        identifier = re.sub(r"[^A-Za-z0-9_-]", "_", f"history_{stage}_{model}")
        drawn.append(Chart(identifier, f"{name}: {plain(columns[-1])} by {step}", "line", tuple(series), step, plain(columns[-1])))
    return drawn


def colour(name: str) -> str:
    """The fixed colour of a strategy or model; unknown names share the cycle by their letters."""
    return COLOURS.get(name) or CYCLE[sum(name.encode()) % len(CYCLE)]


def _titled(name: str) -> str:
    return _TITLES.get(name, plain(name).capitalize())


def _f32(values: Sequence[float | None]) -> Float32Array:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float32)
