"""Worlds of pairs in another currency: what is stressed is the pair's own price, whatever the account's money does to its notional."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plusultra_core import config
from plusultra_core.clock import NS_PER_DAY
from plusultra_core.inference.portfolios.rules import log_moves
from plusultra_core.market import MarketConfig
from plusultra_core.simulation.engine import backtest
from plusultra_core.simulation.market import check_market, market_arrays
from plusultra_core.simulation.records import COSTS
from plusultra_core.simulation.worlds.history import common_history, find_crises
from plusultra_core.simulation.worlds.layout import empty_bars, lay_worlds, open_ground
from plusultra_core.simulation.worlds.specs import CALM, EVERY_ASSET, GAP, UNCHANGED, Event, Past, World, open_past
from plusultra_core.simulation.worlds.sweep import Player, Scenarios, Terms, run_scenarios

T, START = 160, 100
YEN, CROSS, EURO = 0, 1, 2
"""Dollars in yen, of which a unit is always one dollar; euros in yen; euros in dollars."""


@pytest.fixture(scope="module")
def pairs(root: Path) -> tuple[Past, Any]:
    rng = np.random.default_rng(3)
    yen = 110.0 * np.exp(np.cumsum(rng.normal(0, 0.01, T)))
    yen[40:50] *= np.exp(-0.03 * np.arange(1, 11))
    yen[50:] *= np.exp(-0.3)
    euro = 1.1 * np.exp(np.cumsum(rng.normal(0, 0.01, T)))
    close = np.stack((yen, euro * yen, euro))
    bars = {"open": close * np.exp(rng.normal(0, 0.002, close.shape)), "close": close}
    bars |= {"high": np.maximum(bars["open"], close) * 1.001, "low": np.minimum(bars["open"], close) * 0.999}
    bars |= {"volume": np.full(close.shape, np.nan), "funding": np.zeros(close.shape)}
    bars["fx"] = np.stack((1.0 / yen, 1.0 / yen, np.ones(T)))
    forex = config.load(MarketConfig, root / "configs" / "markets" / "forex.yaml")
    market = market_arrays(NS_PER_DAY * np.arange(T), bars, np.full(close.shape, 0.01), np.ones(close.shape, bool), forex, 20, 0.01)
    check_market(market)
    return open_past(market, START, T, 1.0, 7), close


def result_of(past: Past, drawn: World, world: Any, **costs: Any) -> Any:
    """The ledger of one unit of each pair held from the first bar of the span on."""
    laid = lay_worlds(open_ground(past, whole=True), (drawn,), empty_bars(open_ground(past, whole=True), 1))
    target = np.full((past.num_steps, 3), np.nan)
    target[0] = 0.3
    return backtest(laid, target, past.start, NS_PER_DAY, world.plain, replace(world.free, **costs), world.wide)


def test_a_stretched_pair_moves_as_much_more_in_its_own_price(pairs: Any, world: Any) -> None:
    past, close = pairs
    for drawn, stretch in ((CALM, 1.0), (World("wide", "wide/0", UNCHANGED._replace(sigma=4.0)), 4.0)):
        steps = result_of(past, drawn, world).steps
        before = (steps.position * steps.mark)[:-1]
        local = np.log1p(steps.price_pnl[1:] / (before + 0.0))
        own = np.log(close[:, START + 2 : T] / close[:, START + 1 : T - 1]).T
        rate = np.array([own[:, YEN], own[:, YEN], 0.0 * own[:, YEN]]).T  # a result in yen is worth exp(-rate) of it
        moved = np.log1p(np.expm1(local) * np.exp(rate))
        assert np.allclose(moved - moved.mean(axis=0), stretch * (own - own.mean(axis=0)), atol=1e-9), stretch


def test_the_crisis_of_a_pair_whose_unit_is_always_a_dollar_is_found(pairs: Any) -> None:
    past, _ = pairs
    found = find_crises(past.market, START, common_history(past.market, START, 1.0).eligible_T, 10, 1)
    assert abs(next(crisis for crisis in found if crisis.rule == "drawdown").first - 40) <= 1


def test_costs_of_a_world_are_those_that_a_ledger_shows(pairs: Any, world: Any) -> None:
    past, _ = pairs
    rng = np.random.default_rng(4)
    target = np.where(rng.random((past.num_steps, 3)) < 0.5, rng.uniform(-0.5, 0.5, (past.num_steps, 3)), np.nan)
    terms = Terms(NS_PER_DAY, world.plain, world.costly)
    worlds = (CALM, World("gap", "gap/0", UNCHANGED._replace(sigma=2.0), (Event(GAP, 20, 1, EVERY_ASSET, -0.1),)))
    players = [Player("a", world.wide, target), Player("b", world.wide, -target)]
    found: Scenarios = run_scenarios(past, worlds, players, terms, 9, 64, 1, True)
    for w, drawn in enumerate(worlds):
        laid = lay_worlds(open_ground(past, whole=True), (drawn,), empty_bars(open_ground(past, whole=True), 1))
        for p, player in enumerate(players):
            ledger = backtest(laid, player.target_KA, past.start, NS_PER_DAY, terms.simulation, terms.costs, player.guard)
            for name in ("price_pnl", *COSTS):
                expected = ledger.account()[name].sum() / ledger.equity[0]
                assert found.numbers[name][w, p] == pytest.approx(expected, rel=1e-9, abs=1e-12), name


def test_the_moves_that_a_portfolio_sees_are_those_of_the_quoted_price(pairs: Any) -> None:
    past, close = pairs
    moves, seen = log_moves(past.market)
    assert seen[1:].all() and np.allclose(moves[1:], np.diff(np.log(close), axis=1).T)
