"""The execution sheet: everything that is said about the orders of a trace, as tables."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from plusultra_core.errors import ArtifactError, ContractError
from plusultra_core.evaluation.backtests import REFUSED, Trace, load_trace
from plusultra_core.evaluation.execution.money import PARTS, SHARES, priced, require_bars_of_orders, shortfall, waterfall
from plusultra_core.evaluation.execution.orders import endings, filled_bars, latencies, sizes, worst_fills

EXECUTIONS = "executions"
MARKET = "market.parquet"
TABLES = ("strategies", "waterfall", "shortfall", "latencies", "endings", "sizes", "worst")
_ORDERS = ("order_id", "symbol", "side", "decision_price", "arrival_price", "end_price", "translated", "translation", *PARTS)
_EXECUTIONS = (
    "order_id", "symbol", "ts_ns", "side", "qty_filled", "price", "reference", "participation", "delay", "waiting", "spread", "impact",
    "fees", "status", "reason", "proxy",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tape:
    """The tables of a trace artifact down to the bars in which an order lived, and how its world executed."""

    trace: Trace
    executions: pl.DataFrame
    market: pl.DataFrame
    """The bars that the kernel met, by symbol and time."""
    rules: dict[str, Any]
    """latency_ms, latency_prob, participation, time_in_force, order_type."""


@dataclass(frozen=True, slots=True)
class ExecutionSheet:
    """Tables of one class, each with its columns where it is made; a row without a symbol is the whole strategy.

    strategies  strategy, num_bars, net, time_in_market, num_orders, num_refused, num_fills, asked_ccy, filled_ccy, fill_ratio,
                shortfall, bps (of what was asked), latency_ms_median, assumed (share of the fills on bars of which something is assumed)
    """

    strategies: pl.DataFrame
    waterfall: pl.DataFrame
    shortfall: pl.DataFrame
    latencies: pl.DataFrame
    endings: pl.DataFrame
    sizes: pl.DataFrame
    worst: pl.DataFrame


def load_tape(directory: Path) -> Tape:
    """The tables of a trace artifact with the life of every order.

    Raises  ArtifactError when a file is missing; ContractError for missing columns or money that does not add up.
    """
    trace, folder = load_trace(directory), directory / EXECUTIONS
    for path in (folder, directory / MARKET):
        if not path.exists():
            raise ArtifactError(f"{path}: expected the bars of every order and of the market, found none; run the trace task again")
    executions = pl.read_parquet(folder, hive_partitioning=True).sort("strategy", "order_id", "ts_ns")
    tables = (("account", trace.account, SHARES), ("positions", trace.positions, SHARES), ("orders", trace.orders, _ORDERS))
    for name, frame, columns in (*tables, (EXECUTIONS, executions, _EXECUTIONS)):
        if missing := sorted(set(columns) - set(frame.columns)):
            raise ContractError(f"{name}: missing column {missing[0]!r}; run the trace task again")
    summary = json.loads((directory / "trace.json").read_text(encoding="utf-8"))
    return Tape(trace, executions, pl.read_parquet(directory / MARKET), summary["execution"])


def build_execution(tape: Tape, num_worst: int) -> ExecutionSheet:
    """The sheet of a tape.

    Raises  ContractError when costs or shortfall leave more than 1e-9 of an account unexplained, or the bars of an order are not the order.
    """
    trace, orders = tape.trace, tape.trace.orders
    require_bars_of_orders(orders, tape.executions)
    money, lost = waterfall(trace), shortfall(trace)
    found = latencies(orders, tape.rules["latency_ms"], tape.rules["latency_prob"])
    return ExecutionSheet(
        strategies=_strategies(tape, money, lost),
        waterfall=money,
        shortfall=lost,
        latencies=found,
        endings=endings(orders),
        sizes=sizes(orders, tape.executions),
        worst=worst_fills(orders, tape.executions, num_worst),
    )


def _strategies(tape: Tape, money: pl.DataFrame, lost: pl.DataFrame) -> pl.DataFrame:
    """One row a strategy, in the order of their names."""
    orders = priced(tape.trace.orders)
    sent = orders.filter(pl.col("status") != REFUSED)
    fills = filled_bars(tape.executions)
    whole = money.filter(pl.col("symbol").is_null()).select("strategy", "net", "time_in_market")
    bars = tape.trace.account.group_by("strategy").agg(pl.len().alias("num_bars"))
    refused = orders.filter(pl.col("status") == REFUSED).group_by("strategy").agg(pl.len().alias("num_refused"))
    latency = (pl.col("arrival_ns") - pl.col("decision_ns")).median() / 1e6
    ratio = pl.col("got_ccy").sum() / pl.col("asked_ccy").sum()
    ways = sent.group_by("strategy").agg(ratio.alias("fill_ratio"), latency.alias("latency_ms_median"))
    drawn = fills.group_by("strategy").agg(pl.len().alias("num_fills"), (pl.col("proxy") != "").mean().alias("assumed"))
    sums = lost.filter(pl.col("symbol").is_null()).select("strategy", "num_orders", "asked_ccy", "filled_ccy", "shortfall", "bps")
    joined = bars.join(whole, on="strategy")
    for frame in (sums, refused, ways, drawn):
        joined = joined.join(frame, on="strategy", how="left")
    counts = ("num_orders", "num_refused", "num_fills", "asked_ccy", "filled_ccy", "shortfall")
    return joined.with_columns(pl.col(name).fill_null(0) for name in counts).sort("strategy")
