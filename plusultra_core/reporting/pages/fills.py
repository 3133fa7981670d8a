"""Fills on the bars they met: price, position, and of every fill its whole story."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from plusultra_core.arrays import Float32Array, Int64Array
from plusultra_core.clock import iso
from plusultra_core.evaluation.execution.orders import filled_bars
from plusultra_core.evaluation.execution.sheet import Tape
from plusultra_core.reporting.charts import COLOURS, Chart, Series, downsample
from plusultra_core.reporting.tables import Format, count, money, number, percent, plain

_SMALLEST, _LARGEST = 6.0, 15.0
_CENTS_BELOW = 1e5
_SIDES = {"buy": COLOURS["gain"], "sell": COLOURS["loss"]}
_PARTS = ("delay", "waiting", "spread", "impact", "fees")


def most_traded(tape: Tape, strategy: str, most: int) -> list[str]:
    """Symbols that a strategy traded for most money, and then by name."""
    traded = filled_bars(tape.executions.filter(pl.col("strategy") == strategy)).group_by("symbol").agg(pl.col("notional_ccy").sum())
    return traded.sort("notional_ccy", "symbol", descending=[True, False])["symbol"].head(most).to_list()


def fills_on_bars(tape: Tape, strategy: str, symbol: str, identifier: str, most_points: int, most_fills: int) -> tuple[Chart, str]:
    """The chart of one symbol, and what it does not show: bars are thinned, of too many fills the largest are drawn."""
    own = pl.col("strategy") == strategy
    ts_ns_T = tape.trace.account.filter(own)["ts_ns"].to_numpy()
    bars = tape.market.filter((pl.col("symbol") == symbol) & pl.col("ts_ns").is_between(ts_ns_T.min(), ts_ns_T.max())).sort("ts_ns")
    orders = tape.trace.orders.filter(own).select("order_id", "decision_ns", "arrival_ns", "decision_price", "num_bars")
    fills = filled_bars(tape.executions.filter(own & (pl.col("symbol") == symbol))).join(orders, on="order_id", how="left")
    drawn = fills.sort("notional_ccy", "ts_ns", "order_id", descending=[True, False, False]).head(most_fills).sort("ts_ns", "order_id")
    candles = bars.height <= most_points and bars["open"].null_count() == 0
    position = _position(tape, strategy, symbol, bars["ts_ns"].to_numpy(), most_points)
    series = (_price(bars, candles, most_points), position, *_markers(drawn, fills))
    rest = f"{count(fills.height - drawn.height)} smaller fills are not drawn" if drawn.height < fills.height else ""
    title = f"{symbol}: {count(fills.height)} fill{'s' if fills.height != 1 else ''}, {money(float(fills['notional_ccy'].sum()))} traded"
    return Chart(identifier, title, "fills", series, dates=True), rest


def story(fill: Mapping[str, Any]) -> str:
    """What one fill was: the numbers of the ledger, line by line."""
    costs = ", ".join(f"{name} {number(fill[name])}" for name in _PARTS)
    lines = [
        f"order {fill['order_id']}: {fill['side']} {number(fill['qty_filled'], 4)} of {number(fill['qty_left'], 4)} "
        f"at {price_of(fill['price'])}",
        f"decided {_moment(fill['decision_ns'])} at {price_of(fill['decision_price'])}",
        f"in the market {_moment(fill['arrival_ns'])}",
        f"filled in the bar to {_moment(fill['ts_ns'])}, before costs at {price_of(fill['reference'])}",
        f"{money(fill['notional_ccy'])} traded, {percent(fill['participation'], 3)} of the bar's volume",
        f"lost to {costs}",
        f"left as {fill['status']}" + (f", {plain(fill['reason'])}" if fill["reason"] != "none" else ""),
    ]
    if fill["proxy"]:
        lines.append(f"assumed of this bar: {plain(fill['proxy']).replace(',', ', ')}")
    return "\n".join(lines)


def price_of(value: float | None) -> str:
    """Six digits that count, as many decimals as they need."""
    if value is None:
        return number(None)
    digits = 2 if abs(value) >= 1000 else 4 if abs(value) >= 10 else 6
    return number(value, digits)


def money_like(*values: float | None) -> Format:
    """One form for a whole table: with cents where its sums are small."""
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    return money if largest >= _CENTS_BELOW else number


def _moment(ns: int | None) -> str:
    """To the millisecond, and no more of it than there is."""
    if ns is None:
        return number(None)
    text, rest = iso(ns - ns % 10**9).replace("T", " ").removesuffix("Z"), ns % 10**9 // 10**6
    return f"{text}.{rest:03d}" if rest else text


def _price(bars: pl.DataFrame, candles: bool, most_points: int) -> Series:
    close = bars["close"].to_numpy().astype(np.float32)
    keep: Int64Array = np.arange(close.size, dtype=np.int64) if candles else downsample(close, most_points)
    x, shown = _times(bars["ts_ns"].to_numpy()[keep]), close[keep]
    if not candles:
        return Series("price", x, shown, COLOURS["reference"])
    low, high, opened = (bars[name].to_numpy().astype(np.float32)[keep] for name in ("low", "high", "open"))
    return Series("price", x, shown, COLOURS["reference"], low=low, high=high, open=opened)


def _position(tape: Tape, strategy: str, symbol: str, ts_ns_T: Int64Array, most_points: int) -> Series:
    """What was held after each bar; nothing where the ledger has no row."""
    held = tape.trace.positions.filter((pl.col("strategy") == strategy) & (pl.col("symbol") == symbol)).select("ts_ns", "position")
    grid = pl.DataFrame({"ts_ns": ts_ns_T}).join(held, on="ts_ns", how="left").sort("ts_ns")
    position_T = grid["position"].fill_null(0.0).to_numpy().astype(np.float32)
    keep = downsample(position_T, most_points)
    return Series("position", _times(ts_ns_T[keep]), position_T[keep], COLOURS["total"])


def _markers(drawn: pl.DataFrame, fills: pl.DataFrame) -> list[Series]:
    """One series a side; the area of a marker grows with the money traded."""
    most = float(fills["notional_ccy"].max() or 1.0)  # type: ignore[arg-type]
    found = []
    for side, colour in _SIDES.items():
        own = drawn.filter(pl.col("side") == side)
        share = np.sqrt(own["notional_ccy"].to_numpy() / most)
        size: Float32Array = (_SMALLEST + (_LARGEST - _SMALLEST) * share).astype(np.float32)
        price = own["price"].to_numpy().astype(np.float32)
        notes = tuple(story(row) for row in own.iter_rows(named=True))
        found.append(Series(side, _times(own["ts_ns"].to_numpy()), price, colour, size=size, notes=notes))
    return found


def _times(ts_ns: Int64Array) -> tuple[str, ...]:
    return tuple(iso(ns) for ns in ts_ns.tolist())
