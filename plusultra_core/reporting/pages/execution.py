"""The execution trace as one self-contained page: what was decided, what was filled, where, and what that cost."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl

from plusultra_core.artifacts import write_atomic
from plusultra_core.clock import iso
from plusultra_core.evaluation.backtests import WALK_FORWARD
from plusultra_core.evaluation.execution.money import PARTS
from plusultra_core.evaluation.execution.sheet import ExecutionSheet, Tape
from plusultra_core.evaluation.seeds.runs import is_seed_run
from plusultra_core.reporting.charts import COLOURS
from plusultra_core.reporting.pages.blocks import Desk, ExecutionPageConfig, build_block
from plusultra_core.reporting.render import page
from plusultra_core.reporting.sections import Section
from plusultra_core.reporting.tables import Table, count, money, number, percent, plain

HTML = "execution.html"
_FIRST = tuple(COLOURS)
Links = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Block:
    """Everything about one strategy, under one door of the page."""

    identifier: str
    title: str
    subtitle: str
    sections: tuple[Section, ...]


def render_execution(
    tape: Tape, sheet: ExecutionSheet, asset_class: str, snapshot: str, currency: str, out_dir: Path, cfg: ExecutionPageConfig, links: Links
) -> None:
    """Write execution.html into `out_dir`; equal tapes give equal bytes. Every number is the sheet's or the tape's."""
    desk = Desk(tape, sheet, currency, cfg)
    idle = set(sheet.strategies.filter(pl.col("num_orders") == 0)["strategy"].to_list())
    there = [name for name in sheet.strategies["strategy"].to_list() if not is_seed_run(name)]
    names = sorted(ordered(there), key=lambda name: name in idle)
    blocks = [
        Block(part_of(name), plain(name), _subtitle(row), build_block(desk, name, part_of(name))) for name, row in _rows(sheet, names)
    ]
    overview = Section("all", "All strategies", tables=tuple(_overview(sheet, names, currency)), notes=_notes())
    shown = _shown(sheet, names)
    context: dict[str, Any] = {
        "overline": "PlusUltra execution trace",
        "title": f"{plain(asset_class).capitalize()} execution, snapshot {snapshot}",
        "subtitle": _world(tape),
        "headline": headline(sheet, shown),
        "verdict": sentences(tape, sheet, shown),
        "facts": _facts(sheet, shown),
        "links": links,
        "opening": "What execution cost",
        "doors": "Strategy",
        "overview": overview,
        "blocks": blocks,
    }
    parts = (overview, *chain.from_iterable(block.sections for block in blocks))
    write_atomic(out_dir / HTML, page(context, parts, "execution.html.j2").encode())


def ordered(names: list[str]) -> list[str]:
    """Models, then baselines, then whatever else, each by name; what ran over all test spans last."""

    def place(name: str) -> tuple[bool, int, str]:
        base = name.removesuffix(f"_{WALK_FORWARD}")
        return base != name, _FIRST.index(base) if base in _FIRST else len(_FIRST), name

    return sorted(names, key=place)


def part_of(strategy: str) -> str:
    """Where a strategy stands in the page."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", strategy)


def headline(sheet: ExecutionSheet, strategy: str | None) -> str:
    """One line that can be quoted."""
    if strategy is None:
        return "No strategy sent an order"
    row = _row(sheet, strategy)
    lost, of = number(abs(row["bps"]), 1), money(row["asked_ccy"])
    verb = "lost" if row["bps"] >= 0 else "gained"
    return f"{_upper(plain(strategy))} {verb} {lost} bps between decision and fill, on {of} asked for"


def sentences(tape: Tape, sheet: ExecutionSheet, strategy: str | None) -> list[str]:
    """What the page says in words, of the strategy that it opens with."""
    lines = [
        "Every change of every account is explained: price gain less spread, impact, latency drift, fees, funding and borrow, and of every "
        "order its shortfall against the price of its decision, leave no rest beyond 1e-9.",
    ]
    if strategy is None:
        return lines
    row = _row(sheet, strategy)
    lost = sheet.shortfall.filter((pl.col("strategy") == strategy) & pl.col("symbol").is_null()).row(0, named=True)
    most = max(PARTS, key=lambda part: (abs(lost[part]), part))
    share = f"{count(row['num_orders'])} orders of {plain(strategy)} got {percent(row['fill_ratio'])} of what they asked for"
    lines.append(f"{share}; the largest part of its shortfall is {_WORDS[most]}, {money(lost[most])}.")
    if assumed := row["assumed"]:
        kinds = sorted(set(",".join(tape.executions["proxy"].unique().to_list()).split(",")) - {""})
        lines.append(
            f"{percent(assumed, 0)} of its fills met bars of which something is assumed: {', '.join(plain(kind) for kind in kinds)}."
        )
    return lines


_WORDS = {
    "delay": "the move between decision and arrival",
    "waiting": "the move while orders waited in the market",
    "spread": "the spread",
    "impact": "impact",
    "fees": "fees",
    "opportunity": "what was not filled",
}


def _shown(sheet: ExecutionSheet, names: list[str]) -> str | None:
    """The first strategy that traded."""
    traded = set(sheet.strategies.filter(pl.col("num_orders") > 0)["strategy"].to_list())
    return next((name for name in names if name in traded), None)


def _world(tape: Tape) -> str:
    account, rules = tape.trace.account, tape.rules
    start, end = iso(int(account["ts_ns"].min()))[:10], iso(int(account["ts_ns"].max()))[:10]  # type: ignore[arg-type]
    num = tape.market["symbol"].n_unique()
    return (
        f"{num} symbol{'s' if num != 1 else ''}, {start} to {end}; {rules['order_type']} orders, {rules['time_in_force']}, at most "
        f"{percent(rules['participation'], 1)} of a bar's volume"
    )


def _rows(sheet: ExecutionSheet, names: list[str]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, _row(sheet, name)) for name in names]


def _row(sheet: ExecutionSheet, strategy: str) -> dict[str, Any]:
    return sheet.strategies.filter(pl.col("strategy") == strategy).row(0, named=True)


def _subtitle(row: Mapping[str, Any]) -> str:
    if not row["num_orders"]:
        return f"{count(row['num_bars'])} bars, no orders"
    return (
        f"{count(row['num_bars'])} bars, {count(row['num_orders'])} orders, {count(row['num_fills'])} fills, "
        f"{percent(row['fill_ratio'])} filled by value, in the market {percent(row['time_in_market'], 0)} of the time"
    )


def _facts(sheet: ExecutionSheet, strategy: str | None) -> list[tuple[str, str, str]]:
    if strategy is None:
        return []
    row = _row(sheet, strategy)
    refused = f"{count(row['num_refused'])} more were refused" if row["num_refused"] else "none was refused"
    return [
        (f"Shortfall: {plain(strategy)}", f"{number(row['bps'], 1)} bps", money(row["shortfall"])),
        ("Orders sent", count(row["num_orders"]), refused),
        ("Filled, by value", percent(row["fill_ratio"]), f"{count(row['num_fills'])} fills"),
        ("Median latency", f"{number(row['latency_ms_median'], 0)} ms", "decision to market"),
        ("Time in market", percent(row["time_in_market"], 0), f"of {count(row['num_bars'])} bars"),
    ]


def _overview(sheet: ExecutionSheet, names: list[str], currency: str) -> list[Table]:
    activity, lost = [], []
    for name, row in _rows(sheet, names):
        activity.append(
            (
                plain(name),
                *(count(row[key]) for key in ("num_orders", "num_refused", "num_fills")),
                *(money(row[key]) for key in ("asked_ccy", "filled_ccy")),
                percent(row["fill_ratio"]),
                number(row["latency_ms_median"], 0),
                percent(row["time_in_market"], 0),
                percent(row["assumed"], 0),
            )
        )
        parts = sheet.shortfall.filter((pl.col("strategy") == name) & pl.col("symbol").is_null()).to_dicts()
        lost += [
            (plain(name), *(number(1e4 * p[part] / p["asked_ccy"], 2) for part in PARTS), number(p["bps"], 2), money(p["shortfall"]))
            for p in parts
            if p["asked_ccy"] > 0
        ]
    shown = ("orders", "refused", "fills", "asked for", "traded", "filled", "latency, ms", "in the market", "assumed")
    note = "Asked for: at the price of the decision. Filled: by value at that price. Assumed: fills on bars of which something is assumed."
    return [
        Table(f"Orders and fills, {currency}", ("strategy", *shown), tuple(activity), note=note),
        Table("Implementation shortfall, bps of what was asked for", ("strategy", *PARTS, "shortfall", currency), tuple(lost)),
    ]


def _notes() -> tuple[str, ...]:
    return (
        "Shortfall: a paper account that trades the whole order at the close of its decision, less the real one, both marked at the close "
        "of the order's last bar (Perold 1988). Delay: from the decision to the arrival in the market. Waiting: from there to the price "
        "that the fill met before its own costs. Opportunity: the move of what was not filled. A negative part was a gain.",
        "Latency drift of the waterfall is measured from the last close before the fill, delay and waiting from the decision: they are "
        "equal for orders that fill in their first bar.",
    )


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
