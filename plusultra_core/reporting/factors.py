"""The factor sheet as one self-contained page: which features have said anything, for how long, when, and whether it pays."""

from pathlib import Path

import numpy as np
import polars as pl

from plusultra_core.artifacts import write_atomic
from plusultra_core.clock import iso
from plusultra_core.evaluation.factors import FactorSheet
from plusultra_core.reporting.charts import COLOURS, CYCLE, Chart, Series
from plusultra_core.reporting.render import page
from plusultra_core.reporting.sections import Section
from plusultra_core.reporting.tables import DASH, Table, count, number, percent, plain, probability

HTML = "factors.html"
_DRAWN = 30  # features in a chart: the surest
_LINES = 6
_TOO_GOOD = 0.2
"""A rank IC beyond it is not found in markets: look for a leak first."""
_Z95 = 1.959963984540054
_STATES = {1: "low", 2: "mid", 3: "high"}
_TREND = {1: "down", 2: "flat", 3: "up"}


def render_factors(sheet: FactorSheet, asset_class: str, snapshot: str, out_dir: Path) -> None:
    """Write factors.html into `out_dir`; equal sheets give equal bytes."""
    parts = build_sections(sheet)
    found = sheet.factors
    context = {
        "title": f"{plain(asset_class).capitalize()} factors, snapshot {snapshot}",
        "subtitle": (
            f"{found.height} features, one by one, on {sheet.num_dates:,} dates whose outcome was known before {iso(sheet.until_ns)[:10]}, "
            f"the start of the locked window; next {_bars(sheet)}"
        ),
        "headline": headline(sheet),
        "verdict": sentences(sheet),
        "outcome": "model" if found["discovery"].any() else "undecided",
        "facts": _facts(sheet),
        "warnings": (),
        "sections": parts,
    }
    write_atomic(out_dir / HTML, page(context, parts).encode())


def _bars(sheet: FactorSheet) -> str:
    return f"{sheet.primary_horizon} bar{'s' if sheet.primary_horizon > 1 else ''}"


def headline(sheet: FactorSheet) -> str:
    """One line that can be quoted."""
    num, judged = int(sheet.factors["discovery"].sum()), sheet.factors.drop_nulls("t").height
    told = f"{num} of {judged} features judged can be told apart from noise"
    return told if num else f"No feature can be told apart from noise: none of {judged} judged"


def sentences(sheet: FactorSheet) -> list[str]:
    """What the page says in words: the method, what was found, what it costs."""
    found = sheet.factors
    how = "across names on each date" if sheet.method == "cross_sectional" else "pooled over time, for names are few"
    lines = [
        f"Rank IC {how}, with Newey-West errors; a discovery has a false-discovery adjusted p-value of at most {sheet.discovery_rate:g}.",
    ]
    if too_good := found.filter(pl.col("rank_ic").cast(pl.Float64).abs() > _TOO_GOOD)["feature"].to_list():
        lines.append(f"Too good to be true, so a leak until the contrary is proved: {', '.join(too_good[:5])}.")
    pays = found.filter(pl.col("discovery") & (pl.col("net_spread_bps") > 0))
    if found["discovery"].any():
        lines.append(
            f"Of the discoveries, {pays.height} would have earned more in the spread of their outer quantiles than trading it costs at "
            f"{sheet.cost_bps:g} bps of fee and half spread, before impact."
        )
    lines.append("A feature judged here was judged on the span that models are trained on: it is no evidence of what comes.")
    return lines


def build_sections(sheet: FactorSheet) -> tuple[Section, ...]:
    """All sections in reading order."""
    surest = sheet.factors.drop_nulls("t").head(_DRAWN)["feature"].to_list()
    if not surest:
        text = ("No feature has enough dates for a verdict.",)
        return (Section("features", "All features", text=text, tables=(_table(sheet),)),)
    signs = {name: 1 if ic >= 0 else -1 for name, ic in sheet.factors.drop_nulls("t").select("feature", "rank_ic").iter_rows()}
    return (
        Section("ic", "Information", text=("The surest features with their 95 % intervals.",), charts=(_intervals(sheet, surest),)),
        Section("decay", "Decay", text=("Rank IC by bars ahead.",), charts=(_decay(sheet, surest),)),
        Section("quantiles", "Quantiles", text=_quantile_text(sheet), charts=(_quantiles(sheet, surest[:_LINES]),)),
        Section("states", "By regime", text=("What a state's rows add to the rank IC, by date.",), charts=_states(sheet, surest)),
        Section("years", "By year", text=("Whether it has held.",), charts=(_years(sheet, surest, signs),)),
        Section("features", "All features", tables=(_table(sheet),), notes=_notes(sheet)),
    )


def _facts(sheet: FactorSheet) -> list[tuple[str, str, str]]:
    found = sheet.factors.drop_nulls("t")
    facts = [
        ("Features", count(sheet.factors.height), f"{sheet.factors.height - found.height} without a verdict"),
        ("Discoveries", count(int(sheet.factors["discovery"].sum())), f"at a false-discovery rate of {sheet.discovery_rate:g}"),
    ]
    facts += [
        (plain(row["feature"]), number(row["rank_ic"], 3), f"t {number(row['t'], 1)}, q {probability(row['q'])}")
        for row in found.head(3).iter_rows(named=True)
    ]
    return facts


def _intervals(sheet: FactorSheet, names: list[str]) -> Chart:
    rows = sheet.factors.filter(pl.col("feature").is_in(names)).reverse()
    series = []
    for row in rows.iter_rows(named=True):
        ic, error = row["rank_ic"], _Z95 * row["rank_ic_se"]
        colour = COLOURS["total"] if row["discovery"] else COLOURS["reference"]
        low, middle, high = (np.array([value], dtype=np.float32) for value in (ic - error, ic, ic + error))
        series.append(Series(row["feature"], (row["feature"],), middle, colour, low=low, high=high))
    return Chart("ic", "Rank IC, discoveries in colour", "interval", tuple(series), x_label="rank IC")


def _map(identifier: str, title: str, table: pl.DataFrame, names: list[str], x_label: str) -> Chart:
    """A row a feature, a column a value of the second column of `table` (feature, x, rank_ic)."""
    x = table.columns[1]
    places = table[x].unique(maintain_order=True).to_list()
    values = {(feature, at): ic for feature, at, ic in table.iter_rows()}
    series = []
    for name in names:
        y = np.array([np.nan if (ic := values.get((name, at))) is None else ic for at in places], dtype=np.float32)
        series.append(Series(name, tuple(str(at) for at in places), y, COLOURS["total"]))
    return Chart(identifier, title, "diverging", tuple(series), x_label=x_label)


def _decay(sheet: FactorSheet, names: list[str]) -> Chart:
    return _map("decay", "Rank IC over horizons", sheet.decay.select("feature", "horizon", "rank_ic"), names, "bars ahead")


def _quantiles(sheet: FactorSheet, names: list[str]) -> Chart:
    series = []
    for i, name in enumerate(names):
        rows = sheet.quantiles.filter(pl.col("feature") == name).sort("quantile")
        x = tuple(float(q) for q in rows["quantile"])
        series.append(Series(name, x, rows["ret_bps"].to_numpy().astype(np.float32), CYCLE[i % len(CYCLE)]))
    title = "Mean log return by quantile of the feature"
    return Chart("quantiles", title, "line", tuple(series), x_label="quantile, 1 lowest", y_label=f"bps in {_bars(sheet)}")


def _quantile_text(sheet: FactorSheet) -> tuple[str, ...]:
    if sheet.method == "cross_sectional":
        return ("Names of a date are cut into groups of equal size.",)
    return ("Groups are cut over the whole span: they describe, nobody could have traded them.",)


def _states(sheet: FactorSheet, names: list[str]) -> tuple[Chart, ...]:
    charts = []
    for (column,), table in sheet.states.group_by("column", maintain_order=True):
        words = _TREND if column == "trend_state" else _STATES
        named = table.with_columns(pl.col("state").replace_strict(words, default=None, return_dtype=pl.String).fill_null("other"))
        title = plain(str(column).removesuffix("_state"))
        chart = _map(f"states_{column}", f"Rank IC by {title} state", named.select("feature", "state", "rank_ic"), names, title)
        charts.append(chart)
    return tuple(charts)


def _years(sheet: FactorSheet, names: list[str], signs: dict[str, int]) -> Chart:
    table = sheet.years.filter(pl.col("feature").is_in(names)).sort("year")
    turned = table.with_columns(pl.col("rank_ic") * pl.col("feature").replace_strict(signs, return_dtype=pl.Int64))
    title = "Rank IC by year, turned so that the whole span is positive"
    return _map("years", title, turned.select("feature", "year", "rank_ic"), names, "year")


def _table(sheet: FactorSheet) -> Table:
    columns = (
        "feature",
        "coverage",
        "dates",
        "IC",
        "rank IC",
        "t",
        "q",
        "spread, bps",
        "traded",
        "net, bps",
        "break-even, bps",
        "rank autocorr.",
        "years alike",
    )
    rows = [
        (
            row["feature"],
            percent(row["coverage"], 0),
            count(row["num_dates"]),
            number(row["ic"], 3),
            number(row["rank_ic"], 3),
            number(row["t"], 1),
            probability(row["q"]) if row["q"] is not None else DASH,
            number(row["spread_bps"], 1),
            number(row["traded_frac"], 2),
            number(row["net_spread_bps"], 1),
            number(row["breakeven_bps"], 1),
            number(row["rank_autocorr"], 2),
            percent(row["years_same_sign"], 0),
        )
        for row in sheet.factors.iter_rows(named=True)
    ]
    marks = frozenset(int(i) for i in np.flatnonzero(sheet.factors["discovery"].to_numpy()))
    return Table(f"Next {_bars(sheet)}; discoveries are marked", columns, tuple(rows), marks=marks)


def _notes(sheet: FactorSheet) -> tuple[str, ...]:
    return (
        "Spread: mean log return of the highest quantile less that of the lowest over the horizon. "
        "Traded: value bought and sold at each rebalancing, of one side's value. "
        f"Net: the size of the spread less {sheet.cost_bps:g} bps on what is traded, in the direction that the whole span shows: "
        "an upper bound. Break-even: the cost on what is traded at which nothing is left.",
        "Features overlap: adjusted p-values allow for positive dependence, not for features that were tried and left out.",
    )
