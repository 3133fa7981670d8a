"""Every sum of money is explained to the last bit of rounding, and what does not add up is refused."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plusultra_core.errors import ContractError
from plusultra_core.evaluation.execution.money import PARTS, shortfall, waterfall
from plusultra_core.evaluation.execution.sheet import Tape, load_tape
from plusultra_core.simulation.market import with_delisting

COSTS = ("spread", "impact", "latency_drift", "fees", "funding", "borrow")
NAN = float("nan")


@given(
    seed=st.integers(0, 100_000),
    order_type=st.sampled_from(["market", "limit"]),
    time_in_force=st.sampled_from(["bar", "day", "gtc", "ioc"]),
    latency=st.sampled_from([(0.0,), (250.0, 3.6e6), (1e8, 1.0)]),
    margin=st.sampled_from([0.01, 0.09]),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_costs_and_shortfall_of_random_ledgers_leave_nothing_over(
    worlds: Any, seed: int, order_type: str, time_in_force: str, latency: tuple[float, ...], margin: float
) -> None:
    made = worlds.random(
        seed, order_type=order_type, time_in_force=time_in_force, latency_ms=latency, latency_prob=(1 / len(latency),) * len(latency),
        maintenance_margin=margin, permanent_coef=0.5,
    )  # fmt: skip
    tape = load_tape(made)
    account, orders = tape.trace.account, tape.trace.orders
    found, lost = waterfall(tape.trace), shortfall(tape.trace)
    for name in ("policy", "sized_hybrid", "no_trade"):
        rows = found.filter(pl.col("strategy") == name)
        whole, parts = rows.filter(pl.col("symbol").is_null()).row(0, named=True), rows.filter(pl.col("symbol").is_not_null())
        last = account.filter(pl.col("strategy") == name).sort("ts_ns")["equity"][-1]
        assert whole["net"] == pytest.approx(last - 1e6, abs=1e-9 * 1e6)
        assert whole["price_pnl"] - sum(whole[cost] for cost in COSTS) == pytest.approx(whole["net"], abs=1e-9 * 1e6)
        assert all(parts[term].sum() == pytest.approx(whole[term], abs=1e-9 * 1e6) for term in ("price_pnl", "net", *COSTS))
        sent = orders.filter((pl.col("strategy") == name) & (pl.col("status") != "rejected"))
        expected = 0.0
        for row in sent.iter_rows(named=True):
            side, bought = (1 if row["side"] == "buy" else -1), row["qty_filled"]
            paper = row["qty_ordered"] * (row["end_price"] - row["decision_price"])
            real = bought * (row["end_price"] - row["price"]) if bought else 0.0
            expected += side * (paper - real) + row["fees"]
        told = lost.filter((pl.col("strategy") == name) & pl.col("symbol").is_null())
        assert (told["shortfall"].sum() if told.height else 0.0) == pytest.approx(expected, abs=1e-9 * 1e6)
        charged = whole["spread"] + whole["impact"] + whole["fees"] - whole["liquidation"]
        assert told.select("spread", "impact", "fees").sum().row(0) == pytest.approx(
            (whole["spread"], whole["impact"], whole["fees"] - whole["liquidation"]), abs=1e-9 * 1e6
        )
        assert charged >= 0.0


def test_a_loan_of_a_short_that_was_delisted_at_its_last_price_is_no_money_without_a_symbol(worlds: Any) -> None:
    own = worlds.simulated
    ends, last = np.array([3], dtype=np.int64), np.zeros(1)
    tape = load_tape(worlds.trace({"policy": [[-0.5], [NAN], [NAN], [NAN]]}, with_delisting(own.flat_market(5), ends, last)))
    found = waterfall(tape.trace)
    assert found["borrow"].min() > 0.0
    assert found["borrow"][0] == found["borrow"][1]


@pytest.mark.parametrize("settlement", ["cash", "margin"])
def test_money_abroad_leaves_nothing_over_and_names_the_part_of_the_rate(worlds: Any, settlement: str) -> None:
    tape = load_tape(worlds.random(11, settlement=settlement, latency_ms=(1e8,)))
    found, lost = waterfall(tape.trace), shortfall(tape.trace)
    whole = found.filter((pl.col("strategy") == "policy") & pl.col("symbol").is_null()).row(0, named=True)
    assert lost["shortfall"].abs().min() > 0
    assert (tape.trace.orders["translation"].abs().sum() > 0) is (settlement == "margin")
    assert (whole["currency_pnl"] != 0) is (settlement == "cash")
    assert 0 < whole["conversion"] < whole["spread"]


def test_an_order_at_a_constant_price_loses_its_spread_and_its_fee(worlds: Any) -> None:
    own = worlds.simulated
    costs = own.replace(own.FREE, fee_bps=5.0)
    tape = load_tape(worlds.trace({"policy": [[0.5], [NAN], [NAN]]}, own.flat_market(4, half_spread_bps=3.0), costs, latency_ms=(250.0,)))
    row = shortfall(tape.trace).row(0, named=True)
    assert row["num_orders"] == 1 and row["asked_ccy"] == pytest.approx(5e5)
    assert row["spread"] == pytest.approx(5e5 * 3e-4)
    assert row["fees"] == pytest.approx(5e5 * (1 + 3e-4) * 5e-4)
    assert (row["delay"], row["waiting"], row["impact"], row["opportunity"]) == (0.0, 0.0, 0.0, 0.0)
    assert row["bps"] == pytest.approx(3.0 + 5.0 * (1 + 3e-4))


def test_what_was_not_filled_costs_its_move_from_the_decision_to_the_end_of_the_order(worlds: Any) -> None:
    own = worlds.simulated
    market = own.flat_market(3, volume=1000.0)
    for name in ("open", "high", "low", "close"):
        getattr(market, name)[1:] = 110.0
    market.low[1:] = 100.0
    market.open[1:] = 102.0
    tape = load_tape(worlds.trace({"policy": [[0.5], [NAN]]}, market, own.FREE, time_in_force="bar"))
    row = shortfall(tape.trace).row(0, named=True)
    assert row["delay"] == pytest.approx(1000 * 2.0)
    assert row["opportunity"] == pytest.approx(4000 * 10.0)
    assert row["shortfall"] == pytest.approx(42_000.0)


def test_an_account_closed_by_force_keeps_its_loss_apart_from_the_fees_of_orders(worlds: Any) -> None:
    own = worlds.simulated
    market = own.flat_market(4)
    market.low[2] = 1.0
    costs = own.replace(own.FREE, fee_bps=5.0)
    tape = load_tape(worlds.trace({"policy": [[5.0], [NAN], [NAN]]}, market, costs, most=5.0, maintenance_margin=0.05))
    whole, lost = waterfall(tape.trace).row(0, named=True), shortfall(tape.trace).row(0, named=True)
    assert whole["liquidation"] > 1e6
    assert lost["fees"] == pytest.approx(5e6 * 5e-4)
    assert whole["fees"] == pytest.approx(whole["liquidation"] + lost["fees"])
    assert whole["net"] == pytest.approx(tape.trace.account["equity"][-1] - 1e6)


@pytest.mark.parametrize("term", ["spread", "impact", "opportunity", "delay", "waiting"])
def test_a_cost_of_an_order_that_was_touched_is_found(tape: Tape, edited: Any, term: str) -> None:
    first = pl.int_range(pl.len()) == tape.trace.orders["qty_filled"].arg_max()
    touched = tape.trace.orders.with_columns(pl.when(first).then(pl.col(term) + 1.0).otherwise(pl.col(term)).alias(term))
    with pytest.raises(ContractError, match="paper less real"):
        shortfall(edited(tape, orders=touched).trace)


@pytest.mark.parametrize("name", ["end_price", "decision_price", "arrival_ns", "translated", "delay"])
def test_an_order_of_which_a_number_is_missing_is_refused(tape: Tape, edited: Any, name: str) -> None:
    first = pl.int_range(pl.len()) == tape.trace.orders["qty_filled"].arg_max()
    touched = tape.trace.orders.with_columns(
        pl.when(first).then(None).otherwise(pl.col(name)).alias(name),
        *([] if name == "delay" else [pl.when(first).then(pl.col("delay") + 1e6).otherwise(pl.col("delay")).alias("delay")]),
    )
    with pytest.raises(ContractError, match=f"orders.{name}: 1 of the orders that were sent have none"):
        shortfall(edited(tape, orders=touched).trace)


def test_a_fee_that_was_touched_is_found_by_the_account(tape: Tape, edited: Any) -> None:
    touched = tape.trace.orders.with_columns(pl.col("fees") + 1e-3)
    with pytest.raises(ContractError, match=r"orders.fees .*of the account's cost unexplained"):
        shortfall(edited(tape, orders=touched).trace)


def test_costs_moved_between_parts_of_an_order_are_found_by_the_account(tape: Tape, edited: Any) -> None:
    first = pl.int_range(pl.len()) == tape.trace.orders["qty_filled"].arg_max()
    moved = tape.trace.orders.with_columns(
        pl.when(first).then(pl.col("spread") + 1.0).otherwise(pl.col("spread")).alias("spread"),
        pl.when(first).then(pl.col("delay") - 1.0).otherwise(pl.col("delay")).alias("delay"),
    )
    with pytest.raises(ContractError, match=r"orders.spread .*of the account's cost unexplained"):
        shortfall(edited(tape, orders=moved).trace)


@pytest.mark.parametrize("term", ["price_pnl", "borrow", "liquidation"])
def test_money_of_a_symbol_that_the_account_does_not_know_is_found(tape: Tape, edited: Any, term: str) -> None:
    touched = tape.trace.positions.with_columns((pl.col(term) + 1e-3).alias(term))
    with pytest.raises(ContractError, match=f"positions.{term} .*unexplained"):
        waterfall(edited(tape, positions=touched).trace)


def test_time_in_the_market_counts_the_closes_with_a_position(tape: Tape) -> None:
    found = waterfall(tape.trace)
    for (strategy, symbol), held in tape.trace.positions.filter(pl.col("position") != 0).group_by("strategy", "symbol"):
        row = found.filter((pl.col("strategy") == strategy) & (pl.col("symbol") == symbol)).row(0, named=True)
        assert row["time_in_market"] == pytest.approx(held.height / 119)
    idle = found.filter(pl.col("strategy") == "no_trade")
    assert idle["time_in_market"].to_list() == [0.0] and idle["symbol"].to_list() == [None]
    assert np.all(found.filter(pl.col("symbol").is_null())["time_in_market"].to_numpy() <= 1.0)
    assert set(PARTS) <= set(shortfall(tape.trace).columns)
