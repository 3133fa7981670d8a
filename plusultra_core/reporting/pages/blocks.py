"""Of one strategy: its account, its fills on bars, its costs, its shortfall, its orders, and its worst fills."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from plusultra_core.clock import iso
from plusultra_core.errors import ConfigError
from plusultra_core.evaluation.execution.money import PARTS
from plusultra_core.evaluation.execution.sheet import ExecutionSheet, Tape
from plusultra_core.reporting.charts import COLOURS, TERM_NAMES, Chart, Series, colour, downsample
from plusultra_core.reporting.pages.fills import fills_on_bars, money_like, most_traded, price_of
from plusultra_core.reporting.sections import Section
from plusultra_core.reporting.tables import DASH, Table, count, money, number, percent, plain, signed

_REST = "others"


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutionPageConfig:
    """How much the page of execution shows."""

    max_points: int
    """Bars of a chart; beyond it a line that keeps peaks and troughs stands for candles."""
    max_symbols: int
    """Symbols drawn bar by bar for each strategy: those that it traded for most money."""
    max_fills: int
    """Fills drawn on a chart; the largest are kept."""
    max_rows: int
    """Rows of the tables by symbol and of the fills that cost most."""

    def __post_init__(self) -> None:
        for name, least in (("max_points", 50), ("max_symbols", 1), ("max_fills", 10), ("max_rows", 5)):
            if getattr(self, name) < least:
                raise ConfigError(f"execution.{name}: expected >= {least}, found {getattr(self, name)}")


class Desk(NamedTuple):
    """What every block is made of, and how much of it is shown."""

    tape: Tape
    sheet: ExecutionSheet
    currency: str
    cfg: ExecutionPageConfig


def build_block(desk: Desk, strategy: str, part: str) -> tuple[Section, ...]:
    """All sections of a strategy in reading order; of one that sent no orders what became of its wishes."""
    own = desk._replace(sheet=_of(desk.sheet, strategy))
    if not own.sheet.strategies["num_orders"][0]:
        text = f"{plain(strategy).capitalize()} sent no orders{': whatever it asked for was refused' if own.sheet.endings.height else ''}."
        return (Section(f"{part}-orders", "Orders", (text,), tables=(_endings(own),) if own.sheet.endings.height else ()),)
    account = _account(own, strategy, part)
    return (account, _fills(own, strategy, part), _costs(own, part), _shortfall(own, part), _orders(own, part), _worst(own, part))


def _of(sheet: ExecutionSheet, strategy: str) -> ExecutionSheet:
    tables = {name: getattr(sheet, name).filter(pl.col("strategy") == strategy) for name in sheet.__dataclass_fields__}
    return ExecutionSheet(**tables)


def _account(desk: Desk, strategy: str, part: str) -> Section:
    rows = desk.tape.trace.account.filter(pl.col("strategy") == strategy).sort("ts_ns")
    charts = []
    for name, title, sign in (("equity", f"Equity, {desk.currency}", 1.0), ("drawdown", "Drawdown", -1.0)):
        y_T = (sign * rows[name].to_numpy()).astype(np.float32)
        keep = downsample(y_T, desk.cfg.max_points)
        x = tuple(iso(ns) for ns in rows["ts_ns"].to_numpy()[keep].tolist())
        line = Series(name, x, y_T[keep], colour(strategy))
        charts.append(Chart(f"{part}-{name}", title, "line", (line,), percent=name == "drawdown", dates=True))
    return Section(f"{part}-account", "Equity and drawdown", charts=tuple(charts), columns=2)


def _fills(desk: Desk, strategy: str, part: str) -> Section:
    symbols = most_traded(desk.tape, strategy, desk.cfg.max_symbols)
    if not symbols:
        return Section(f"{part}-fills", "Fills on bars", ("No order was filled.",))
    drawn = [
        fills_on_bars(desk.tape, strategy, symbol, f"{part}-fills-{i}", desk.cfg.max_points, desk.cfg.max_fills)
        for i, symbol in enumerate(symbols)
    ]
    num = desk.tape.executions.filter((pl.col("strategy") == strategy) & (pl.col("qty_filled") > 0))["symbol"].n_unique()
    which = "" if len(symbols) == num else " that were traded for most money"
    names = f"{'All' if len(symbols) == num else f'The {len(symbols)} of'} {num} symbol{'' if num == 1 else 's'}{which}"
    text = (
        f"{names}. Triangles up bought, down sold, larger for "
        "more money, at the price paid and on the bar they filled in; point at one for its order. Below, the position after each bar, in "
        "units.",
    )
    notes = tuple(f"{chart.title.split(':')[0]}: {rest}." for chart, rest in drawn if rest)
    return Section(f"{part}-fills", "Fills on bars", text, tuple(chart for chart, _ in drawn), notes=notes)


def _costs(desk: Desk, part: str) -> Section:
    table = desk.sheet.waterfall
    whole = table.filter(pl.col("symbol").is_null()).row(0, named=True)
    terms = tuple(TERM_NAMES)
    values = np.array([whole["price_pnl"], *(-whole[term] for term in terms[1:]), whole["net"]], dtype=np.float32)
    drawn = Series("net", (*TERM_NAMES.values(), "net"), values, COLOURS["total"])
    chart = Chart(f"{part}-waterfall", f"From price gain to net gain, {desk.currency}", "waterfall", (drawn,), y_label=desk.currency)
    shown = _folded(table, "net", desk.cfg.max_rows, (*terms, "net"))
    form = money_like(whole["price_pnl"], whole["net"], *(whole[term] for term in terms))
    rows = [
        (_symbol(row), *(form(row["price_pnl"] if term == "price_pnl" else -row[term]) for term in terms), form(row["net"]),
         percent(row["time_in_market"], 0))
        for row in shown
    ]  # fmt: skip
    columns = ("symbol", *TERM_NAMES.values(), "net", "in the market")
    said = {
        "currency_pnl": "Of the price gain {} are the exchange rates'.",
        "conversion": "Of the spread {} were paid for exchanging money.",
        "liquidation": "Fees hold {} that were lost when the account was closed by force.",
    }
    text = tuple(words.format(form(whole[name])) for name, words in said.items() if whole[name])
    tables = (Table(f"Where the money went, {desk.currency}", columns, tuple(rows), marks=frozenset({0})),)
    return Section(f"{part}-costs", "Cost waterfall", text, (chart,), tables)


def _shortfall(desk: Desk, part: str) -> Section:
    table = desk.sheet.shortfall
    whole = table.filter(pl.col("symbol").is_null()).row(0, named=True)
    values = np.array([-whole[name] for name in (*PARTS, "shortfall")], dtype=np.float32)
    drawn = Series("shortfall", (*PARTS, "shortfall"), values, COLOURS["total"])
    title = f"From the paper account to the real one, {desk.currency}"
    chart = Chart(f"{part}-shortfall-parts", title, "waterfall", (drawn,), y_label=desk.currency)
    shown = _folded(table, "asked_ccy", desk.cfg.max_rows, ("num_orders", "asked_ccy", "filled_ccy", *PARTS, "shortfall"))
    form = money_like(*(whole[name] for name in (*PARTS, "shortfall")))
    rows = [
        (_symbol(row), count(row["num_orders"]), money(row["asked_ccy"]), money(row["filled_ccy"]), form(row["shortfall"]),
         number(row["bps"], 1), *(form(row[name]) for name in PARTS))
        for row in shown
    ]  # fmt: skip
    columns = ("symbol", "orders", "asked for", "traded", "shortfall", "bps", *PARTS)
    tables = (Table(f"What orders lost against the price of their decision, {desk.currency}", columns, tuple(rows), marks=frozenset({0})),)
    return Section(f"{part}-shortfall", "Implementation shortfall", (), (chart,), tables)


def _orders(desk: Desk, part: str) -> Section:
    found = desk.sheet.latencies
    labels = tuple(length_of(row["latency_ms"]) for row in found.iter_rows(named=True))
    configured = Series("configured", labels, found["configured"].to_numpy().astype(np.float32), COLOURS["reference"])
    realised = Series("realised", labels, found["share"].to_numpy().astype(np.float32), COLOURS["total"])
    charts = [
        Chart(f"{part}-latency", "Latency, decision to market: share of orders", "bar", (realised, configured), percent=True),
        *(_sizes(desk, part, measure) for measure in ("value_ccy", "participation")),
    ]
    buckets = [
        (label, count(row["num_orders"]), percent(row["share"]), percent(row["configured"]), _errors(row))
        for label, row in zip(labels, found.iter_rows(named=True), strict=True)
    ]
    tables = (
        _endings(desk),
        Table("Latency buckets", ("latency", "orders", "realised", "configured", "errors off"), tuple(buckets)),
    )
    return Section(f"{part}-orders", "Latency, endings and sizes", (), tuple(charts), tables, columns=3)


def _endings(desk: Desk) -> Table:
    ends = desk.sheet.endings
    form = money_like(*ends["opportunity"].to_list())
    reasons = [
        (plain(row["status"]), plain(row["reason"]) if row["reason"] != "none" else DASH, count(row["num_orders"]), money(row["asked_ccy"]),
         money(row["filled_ccy"]), percent(row["fill_ratio"]), form(row["opportunity"]))
        for row in ends.iter_rows(named=True)
    ]  # fmt: skip
    return Table(
        f"How orders ended, {desk.currency}",
        ("ended", "why", "orders", "asked for", "traded", "filled", "opportunity"),
        tuple(reasons),
        text_columns=2,
        note="Opportunity: the move of what was not filled until the order's last close; negative where waiting was better. That of "
        "refused orders is no cost of execution and is in no sum above.",
    )


def length_of(ms: float) -> str:
    """`250 ms`, `2 s`, `5 min`, `1.2 d`."""
    for unit, size in (("d", 86_400_000.0), ("h", 3_600_000.0), ("min", 60_000.0), ("s", 1000.0)):
        if ms >= size:
            return f"{ms / size:.3g} {unit}"
    return f"{ms:g} ms"


def _errors(row: dict[str, Any]) -> str:
    """By how many standard errors the realised share is off."""
    return signed((row["share"] - row["configured"]) / row["error"], number) if row["error"] else DASH


def _sizes(desk: Desk, part: str, measure: str) -> Chart:
    rows = desk.sheet.sizes.filter(pl.col("measure") == measure).sort("low")
    value = measure == "value_ccy"
    labels = tuple(_between(row["low"], row["high"], value) for row in rows.iter_rows(named=True))
    num = rows["num"].to_numpy().astype(np.float64)
    share = (num / max(num.sum(), 1.0)).astype(np.float32)
    money_share = (rows["traded_ccy"] / max(float(rows["traded_ccy"].sum()), 1e-9)).to_numpy().astype(np.float32)
    kinds = (
        Series("of orders" if value else "of fills", labels, share, COLOURS["total"]),
        Series("of money", labels, money_share, "#d9820f"),
    )
    title = f"Order size, {desk.currency}" if value else "Part of the bar's volume that fills took"
    return Chart(f"{part}-{measure}", title, "bar", kinds, percent=True)


def _between(low: float, high: float, value: bool) -> str:
    if value:
        return f"over {_short(low)}" if high == float("inf") else f"{_short(low)}–{_short(high)}"
    return f"{100 * low:g}–{100 * high:g} %"


def _short(amount: float) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if amount >= size:
            return f"{amount / size:g}{unit}"
    return f"{amount:g}"


def _worst(desk: Desk, part: str) -> Section:
    table = desk.sheet.worst.head(desk.cfg.max_rows)
    form = money_like(*table["cost"].to_list())
    rows = [
        (
            row["symbol"],
            f"{row['side']} {row['order_id']}",
            iso(row["decision_ns"])[:16].replace("T", " "),
            iso(row["ts_ns"])[:16].replace("T", " "),
            f"{price_of(row['decision_price'])} → {price_of(row['price'])}",
            money(row["notional_ccy"]),
            form(row["cost"]),
            number(row["bps"], 1),
            *(form(row[name]) for name in PARTS if name != "opportunity"),
            plain(row["reason"]) if row["reason"] != "none" else DASH,
        )
        for row in table.iter_rows(named=True)
    ]
    columns = (
        "symbol", "order", "decided", "bar ended", "price, decided → paid", "traded", "cost", "bps", "delay", "waiting", "spread", "impact",
        "fees", "bound by",
    )  # fmt: skip
    title = f"The fills that lost most against the price of their decision, {desk.currency}"
    return Section(f"{part}-worst", "Worst fills", tables=(Table(title, columns, tuple(rows), text_columns=1),))


def _folded(table: pl.DataFrame, by: str, most: int, sums: tuple[str, ...]) -> list[dict[str, Any]]:
    """The whole, its largest symbols, and the others as one row, so that every column adds up."""
    whole = table.filter(pl.col("symbol").is_null()).to_dicts()
    parts = table.filter(pl.col("symbol").is_not_null()).sort(pl.col(by).abs(), "symbol", descending=[True, False])
    shown, rest = parts.head(most), parts.slice(most)
    if rest.is_empty():
        return [*whole, *shown.to_dicts()]
    folded: dict[str, Any] = dict.fromkeys(table.columns)
    folded |= {name: rest[name].sum() for name in sums} | {"symbol": f"{rest.height} {_REST}"}
    if "bps" in folded:
        folded["bps"] = 1e4 * folded["shortfall"] / folded["asked_ccy"] if folded["asked_ccy"] else None
    return [*whole, *shown.to_dicts(), folded]


def _symbol(row: dict[str, Any]) -> str:
    return "all" if row["symbol"] is None else str(row["symbol"])
