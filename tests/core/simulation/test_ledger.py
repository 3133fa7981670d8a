"""The ledger's columns add up to its steps."""

from typing import Any

import numpy as np
import pytest

from plusultra_core.simulation.ledger import Ledger
from plusultra_core.simulation.records import CANCELLED, CARRIED, COSTS, PARTIAL, PROXY_VOLUME, REPLACED

NAN = float("nan")


@pytest.fixture(scope="module")
def ledger(world: Any) -> Ledger:
    market = world.market(60, 4, seed=8, gaps=0.1, half_spread_bps=2.0)
    targets = np.random.default_rng(1).normal(0, 0.5, (59, 4))
    return world.run(market, targets, costs=world.costly, participation=0.01, time_in_force="gtc", latency_ms=(9e7,))


def test_the_account_balances_at_every_close(ledger: Ledger) -> None:
    account = ledger.account()
    explained = account["price_pnl"] - sum(account[name] for name in COSTS)
    assert np.allclose(np.diff(account["equity"]), explained[1:], rtol=0, atol=1e-9 * 1e6)
    assert account["equity"][0] == 1e6
    assert len(account["ts_ns"]) == 60


def test_positions_and_orders_carry_the_same_costs_as_the_account(ledger: Ledger) -> None:
    account, positions, orders = ledger.account(), ledger.positions(), ledger.orders()
    for name in ("price_pnl", *COSTS):
        assert positions[name].sum() == pytest.approx(account[name].sum())
    for name in ("spread", "impact", "latency_drift"):
        assert orders[name].sum() == pytest.approx(account[name].sum())
    assert orders["fees"].sum() == pytest.approx(account["fees"].sum() - account["liquidation"].sum())


def test_every_order_has_one_row_and_one_end(ledger: Ledger) -> None:
    orders = ledger.orders()
    assert len(np.unique(orders["order_id"])) == len(orders["order_id"])
    open_at_end = orders["status"] == CARRIED
    last = {int(slot): orders["order_id"][orders["slot"] == slot].max() for slot in np.unique(orders["slot"])}
    assert all(orders["order_id"][i] == last[int(orders["slot"][i])] for i in np.flatnonzero(open_at_end))


def test_a_replaced_order_says_so_and_keeps_what_it_filled(world: Any) -> None:
    market = world.flat(5, volume=1000.0)
    ledger = world.run(market, [[0.25], [-0.25], [NAN], [NAN]], time_in_force="gtc")
    orders = ledger.orders()
    assert orders["status"][0] == PARTIAL
    assert orders["reason"][0] == REPLACED
    assert orders["qty_filled"][0] == 1000.0
    late = world.run(world.flat(5), [[0.25], [NAN], [-0.25], [NAN]], latency_ms=(0.0,), time_in_force="gtc", order_type="limit")
    assert late.orders()["status"].tolist()[0] == CANCELLED


def test_what_came_from_the_config_is_flagged_on_the_order(world: Any) -> None:
    market = world.flat(4)
    market.proxy[1:] = PROXY_VOLUME
    assert world.run(market, [[0.5], [NAN], [NAN]]).orders()["proxy"].tolist() == [PROXY_VOLUME]


def test_an_idle_ledger_has_no_orders(world: Any) -> None:
    ledger = world.run(world.flat(4), [[0.0], [NAN], [0.0]])
    assert all(len(column) == 0 for column in ledger.orders().values())
    assert all(len(column) == 0 for column in ledger.positions().values())
    assert set(ledger.equity) == {1e6}


def test_an_order_is_the_sum_of_the_bars_it_lived_in(ledger: Ledger) -> None:
    orders, lived = ledger.orders(), ledger.executions()
    first = np.flatnonzero(np.diff(lived["order_id"], prepend=-1))
    assert lived["order_id"][first].tolist() == orders["order_id"].tolist()
    assert np.diff(np.append(first, len(lived["bar"]))).tolist() == orders["num_bars"].tolist()
    for term in ("spread", "impact", "latency_drift", "fees"):
        assert np.add.reduceat(lived[term], first) == pytest.approx(orders[term], abs=1e-12)
    assert np.abs(np.add.reduceat(lived["fill"], first)) == pytest.approx(orders["qty_filled"])
    left = lived["qty"] - lived["fill"]
    again = lived["order_id"][1:] == lived["order_id"][:-1]
    assert np.array_equal(lived["qty"][1:][again], left[:-1][again])
    assert np.array_equal(np.diff(lived["bar"])[again], np.ones(int(again.sum()), np.int64))


def test_a_forced_close_is_a_loss_of_its_asset_and_no_order(world: Any) -> None:
    market = world.flat(4)
    market.low[2] = 1.0
    ledger = world.run(market, [[5.0], [NAN], [NAN]], maintenance_margin=0.05)
    positions = ledger.positions()
    assert ledger.liquidated and positions["liquidation"].sum() > 0
    assert positions["liquidation"].sum() == pytest.approx(ledger.account()["liquidation"].sum())
    assert ledger.executions()["fees"].sum() == 0.0
