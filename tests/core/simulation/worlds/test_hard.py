"""Worlds are never milder than they say: the first trade meets them too, the dead are not struck, and who is delisted stays so."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from plusultra_core.clock import NS_PER_DAY
from plusultra_core.simulation.engine import backtest, build_rules
from plusultra_core.simulation.market import check_market, with_delisting
from plusultra_core.simulation.worlds.families import EventConfig, PerturbationConfig
from plusultra_core.simulation.worlds.history import Crisis, common_history
from plusultra_core.simulation.worlds.layout import empty_bars, lay_worlds, open_ground
from plusultra_core.simulation.worlds.specs import CALM, UNCHANGED, Past, World, open_past, perturb, stressed_costs, stressed_execution
from plusultra_core.simulation.worlds.sweep import Player, Terms, run_scenarios


def lay(past: Past, drawn: World) -> Any:
    ground = open_ground(past, whole=True)
    return lay_worlds(ground, (drawn,), empty_bars(ground, 1))


def test_the_order_of_the_first_decision_pays_the_impact_of_its_world(world: Any) -> None:
    past = open_past(world.market(60, 2), 30, 60, 1.0, 7)
    costs = replace(world.free, impact_coef=1.0)
    target = np.full((past.num_steps, 2), np.nan)
    target[0] = 0.1
    paid = {}
    for name, factors in (("calm", {}), ("thin", {"volume": 0.25}), ("wild", {"sigma": 2.0})):
        laid = lay(past, World(name, name, UNCHANGED._replace(**factors)))
        ledger = backtest(laid, target, past.start, NS_PER_DAY, world.plain, costs, world.wide)
        value = np.abs(ledger.steps.fill[0]) * laid.open[past.start + 1]
        paid[name] = ledger.steps.impact[0] / value**1.5
    assert paid["thin"] == pytest.approx(2.0 * paid["calm"]) and paid["wild"] == pytest.approx(2.0 * paid["calm"])


def dead(world: Any, num_dead: int) -> Any:
    """Ten assets, of which the last few have had no bar since bar 20."""
    market = world.market(300, 10)
    gone = (np.arange(300) >= 20)[:, None] & (np.arange(10) >= 10 - num_dead)
    prices = {name: np.where(gone, np.nan, getattr(market, name)) for name in ("open", "high", "low", "close")}
    return market._replace(**prices, tradable=~gone, volume=np.where(gone, 0.0, market.volume))


def test_assets_that_died_long_ago_keep_no_bar_from_coming_again(world: Any) -> None:
    assert np.flatnonzero(~common_history(dead(world, 4), 200, 0.8).eligible_T).tolist() == [0]


def test_an_event_of_one_asset_strikes_one_that_is_there(world: Any) -> None:
    past = open_past(dead(world, 4), 200, 300, 0.8, 7)
    event = EventConfig(kind="gap", scope="asset", size_frac=(-0.5, -0.4), at_frac=(0.1, 0.9), num_events=4, num_bars=1)
    drawn = perturb(past, PerturbationConfig(name="fall", num_worlds=10, factors={}, events=(event,)))
    assert {event.asset for item in drawn for event in item.events} == set(range(6))


@pytest.mark.parametrize(("end", "strikes"), [(160, 160), (175, 180)])
def test_an_asset_that_is_delisted_in_the_span_is_so_in_a_crisis_too(world: Any, end: int, strikes: int) -> None:
    market = world.market(200, 2)
    market = with_delisting(market, np.array([200, end]), np.array([0.0, -1.0]))
    past = open_past(market, 150, 200, 1.0, 7)
    laid = lay(past, World("crisis", "crisis", UNCHANGED, crisis=Crisis("drawdown", 50, 10, 0.1), step=19))
    check_market(laid)
    assert laid.end.tolist() == [200, strikes]
    ledger = backtest(laid, np.full((49, 2), 0.3), 150, NS_PER_DAY, world.plain, world.free, world.wide)
    worth = ledger.steps.position[strikes - 152, 1] * ledger.steps.mark[strikes - 152, 1]
    assert ledger.steps.price_pnl[strikes - 151, 1] == pytest.approx(-worth) and worth > 0


@pytest.mark.parametrize("maker", [-0.5, 0.5])
def test_higher_fees_raise_no_rebate(world: Any, maker: float) -> None:
    cfg, dear = replace(world.plain, order_type="limit", maker_fee_factor=maker), UNCHANGED._replace(fee=2.0)
    calm = build_rules(cfg, world.costly, NS_PER_DAY)
    rules = build_rules(stressed_execution(cfg, dear), stressed_costs(world.costly, dear), NS_PER_DAY)
    assert rules.fee_frac == 2.0 * calm.fee_frac
    assert rules.maker_fee_frac == (calm.maker_fee_frac if maker < 0 else 2.0 * calm.maker_fee_frac)


def test_the_dead_take_no_room_and_change_no_number(world: Any) -> None:
    market = dead(world, 4)
    past, whole = open_past(market, 200, 300, 0.8, 7), open_ground(open_past(market, 200, 300, 0.8, 7), whole=True)
    assert open_ground(past, whole=False).head == 200 and whole.head == 0
    target = np.random.default_rng(2).uniform(-0.3, 0.3, (past.num_steps, 10))
    drawn = (CALM, World("wide", "wide/0", UNCHANGED._replace(sigma=2.0)))
    found = run_scenarios(past, drawn, [Player("p", world.wide, target)], Terms(NS_PER_DAY, world.plain, world.costly), 9, 64, 1, True)
    for w, each in enumerate(drawn):
        ledger = backtest(lay(past, each), target, past.start, NS_PER_DAY, world.plain, world.costly, world.wide)
        assert found.numbers["ret"][w, 0] == ledger.equity[-1] / ledger.equity[0] - 1.0


def test_an_asset_that_was_delisted_before_the_span_comes_back_in_no_world(world: Any) -> None:
    market = with_delisting(world.market(200, 2), np.array([200, 100]), np.array([0.0, -1.0]))
    past = open_past(market, 150, 200, 1.0, 7)
    for step in (0, 19):
        for whole in (True, False):
            ground = open_ground(past, whole)
            drawn = World("crisis", "crisis", UNCHANGED, crisis=Crisis("drawdown", 50, 10, 0.1), step=step)
            laid = lay_worlds(ground, (drawn,), empty_bars(ground, 1))
            check_market(laid)
            assert not laid.tradable[past.start - ground.head :, 1].any()
