"""Sections on money: strategies, all test spans, costs, attribution."""

from collections.abc import Mapping
from typing import Any

from plusultra_core.reporting import charts
from plusultra_core.reporting.charts import TERM_NAMES
from plusultra_core.reporting.sections import Section
from plusultra_core.reporting.tables import DASH, Table, count, estimate, interval, money, number, percent, plain, probability, signed

_STATES = ("low", "mid", "high", "down", "flat", "up", "unknown")


def strategies(card: Mapping[str, Any], max_points: int) -> Section:
    """Curves, metrics with intervals, and paired differences on the locked window."""
    locked = card["series"]["locked"]
    runs = {name: {"ts_ns": locked["ts_ns"], "ret": locked["ret"][name]} for name in _ordered(card)}
    drawn = [*charts.equity_and_drawdown(runs, "locked", "locked window", max_points)]
    if intervals := charts.sharpe_intervals(card):
        drawn.append(intervals)
    level, drawing = percent(card["bootstrap"]["confidence"], 0), card["bootstrap"]
    note = (
        f"Beside each estimate its {level} percentile interval: stationary block bootstrap ({drawing['reps']:,} resamples of the dates, "
        f"mean block {number(drawing['block_bars'], 1)} bars). VaR and CVaR are historical, per bar. "
        f"A year has {number(card['periods_per_year'], 2)} bars. Models stand out."
    )
    return Section(
        "strategies",
        "Strategies on the locked window",
        charts=tuple(drawn),
        tables=(_return_table(card), _shape_table(card), _paired(card)),
        notes=(
            note,
            "Of the policy the seed is judged that validated best, of random one draw: the intervals know of dates, not of seeds.",
        ),
    )


def _return_table(card: Mapping[str, Any]) -> Table:
    rows = []
    for name in _ordered(card):
        entry = card["strategies"][name]
        m, ci = entry["metrics"], entry["ci"]
        rows.append(
            (
                plain(name),
                estimate(m["sharpe"], ci["sharpe"], number),
                estimate(m["cagr"], ci["cagr"], percent),
                percent(m["total_return"]),
                percent(m["volatility"]),
                estimate(m["max_drawdown"], ci["max_drawdown"], percent),
                estimate(m["hit_rate"], ci["hit_rate"], percent),
                probability(entry["psr"]),
            )
        )
    columns = ("strategy", "Sharpe", "CAGR", "total return", "volatility", "max drawdown", "hit rate", "PSR")
    return Table("Return and risk after costs", columns, tuple(rows), marks=_marks(card))


def _shape_table(card: Mapping[str, Any]) -> Table:
    rows = []
    for name in _ordered(card):
        entry = card["strategies"][name]
        m, ci = entry["metrics"], entry["ci"]
        rows.append(
            (
                plain(name),
                *(number(m[key]) for key in ("sortino", "calmar")),
                *(percent(m[key], 2) for key in ("ulcer", "var_95_historical")),
                estimate(m["cvar_95_historical"], ci["cvar_95_historical"], lambda value: percent(value, 2)),
                *(number(m[key]) for key in ("tail_ratio", "skew", "kurtosis")),
                number(m["turnover_year"], 1),
                percent(m["exposure_mean"], 0),
                percent(entry["saturated_frac"], 0),
            )
        )
    risk = ("strategy", "Sortino", "Calmar", "Ulcer", "VaR 95", "CVaR 95", "tail ratio", "skew", "kurtosis")
    note = "Turnover is one-way, in multiples of equity. At limit: targets above 99 % of the largest weight allowed."
    columns = (*risk, "turnover / year", "exposure", "at limit")
    return Table("Shape, tails and activity", columns, tuple(rows), marks=_marks(card), note=note)


def _marks(card: Mapping[str, Any]) -> frozenset[int]:
    return frozenset(row for row, name in enumerate(_ordered(card)) if name in card["models"])


def _paired(card: Mapping[str, Any]) -> Table:
    rows = [
        (
            plain(model),
            plain(other),
            signed(found["sharpe"]["difference"], number),
            interval(found["sharpe"]["ci"], number),
            percent(found["sharpe"]["share_above_zero"], 0),
            signed(found["cagr"]["difference"], percent),
            interval(found["cagr"]["ci"], percent),
        )
        for model, others in card["paired"].items()
        for other, found in others.items()
        if other in card["baselines"]
    ]
    columns = ("model", "against", "Sharpe difference", "interval", "above 0", "CAGR difference", "interval")
    return Table("Models against baselines, paired by date", columns, tuple(rows), text_columns=2)


def walk_forward(card: Mapping[str, Any], max_points: int) -> Section:
    """The stitched runs over all test spans, fold by fold."""
    runs = card["series"]["walk_forward"]
    if not runs:
        return Section("walk-forward", "All test spans", text=("No strategy was run over more than the locked window.",))
    rows = []
    for name, entry in card["walk_forward"].items():
        m = entry["metrics"]
        whole = (
            plain(name),
            "all",
            f"{entry['span']['start'][:10]} to {entry['span']['end'][:10]}",
            estimate(m["sharpe"], entry["ci"]["sharpe"], number),
        )
        rows.append((*whole, percent(m["cagr"]), percent(m["max_drawdown"]), count(m["num_bars"])))
        rows += [
            (
                "",
                str(fold["fold"]),
                "",
                number(fold["sharpe"]),
                percent(fold["cagr"]),
                percent(fold["max_drawdown"]),
                count(fold["num_bars"]),
            )
            for fold in entry["folds"]
        ]
    columns = ("strategy", "fold", "span", "Sharpe", "CAGR", "max drawdown", "bars")
    drawn = charts.equity_and_drawdown(runs, "walk_forward", "all test spans", max_points)
    text = (
        "Every fold is forecast by a model that was fitted before it began; the last fold is the locked window above. "
        "One account goes through all folds and enters each with what it held: its numbers there differ from those of the locked "
        "window, where every account begins with cash.",
    )
    return Section("walk-forward", "All test spans", text, drawn, (Table("Walk-forward by fold", columns, tuple(rows), text_columns=3),))


def costs(card: Mapping[str, Any]) -> Section:
    """The waterfall of the best model, and costs and fills of all strategies."""
    names = _ordered(card)
    terms = tuple(TERM_NAMES)
    rows: list[tuple[str, ...]] = []
    fills: list[tuple[str, ...]] = []
    for name in names:
        costs, fill = card["strategies"][name]["costs"], card["strategies"][name]["fills"]
        parts = tuple(money(costs["terms_ccy"][term]) for term in terms)
        rows.append((plain(name), *parts, money(costs["net_ccy"]), percent(costs["cost_frac"])))
        bps = 1e4 * costs["cost_ccy"] / fill["notional_ccy"] if fill["notional_ccy"] else None
        ends = ", ".join(f"{orders} {plain(status)}" for status, orders in fill["by_status"].items()) or DASH
        fills.append(
            (plain(name), ends, count(fill["num_orders"]), percent(fill["fill_ratio_mean"]), money(fill["notional_ccy"]), number(bps, 1))
        )
    columns = ("strategy", *TERM_NAMES.values(), "net", "costs / capital")
    best = card["verdict"]["best_model"] or names[0]
    return Section(
        "costs",
        "Costs",
        charts=(charts.waterfall(card, best),),
        tables=(
            Table(f"Where the money went, {card['currency']}", columns, tuple(rows)),
            Table(
                "Orders and fills",
                ("strategy", "orders ended", "orders", "mean fill", "notional", "cost, bps"),
                tuple(fills),
                text_columns=2,
            ),
        ),
        notes=(
            "Price gain less every cost equals the change of equity; a rest beyond rounding stops the evaluation.",
            "Latency drift is the market's move between decision and fill. It stands among the costs because a paper account would not "
            "have it, but nobody charges it: over few orders it is mostly luck, and where it was a gain costs can be negative.",
        ),
    )


def attribution(card: Mapping[str, Any], max_rows: int) -> Section:
    """Net gain of the best model by symbol and by regime."""
    name = card["verdict"]["best_model"] or _ordered(card)[0]
    found = card["strategies"][name]["attribution"]
    ranked = sorted(found["by_symbol"], key=lambda row: (-abs(row["net_ccy"]), row["name"]))
    shown, rest = ranked[:max_rows], ranked[max_rows:]
    if rest:
        folded = {key: sum(row[key] for row in rest) for key in ("price_pnl_ccy", "cost_ccy", "net_ccy", "num_rows")}
        shown = [*shown, {"name": f"{len(rest)} others", **folded, "weight_abs_mean": None}]
    columns = ("price gain", "costs", "net", "mean weight")
    tables = [Table(f"By symbol, {card['currency']}", ("symbol", *columns), tuple(_share(row) for row in shown))]
    states = [
        (kind, *_share(row))
        for kind, rows in found["by_regime"].items()
        for row in sorted(rows, key=lambda row: _STATES.index(row["name"]))
    ]
    title = f"By the regime in which the bar began, {card['currency']}"
    tables.append(Table(title, ("regime", "state", *columns), tuple(states), text_columns=2))
    drawn = (charts.attribution(shown, "by_symbol", f"Net gain by symbol: {plain(name)}", card["currency"]),) if shown else ()
    text = (f"Net gain of {plain(name)} on the locked window. Each split adds up to the account.",)
    return Section("attribution", "Attribution", text, drawn, tuple(tables))


def _share(row: Mapping[str, Any]) -> tuple[str, ...]:
    weight = percent(row["weight_abs_mean"])
    return (str(row["name"]), money(row["price_pnl_ccy"]), money(row["cost_ccy"]), money(row["net_ccy"]), weight)


def _ordered(card: Mapping[str, Any]) -> list[str]:
    """Models first, then baselines, then what else was run."""
    known = [*reversed(card["models"]), *card["baselines"]]
    return [*known, *(name for name in card["strategies"] if name not in known)]
