"""The stress page: what every strategy would have come to in hundreds of other worlds, and with other capital."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from plusultra_core.artifacts import write_atomic
from plusultra_core.clock import iso
from plusultra_core.reporting.charts import COLOURS, Chart, Series, colour
from plusultra_core.reporting.pages.execution import Block, ordered, part_of
from plusultra_core.reporting.render import page
from plusultra_core.reporting.sections import Section
from plusultra_core.reporting.tables import Table, count, money, number, percent, plain

HTML = "stress.html"
COSTS = ("spread", "impact", "latency_drift", "fees", "funding", "borrow")
_SILENT = "no_trade"
_FACTORS = {"sigma": "volatility", "volume": "volume and depth", "fee": "fees"}
_EVENTS = {"gap": "before an open", "jump": "within a bar", "funding": "of notional a bar on funding"}
_FAMILIES = {
    "calm": "The locked window as it was.",
    "crisis": "The worst windows of the history before the locked window, laid over it at several places; the market's own bars before and "
    "after.",
    "bootstrap": "Bars of that history in random blocks, all assets together.",
    "low_volatility": "The same from its calmest third alone.",
    "mid_volatility": "The same from its middle third alone.",
    "high_volatility": "The same from its wildest third alone.",
}


class Stress(NamedTuple):
    """What the page is made of: the tables of an artifact of stress_scenarios."""

    summary: Mapping[str, Any]
    worlds: pl.DataFrame
    fans: pl.DataFrame


def load_stress(artifact_dir: Path) -> Stress:
    """The tables of a stress artifact."""
    summary = json.loads((artifact_dir / "stress.json").read_text())
    return Stress(summary, pl.read_parquet(artifact_dir / "stress.parquet"), pl.read_parquet(artifact_dir / "fans.parquet"))


def render_stress(artifact_dir: Path, out_dir: Path, links: tuple[tuple[str, str], ...] = ()) -> None:
    """Write stress.html into `out_dir`; equal artifacts give equal bytes. Every number is the artifact's."""
    stress = load_stress(artifact_dir)
    summary, names = stress.summary, ordered(list(stress.summary["strategies"]))
    families = [family for family in summary["order"] if family != "calm"]
    blocks = [_block(stress, family, names) for family in families]
    overview = _overview(stress, names)
    context: dict[str, Any] = {
        "overline": "PlusUltra stress",
        "title": f"{plain(summary['asset_class']).capitalize()} stress",
        "subtitle": f"{count(summary['num_worlds'])} worlds of {summary['span']['num_bars']} bars, {_days(summary['span'])}, through the "
        "kernel of the backtest",
        "headline": headline(summary),
        "verdict": sentences(summary),
        "facts": _facts(summary, names),
        "links": links,
        "opening": "What it comes to",
        "doors": "Family of worlds",
        "overview": overview,
        "blocks": blocks,
    }
    parts = (overview, *(section for block in blocks for section in block.sections))
    write_atomic(out_dir / HTML, page(context, parts, "execution.html.j2").encode())


def headline(summary: Mapping[str, Any]) -> str:
    """One line that can be quoted: the model of the desk against the market, each in its worst world; who never trades is no model."""
    idle = _idle(summary)
    desk = [name for name in ("policy", "sized_hybrid") if name in summary["strategies"] and name not in idle]
    held = [*desk[:1], *(name for name in ("buy_and_hold",) if name in summary["strategies"])]
    told = [f"{plain(name)} {percent(_worst(summary, name)[1])}" for name in held]
    return f"In the worst of {count(summary['num_worlds'])} worlds: {', '.join(told)}" if told else "Nothing was stressed"


def sentences(summary: Mapping[str, Any]) -> list[str]:
    """How it was done, and what was found."""
    lines = [
        "Forecasts are those of the calm world. Where the bars are the market's own, made worse, rules and policy decide bar by bar on "
        "their own account; where other bars stand in their place no forecast was ever made, and every strategy repeats what it asked for "
        "in the calm world: such worlds test what is held, its limits and its execution, not the models.",
    ]
    lines += _stretched(summary)
    if idle := [name for name in _idle(summary) if name != _SILENT]:
        lines.append(f"Never traded in any world, and so lost nothing: {', '.join(map(plain, idle))}.")
    hurt = [name for name in summary["strategies"] if _worst(summary, name, "liquidated")[1] > 0]
    if hurt:
        told = ", ".join(f"{plain(name)} (most in {plain(_worst(summary, name, 'liquidated')[0])})" for name in hurt)
        lines.append(f"Closed by force in some worlds: {told}.")
    else:
        lines.append("No account was closed by force in any world.")
    for name, curve in summary["capacity"].items():
        if name in ("policy", "sized_hybrid") and (end := capacity_end(curve)) is not None:
            idles = any(point["capital_ccy"] == end and not point["turnover"] for point in curve)
            why = ": nothing is traded there" if idles else ""
            lines.append(f"The net Sharpe of {plain(name)} is no longer positive at a capital of {money(end)}{why}.")
    if summary["left_out"]:
        left = ", ".join(map(plain, summary["left_out"]))
        lines.append(f"Left out, for this market charges no funding or has too little history: {left}.")
    if short := summary["short_history"]:
        told = ", ".join(f"{asset['symbol']} ({count(asset['num_bars'])} bars, from {iso(asset['first_ns'])[:10]} on)" for asset in short)
        lines.append(
            f"With little or no history before the span, and so not counted on in it: {told}. In crises and resampled worlds they trade "
            "in those bars alone that they had."
        )
    return lines


def _stretched(summary: Mapping[str, Any]) -> list[str]:
    """That worlds of a wider volatility may flatter, where one did: the largest median that is above that of the calm world."""
    calm = {name: found["median"] for name, found in summary["families"]["calm"]["strategies"].items()}
    wide = {family: entry for family, entry in summary["families"].items() if "sigma" in (entry["made_of"] or {}).get("factors", {})}
    gains = [(found["median"], name, family) for family, entry in wide.items() for name, found in entry["strategies"].items()]
    flattered = [row for row in gains if row[0] > max(calm[row[1]], 0.0)]
    if not flattered:
        return []
    value, name, family = max(flattered)
    return [
        "Where volatility is stretched, the window's own moves are, and with them what was got right in it, by skill or by luck: "
        f"{plain(name)} has a median of {percent(value)} in {plain(family)}, {percent(calm[name])} in the calm world. "
        "That is no promise for a storm."
    ]


def _idle(summary: Mapping[str, Any]) -> list[str]:
    """Strategies that traded nothing in any world."""
    worlds = summary["families"].values()
    return [name for name in summary["strategies"] if not any(family["strategies"][name]["terms"]["turnover"] for family in worlds)]


def capacity_end(curve: Sequence[Mapping[str, float]]) -> float | None:
    """Least capital on the curve whose net Sharpe is not positive, where a smaller one's is; None where there is none."""
    signs = [point["sharpe"] > 0 for point in curve]
    for k in range(1, len(curve)):
        if any(signs[:k]) and not signs[k]:
            return curve[k]["capital_ccy"]
    return None


def described(family: str, entry: Mapping[str, Any]) -> str:
    """What a family of worlds is, in words."""
    made = entry["made_of"]
    if not made:
        return _FAMILIES.get(family, "")
    parts = [f"{_FACTORS.get(name, name)} x{_between(low, high)}" for name, (low, high) in made["factors"].items()]
    for event in made["events"]:
        times = "" if event["num_events"] == 1 else f"{event['num_events']} times "
        low, high = (percent(value, 1 if event["kind"] == "funding" else 0) for value in event["size_frac"])
        whom = "of the whole market" if event["scope"] == "market" else "of one asset"
        if event["kind"] == "funding":
            parts.append(f"{times}{low} to {high} {_EVENTS['funding']}, for {event['num_bars']} bars, {whom}")
        else:
            parts.append(f"{times}a move {whom} of {low} to {high} {_EVENTS[event['kind']]}")
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}."


def _between(low: float, high: float) -> str:
    return f"{low:g}" if low == high else f"{low:g} to x{high:g}"


def _worst(summary: Mapping[str, Any], name: str, key: str = "worst") -> tuple[str, float]:
    """Family and value of a strategy's least return, or of its most of another number."""
    found = [(family, float(entry["strategies"][name][key])) for family, entry in summary["families"].items()]
    return min(found, key=lambda row: row[1]) if key == "worst" else max(found, key=lambda row: row[1])


def _days(span: Mapping[str, Any]) -> str:
    return f"{iso(span['start_ns'])[:10]} to {iso(span['end_ns'])[:10]}"


def _facts(summary: Mapping[str, Any], names: list[str]) -> list[tuple[str, str, str]]:
    facts = [("Worlds", count(summary["num_worlds"]), f"{len(summary['families'])} families")]
    for name in names:
        if name != _SILENT:
            family, value = _worst(summary, name)
            facts.append((f"Worst: {plain(name)}", percent(value), plain(family)))
    return facts


def _overview(stress: Stress, names: list[str]) -> Section:
    summary, traded = stress.summary, [name for name in names if name != _SILENT]
    found, maps = summary["families"], []
    for key, title in (("median", "Median net return"), ("q05", "Net return that 5 % of the worlds fall short of")):
        values = {family: _f32([found[family]["strategies"][name][key] for name in traded]) for family in summary["order"]}
        series = tuple(Series(plain(family), tuple(map(plain, traded)), y, COLOURS["total"]) for family, y in values.items())
        maps.append(Chart(f"map-{key}", title, "diverging", series, percent=True))
    curves = tuple(
        Series(plain(name), tuple(_amount(p["capital_ccy"]) for p in curve), _f32([p["sharpe"] for p in curve]), colour(name))
        for name, curve in ((name, summary["capacity"][name]) for name in traded)
    )
    chart = Chart("capacity", "Capacity: net Sharpe a year by capital", "line", curves, x_label="capital", y_label="net Sharpe")
    columns = ("family", "worlds", "what it is", *(plain(name) for name in traded))
    rows = []
    for family in summary["order"]:
        worst = (percent(found[family]["strategies"][name]["q05"]) for name in traded)
        rows.append((plain(family), count(found[family]["num_worlds"]), described(family, found[family]), *worst))
    tables = (
        Table("Net return that 5 % of the worlds fall short of", columns, tuple(rows), text_columns=3),
        _capacity(summary, traded),
        _crises(summary),
    )
    return Section("all", "All families", charts=(*maps, chart), tables=tables, notes=_notes(summary), columns=2)


def _capacity(summary: Mapping[str, Any], names: list[str]) -> Table:
    capitals = [point["capital_ccy"] for point in next(iter(summary["capacity"].values()))]
    rows = []
    for k, capital in enumerate(capitals):
        points = [summary["capacity"][name][k] for name in names]
        rows.append((money(capital), *(f"{number(point['sharpe'])} ({percent(point['cost'], 2)} costs)" for point in points)))
    marks = frozenset(k for k, capital in enumerate(capitals) if capital == summary["initial_capital_ccy"])
    return Table(
        "Capacity: net Sharpe a year, and costs without drift in parts of the capital",
        ("capital", *map(plain, names)),
        tuple(rows),
        marks=marks,
    )


def _crises(summary: Mapping[str, Any]) -> Table:
    rows = tuple((plain(crisis["rule"]), _days(crisis), percent(crisis["size"], 2)) for crisis in summary["crises"])
    note = "Depth of the fall of the equally weighted market; volatility and dispersion a bar."
    return Table("Crises found in the history before the locked window", ("worst by", "bars", "size"), rows, text_columns=2, note=note)


def _notes(summary: Mapping[str, Any]) -> tuple[str, ...]:
    past = summary["history"]
    return (
        f"History: {count(past['num_bars'])} bars from {iso(past['start_ns'])[:10]} on, {count(past['eligible'])} of them may come again. "
        "A resampled world keeps returns, ranges, spreads and volatilities of a bar together, and the money of its volume. "
        "Latencies are drawn by the same names in every world: worlds differ by nothing else.",
        "Sharpe of a capacity curve: the calm window once; it says where costs eat the gain, not that the gain is sure. "
        "Of a capital too large for the market less is invested, so that a Sharpe may rise; 0.00 is no trade at all. "
        "Where volatility is stretched, what the forecasts got right is stretched with it.",
    )


def _block(stress: Stress, family: str, names: list[str]) -> Block:
    entry, part = stress.summary["families"][family], part_of(f"family-{family}")
    rows = stress.worlds.filter(pl.col("family") == family)
    traded = [name for name in names if name != _SILENT]
    ends = []
    for name in traded:
        own = rows.filter(pl.col("strategy") == name)
        ends.append(Series(plain(name), (), own["ret"].to_numpy().astype(np.float32), colour(name), notes=tuple(own["world"].to_list())))
    spread = Chart(f"{part}-ends", "Net return, one point a world", "spread", tuple(ends), percent=True, reference=0.0)
    fans = tuple(_fan(stress.fans, family, name, part, entry["num_worlds"]) for name in traded)
    sections = (
        Section(f"{part}-spread", "Net return", (described(family, entry),), (spread,), (_numbers(entry, names),)),
        Section(f"{part}-fans", "Paths", (_fan_words(entry["num_worlds"]),), fans, columns=3),
        Section(f"{part}-costs", "Costs", tables=(_costs(entry, names),)),
    )
    worlds = f"{count(entry['num_worlds'])} world{'s' if entry['num_worlds'] != 1 else ''}"
    return Block(part, plain(family), worlds, sections)


def _fan_words(num_worlds: int) -> str:
    if num_worlds == 1:
        return "Wealth from 1, one world."
    return "Wealth from 1: median, the bands that hold half and nine tenths of the worlds, and the least of all as dots."


def _fan(fans: pl.DataFrame, family: str, name: str, part: str, num_worlds: int) -> Chart:
    rows = fans.filter((pl.col("family") == family) & (pl.col("strategy") == name)).sort("ts_ns")
    x = tuple(iso(ns) for ns in rows["ts_ns"].to_list())
    of = {column: rows[column].to_numpy().astype(np.float32) for column in rows.columns if column not in ("family", "strategy", "ts_ns")}
    shade = colour(name)
    series = [Series("median" if num_worlds > 1 else "wealth", x, of["q_50"], shade)]
    if num_worlds > 1:
        wide = Series("", x, of["q_50"], shade, low=of["q_05"], high=of["q_95"])
        half = Series("", x, of["q_50"], shade, low=of["q_25"], high=of["q_75"])
        series = [wide, half, *series, Series("least", x, of["worst"], COLOURS["loss"], dashed=True)]
    return Chart(f"{part}-fan-{part_of(name)}", plain(name), "fan", tuple(series), dates=True)


def _numbers(entry: Mapping[str, Any], names: list[str]) -> Table:
    risk = ("drawdown, median", "drawdown, worst", "closed by force", "halted")
    columns = ("strategy", "decides", "median", "5 %", "worst", "worst world", *risk)
    rows = []
    for name in names:
        found = entry["strategies"][name]
        returns = tuple(percent(found[key]) for key in ("median", "q05", "worst"))
        risks = tuple(percent(found[key]) for key in ("max_drawdown_median", "max_drawdown_worst", "liquidated", "halted"))
        rows.append((plain(name), plain(found["decides"]), *returns, plain(found["worst_world"]), *risks))
    return Table("Over the worlds of the family", columns, tuple(rows), text_columns=2)


def _costs(entry: Mapping[str, Any], names: list[str]) -> Table:
    columns = ("strategy", "price gain", *map(plain, COSTS), "net", "turnover")
    rows = []
    for name in names:
        terms = entry["strategies"][name]["terms"]
        net = terms["price_pnl"] - sum(terms[cost] for cost in COSTS)
        paid = tuple(percent(-terms[cost], 2) for cost in COSTS)
        rows.append((plain(name), percent(terms["price_pnl"], 2), *paid, percent(net, 2), number(terms["turnover"], 1)))
    note = "Fees hold what was lost when accounts were closed by force."
    return Table("Mean over the worlds, in parts of the capital", columns, tuple(rows), note=note)


def _amount(value: float) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g} "


def _f32(values: Sequence[float]) -> Any:
    return np.array(values, dtype=np.float32)
