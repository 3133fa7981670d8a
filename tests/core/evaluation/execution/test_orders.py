"""Counts of orders: each in one bucket, one ending and one bin, and the worst fills are the worst."""

import numpy as np
import polars as pl
import pytest

from plusultra_core.evaluation.execution.orders import endings, filled_bars, latencies, sizes, worst_fills
from plusultra_core.evaluation.execution.sheet import Tape


def test_realised_latencies_are_those_that_were_configured(tape: Tape) -> None:
    found = latencies(tape.trace.orders, tape.rules["latency_ms"], tape.rules["latency_prob"])
    assert found["latency_ms"].unique().sort().to_list() == [0.0, 250.0, 1e8]
    assert set(found["strategy"]) == {"policy", "sized_hybrid"}
    for (name,), rows in found.group_by("strategy"):
        sent = tape.trace.orders.filter((pl.col("strategy") == name) & (pl.col("status") != "rejected"))
        assert rows["num_orders"].sum() == sent.height
        assert rows["share"].sum() == pytest.approx(1.0)
        for row in rows.iter_rows(named=True):
            assert abs(row["share"] - row["configured"]) < 4.5 * row["error"]
            assert row["num_orders"] == ((sent["arrival_ns"] - sent["decision_ns"]) == row["latency_ms"] * 1e6).sum()


def test_buckets_of_one_length_are_one(tape: Tape) -> None:
    found = latencies(tape.trace.orders, (250.0, 0.0, 250.0, 1e8), (0.3, 0.3, 0.3, 0.1))
    assert found.filter(pl.col("latency_ms") == 250.0)["configured"].unique().to_list() == [pytest.approx(0.6)]


def test_every_order_has_one_ending_and_its_share_of_the_fill(tape: Tape) -> None:
    found, orders = endings(tape.trace.orders), tape.trace.orders
    assert found["num_orders"].sum() == orders.height
    assert {"filled", "partial"} <= set(found["status"])
    for row in found.iter_rows(named=True):
        own = orders.filter(
            (pl.col("strategy") == row["strategy"]) & (pl.col("status") == row["status"]) & (pl.col("reason") == row["reason"])
        )
        asked = (own["qty_ordered"] * own["decision_price"]).sum()
        got = (own["qty_filled"] * own["decision_price"]).sum()
        assert row["fill_ratio"] == pytest.approx(got / asked)
        assert row["opportunity"] == pytest.approx(own["opportunity"].sum())
        if row["status"] == "filled":
            assert row["fill_ratio"] == pytest.approx(1.0)


def test_every_order_and_fill_stands_in_one_bin_within_its_edges(tape: Tape) -> None:
    found, orders = sizes(tape.trace.orders, tape.executions), tape.trace.orders
    fills = filled_bars(tape.executions)
    for (name,), rows in found.group_by("strategy"):
        value, share = (rows.filter(pl.col("measure") == measure) for measure in ("value_ccy", "participation"))
        sent = orders.filter((pl.col("strategy") == name) & (pl.col("status") != "rejected"))
        worth = (sent["qty_ordered"] * sent["decision_price"]).to_numpy()
        own = fills.filter(pl.col("strategy") == name)
        assert value["num"].sum() == sent.height and share["num"].sum() == own.height
        assert share["traded_ccy"].sum() == pytest.approx(own["notional_ccy"].sum())
        for row in value.iter_rows(named=True):
            assert row["num"] == np.sum((worth > row["low"]) & (worth <= row["high"]))
    assert fills["participation"].max() <= 0.01 + 1e-12


def test_the_worst_fills_are_those_that_lost_most(tape: Tape) -> None:
    found = worst_fills(tape.trace.orders, tape.executions, 5)
    parts = ("delay", "waiting", "spread", "impact", "fees")
    for (name,), rows in found.group_by("strategy", maintain_order=True):
        every = filled_bars(tape.executions).filter(pl.col("strategy") == name).select(pl.sum_horizontal(parts).alias("cost"))["cost"]
        assert rows["cost"].to_list() == every.sort(descending=True).head(5).to_list()
        for row in rows.iter_rows(named=True):
            order = tape.trace.orders.filter((pl.col("strategy") == name) & (pl.col("order_id") == row["order_id"])).row(0, named=True)
            side = 1 if order["side"] == "buy" else -1
            moved = side * row["qty_filled"] * (row["price"] - order["decision_price"]) + row["fees"]
            assert row["cost"] == pytest.approx(moved, abs=1e-9 * row["notional_ccy"])
            assert row["bps"] == pytest.approx(1e4 * row["cost"] / (row["qty_filled"] * order["decision_price"]))
