"""How orders fared: latencies against what was configured, fills by reason, sizes, and the fills that cost most."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from plusultra_core.clock import NS_PER_MS
from plusultra_core.evaluation.backtests import REFUSED
from plusultra_core.evaluation.execution.money import PARTS, bps, priced

_PAID = tuple(part for part in PARTS if part != "opportunity")
_SHARES = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 0.05, 0.1, 1.0)
_VALUES = (0.0, 1e3, 3e3, 1e4, 3e4, 1e5, 3e5, 1e6, np.inf)


def latencies(orders: pl.DataFrame, latency_ms: Sequence[float], latency_prob: Sequence[float]) -> pl.DataFrame:
    """Realised latencies of the orders that were sent, each in the bucket nearest to it, beside the configured probabilities.

    Columns strategy, latency_ms, configured, num_orders, share, error (standard error of the share, were the probability right),
            mean_ms. Buckets of equal length are one.
    """
    probability: dict[float, float] = {}
    for length, part in zip(latency_ms, latency_prob, strict=True):
        probability[float(length)] = probability.get(float(length), 0.0) + float(part)
    buckets = np.array(sorted(probability))
    sent = orders.filter(pl.col("status") != REFUSED)
    taken = ((sent["arrival_ns"] - sent["decision_ns"]) / NS_PER_MS).to_numpy()
    nearest = buckets[np.abs(taken[:, None] - buckets[None, :]).argmin(axis=1)] if taken.size else np.zeros(0)
    seen = sent.select("strategy").with_columns(pl.Series("latency_ms", nearest, pl.Float64), pl.Series("taken", taken, pl.Float64))
    counted = seen.group_by("strategy", "latency_ms").agg(pl.len().alias("num_orders"), pl.col("taken").mean().alias("mean_ms"))
    configured = pl.DataFrame({"latency_ms": buckets, "configured": [probability[length] for length in buckets.tolist()]})
    grid = orders.select(pl.col("strategy").unique()).join(configured, how="cross")
    num = pl.col("num_orders").sum().over("strategy")
    expected = pl.col("configured")
    return (
        grid.join(counted, on=["strategy", "latency_ms"], how="left")
        .with_columns(pl.col("num_orders").fill_null(0))
        .with_columns((pl.col("num_orders") / num).alias("share"), (expected * (1.0 - expected) / num).sqrt().alias("error"))
        .select("strategy", "latency_ms", "configured", "num_orders", "share", "error", "mean_ms")
        .filter(num > 0)
        .sort("strategy", "latency_ms")
    )


def endings(orders: pl.DataFrame) -> pl.DataFrame:
    """How orders ended and why, and how much of what they asked for they got, by value at the price of the decision.

    Columns strategy, status, reason, num_orders, asked_ccy, filled_ccy, fill_ratio, opportunity; orders that were refused stand apart: what
            they would have earned is no cost of execution.
    """
    return (
        priced(orders)
        .group_by("strategy", "status", "reason")
        .agg(pl.len().alias("num_orders"), *(pl.col(name).sum() for name in ("asked_ccy", "got_ccy", "filled_ccy", "opportunity")))
        .with_columns(pl.when(pl.col("asked_ccy") > 0).then(pl.col("got_ccy") / pl.col("asked_ccy")).alias("fill_ratio"))
        .select("strategy", "status", "reason", "num_orders", "asked_ccy", "filled_ccy", "fill_ratio", "opportunity")
        .sort("strategy", "num_orders", "status", "reason", descending=[False, True, False, False])
    )


def sizes(orders: pl.DataFrame, executions: pl.DataFrame) -> pl.DataFrame:
    """Distribution of what orders were worth, and of the part that each fill took of its bar's volume.

    Columns strategy, measure (value_ccy or participation), low, high, num, traded_ccy.
    """
    sent = priced(orders).filter((pl.col("status") != REFUSED) & (pl.col("asked_ccy") > 0))
    filled = filled_bars(executions).filter(pl.col("participation").is_not_null())
    value = sent.select("strategy", pl.col("asked_ccy").alias("x"), pl.col("asked_ccy").alias("worth"))
    share = filled.select("strategy", pl.col("participation").alias("x"), pl.col("notional_ccy").alias("worth"))
    both = [_binned(value, "value_ccy", _VALUES), _binned(share, "participation", _SHARES)]
    return pl.concat(both).sort("strategy", "measure", "low")


def worst_fills(orders: pl.DataFrame, executions: pl.DataFrame, most: int) -> pl.DataFrame:
    """The `most` fills of each strategy that lost most against the price of their decision, fees included.

    Columns strategy, order_id, symbol, side, decision_ns, arrival_ns, ts_ns, decision_price, reference, price, qty_filled, notional_ccy,
            participation, delay, waiting, spread, impact, fees, cost, bps, status, reason, proxy.
    """
    decided = orders.select("strategy", "order_id", "decision_ns", "arrival_ns", "decision_price")
    return (
        filled_bars(executions)
        .join(decided, on=["strategy", "order_id"], how="left")
        .with_columns(pl.sum_horizontal(_PAID).alias("cost"))
        .with_columns(bps(pl.col("cost"), pl.col("qty_filled") * pl.col("decision_price")).alias("bps"))
        .sort("strategy", "cost", "order_id", "ts_ns", descending=[False, True, False, False])
        .group_by("strategy", maintain_order=True)
        .head(most)
        .select(
            "strategy", "order_id", "symbol", "side", "decision_ns", "arrival_ns", "ts_ns", "decision_price", "reference", "price",
            "qty_filled", "notional_ccy", "participation", *_PAID, "cost", "bps", "status", "reason", "proxy",
        )
    )  # fmt: skip


def filled_bars(executions: pl.DataFrame) -> pl.DataFrame:
    """The bars in which an order got something."""
    return executions.filter(pl.col("qty_filled") > 0).with_columns((pl.col("qty_filled") * pl.col("price")).alias("notional_ccy"))


def _binned(values: pl.DataFrame, measure: str, edges: Sequence[float]) -> pl.DataFrame:
    place = np.clip(np.searchsorted(np.array(edges), values["x"].to_numpy(), side="left"), 1, len(edges) - 1)
    low, high = np.array(edges)[place - 1], np.array(edges)[place]
    return (
        values.with_columns(pl.Series("low", low, pl.Float64), pl.Series("high", high, pl.Float64), pl.lit(measure).alias("measure"))
        .group_by("strategy", "measure", "low", "high")
        .agg(pl.len().alias("num"), pl.col("worth").sum().alias("traded_ccy"))
    )
