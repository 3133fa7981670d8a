"""Worlds x policies through the one kernel: equal to backtests one by one, whatever the chunks, in bounded memory."""

import tracemalloc
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from plusultra_core.clock import NS_PER_DAY
from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.simulation.engine import backtest
from plusultra_core.simulation.records import COSTS
from plusultra_core.simulation.worlds import sweep
from plusultra_core.simulation.worlds.layout import empty_bars, lay_worlds, open_ground
from plusultra_core.simulation.worlds.specs import (
    CALM,
    EVERY_ASSET,
    GAP,
    UNCHANGED,
    Event,
    Past,
    World,
    open_past,
    resample,
    stressed_costs,
    stressed_execution,
)
from plusultra_core.simulation.worlds.sweep import Player, Scenarios, Terms, run_scenarios

HOUR_MS = 3_600_000.0


@pytest.fixture(scope="module")
def terms(world: Any) -> Terms:
    cfg, costs = world.bent(
        world.costly,
        latency_ms=(50.0, 20 * HOUR_MS, 40 * HOUR_MS),
        latency_prob=(0.5, 0.3, 0.2),
        participation=0.05,
        time_in_force="gtc",
        max_leverage=4.0,
        maintenance_margin=0.2,
        permanent_coef=0.2,
        permanent_decay_frac=0.5,
    )
    return Terms(NS_PER_DAY, cfg, costs)


@pytest.fixture(scope="module")
def players(world: Any, past: Past) -> list[Player]:
    """Random targets: two without limits, one of them leveraged, and one that is guarded."""
    rng = np.random.default_rng(9)
    tables = [np.where(rng.random((past.num_steps, 5)) < 0.5, rng.uniform(-0.6, 0.6, (past.num_steps, 5)), np.nan) for _ in range(3)]
    tight = replace(world.wide, max_weight=0.2, reduce_drawdown=0.05, resume_drawdown=0.02, halt_drawdown=0.1)
    return [Player(f"p{k}", world.wide if k < 2 else tight, table * (3.0 if k == 1 else 1.0)) for k, table in enumerate(tables)]


def run(
    past: Past, worlds: Any, players: Any, terms: Terms, chunk_mib: int = 64, num_threads: int = 1, with_costs: bool = True
) -> Scenarios:
    return run_scenarios(past, worlds, players, terms, 9, chunk_mib, num_threads, with_costs)


@pytest.fixture(scope="module")
def found(past: Past, worlds: tuple[World, ...], players: list[Player], terms: Terms) -> Scenarios:
    return run(past, worlds, players, terms)


def same(a: Scenarios, b: Scenarios) -> bool:
    return all(np.array_equal(a.numbers[name], b.numbers[name]) for name in a.numbers) and np.array_equal(a.path_SPK, b.path_SPK)


def test_the_calm_world_is_the_backtest_of_the_whole_market_bit_for_bit(
    past: Past, players: list[Player], terms: Terms, found: Scenarios
) -> None:
    for p, player in enumerate(players):
        ledger = backtest(past.market, player.target_KA, past.start, NS_PER_DAY, terms.simulation, terms.costs, player.guard)
        assert found.numbers["ret"][0, p] == ledger.equity[-1] / 1e6 - 1.0
        assert found.numbers["max_drawdown"][0, p] == (1.0 - ledger.equity / ledger.peak).max()
        assert np.array_equal(found.path_SPK[0, p], (ledger.equity[found.path_steps_K] / 1e6).astype(np.float32))
        assert found.numbers["spread"][0, p] == pytest.approx(ledger.account()["spread"].sum() / 1e6, rel=1e-12)
        assert found.numbers["liquidated"][0, p] == ledger.liquidated


def test_every_world_is_the_backtest_of_its_own_market(
    past: Past, worlds: tuple[World, ...], players: list[Player], terms: Terms, found: Scenarios
) -> None:
    ground = open_ground(past, whole=True)
    for w in range(0, len(worlds), 3):
        laid = lay_worlds(ground, (worlds[w],), empty_bars(ground, 1))
        cfg, costs = stressed_execution(terms.simulation, worlds[w].factors), stressed_costs(terms.costs, worlds[w].factors)
        for p, player in enumerate(players):
            ledger = backtest(laid, player.target_KA, past.start, NS_PER_DAY, cfg, costs, player.guard)
            assert found.numbers["ret"][w, p] == ledger.equity[-1] / cfg.initial_capital_ccy - 1.0, worlds[w].name


def test_no_number_depends_on_chunks_threads_order_or_on_what_stands_beside(
    past: Past, worlds: tuple[World, ...], players: list[Player], terms: Terms, found: Scenarios
) -> None:
    assert same(run(past, worlds, players, terms, chunk_mib=1, num_threads=3), found)
    back = run(past, worlds[::-1], players[::-1], terms)
    assert np.array_equal(back.numbers["ret"][::-1, ::-1], found.numbers["ret"])
    alone = run(past, worlds[7:8], players[1:2], terms, with_costs=False)
    assert alone.numbers["ret"][0, 0] == found.numbers["ret"][7, 1]
    assert "spread" not in alone.numbers


def test_the_net_return_is_the_price_gain_less_every_cost(found: Scenarios) -> None:
    explained = found.numbers["price_pnl"] - sum(found.numbers[name] for name in COSTS)
    assert np.allclose(found.numbers["ret"], explained, rtol=0, atol=1e-9)
    assert found.numbers["turnover"].min() > 0
    assert found.numbers["liquidated"].max() == 1.0
    assert found.numbers["halted"][:, 2].max() == 1.0


def test_a_wider_spread_a_higher_fee_and_more_impact_never_pay_at_the_same_fills(world: Any, past: Past) -> None:
    market = past.market._replace(depth=np.full(past.market.close.shape, np.inf))
    target = np.full((past.num_steps, 5), np.nan)
    target[0] = (0.2, -0.1, 0.3, 0.1, np.nan)  # one trade an asset, at the same prices in every world
    calm, costly = world.bent(replace(world.costly, impact_coef=0.3), time_in_force="bar", max_leverage=1e6, maintenance_margin=0.0)
    factors = [UNCHANGED._replace(**{name: k}) for name in ("spread", "fee", "impact") for k in (1.0, 2.0, 4.0, 8.0)]
    ladder = [World("x", f"x/{k}", changed) for k, changed in enumerate(factors)]
    found = run(past._replace(market=market), ladder, [Player("hold", world.wide, target)], Terms(NS_PER_DAY, calm, costly))
    net = found.numbers["ret"][:, 0].reshape(3, 4)
    assert (np.diff(net, axis=1) < 0).all()
    assert np.allclose(found.numbers["spread"][:4, 0] / found.numbers["spread"][0, 0], (1.0, 2.0, 4.0, 8.0))


def test_more_capital_earns_less_of_it_where_impact_is_paid(past: Past, world: Any, terms: Terms) -> None:
    calm, costs = world.bent(world.costly, max_leverage=1e6, maintenance_margin=0.0)
    target = np.full((past.num_steps, 5), np.nan)
    target[0, :4] = 0.2
    ladder = [World("capacity", f"{k:g}", UNCHANGED._replace(capital=k)) for k in (1.0, 10.0, 100.0)]
    found = run(past, ladder, [Player("hold", world.wide, target)], Terms(NS_PER_DAY, calm, costs))
    assert (np.diff(found.numbers["impact"][:, 0]) > 0).all()


def test_a_crash_costs_who_holds_what_it_takes(past: Past, world: Any) -> None:
    target = np.full((past.num_steps, 5), np.nan)
    target[0, 0] = 1.0
    crash = World("crash", "crash/0", UNCHANGED, (Event(GAP, 20, 1, EVERY_ASSET, -0.5),))
    free = Terms(NS_PER_DAY, replace(world.plain, time_in_force="gtc"), world.free)
    numbers = run(past, (CALM, crash), [Player("hold", world.wide, target)], free).numbers
    calm, hit = 1.0 + numbers["ret"][:, 0]
    assert hit == pytest.approx(0.5 * calm, rel=0.05)  # a little of it is cash
    assert numbers["max_drawdown"][1, 0] > 0.45


def test_a_loop_decides_where_the_bars_are_the_markets_own_and_asks_for_calm_targets_elsewhere(
    past: Past, worlds: tuple[World, ...], players: list[Player], terms: Terms, found: Scenarios
) -> None:
    seen: set[int] = set()

    def repeat(t: int, view: Any, last: Any) -> Any:
        seen.add(t)
        assert view.accounts.t_E.tolist() == [t] * len(view.accounts.t_E)
        seat = view.seat(len(view.accounts.t_E) - 1)
        assert np.array_equal(seat.accounts.asset_EA, [[0, 1, 2, 3, 4]])
        assert np.array_equal(seat.market.close[: past.start + 1], past.market.close[: past.start + 1], equal_nan=True)
        return np.tile(players[1].target_KA[t - past.start], (len(view.accounts.t_E), 1))

    looped = [players[0], players[1]._replace(open_loop=lambda num_accounts: repeat), players[2]]
    again = run(past, worlds, looped, terms)
    assert same(again, found)
    assert seen == set(range(past.start, past.end - 1))
    replaced = np.array([world.replaced for world in worlds])
    assert np.array_equal(again.looped_SP[:, 1], ~replaced)
    assert not again.looped_SP[:, [0, 2]].any()


def test_a_loop_that_never_buys_is_heard_only_where_it_sees(
    past: Past, worlds: tuple[World, ...], players: list[Player], terms: Terms
) -> None:
    cash = players[0]._replace(open_loop=lambda num_accounts: lambda t, view, last: np.zeros((num_accounts, 5)))
    found = run(past, worlds, [cash], terms)
    replaced = np.array([world.replaced for world in worlds])
    assert (found.numbers["ret"][~replaced, 0] == 0.0).all()
    assert (found.numbers["ret"][replaced, 0] != 0.0).all()


def test_memory_does_not_grow_with_the_number_of_worlds(world: Any, stress: Any, terms: Terms) -> None:
    market = world.market(600, 6)
    past = open_past(market, 200, 600, 0.5, 7)
    target = np.full((past.num_steps, 6), 0.1)
    players = [Player(f"p{k}", world.wide, target) for k in range(2)]

    def peak(num_worlds: int) -> int:
        worlds = resample(past, replace(stress.bootstrap, num_worlds=num_worlds, num_worlds_state=0))
        tracemalloc.start()
        run(past, worlds, players, terms, chunk_mib=4, with_costs=False)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(4)
    few, many = peak(40), peak(400)
    assert many < few + (1 << 20)  # a megabyte for 360 worlds more: their numbers
    assert many < 3 * (4 << 20)


@pytest.mark.parametrize(("num_bars", "start", "num_assets", "num_players"), [(40, 10, 200, 8), (120, 60, 20, 8), (1500, 1000, 20, 2)])
@pytest.mark.parametrize("closed", [False, True])
def test_memory_is_that_of_the_chunk_with_many_assets_policies_and_bars_and_in_closed_loops(
    world: Any, terms: Terms, num_bars: int, start: int, num_assets: int, num_players: int, closed: bool
) -> None:
    past = open_past(world.market(num_bars, num_assets), start, num_bars - 1, 0.5, 7)
    target = np.full((past.num_steps, num_assets), 0.5 / num_assets)

    def opens(num_accounts: int) -> Any:
        return lambda t, view, last: np.full((num_accounts, num_assets), 0.5 / num_assets)

    players = [Player(f"p{k}", world.wide, target, opens if closed and k else None) for k in range(num_players)]
    drawn = [World("s", f"s/{k}", UNCHANGED._replace(sigma=2.0)) for k in range(24)]
    run(past, drawn[:1], players, terms)
    given = 12 * 8 * num_bars * num_assets  # the market once more, for what every world is laid on
    tracemalloc.start()
    run(past, drawn, players, terms, chunk_mib=16)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < (16 << 20) + given


def test_policies_of_a_world_that_has_no_room_for_all_of_them_are_carried_in_parts(world: Any, terms: Terms) -> None:
    past = open_past(world.market(40, 60), 10, 39, 0.5, 7)
    rng = np.random.default_rng(3)
    players = [Player(f"p{k}", world.wide, rng.uniform(-0.05, 0.05, (past.num_steps, 60))) for k in range(20)]
    drawn = [CALM, World("s", "s/0", UNCHANGED._replace(sigma=2.0))]
    run(past, drawn[:1], players[:1], terms)
    tracemalloc.start()
    found = run(past, drawn, players, terms, chunk_mib=4)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < (4 << 20) + 12 * 8 * 40 * 60  # all 20 of them would take 9
    assert same(found, run(past, drawn, players, terms, chunk_mib=64))


@pytest.mark.parametrize("closed", [False, True])
def test_a_world_that_is_larger_than_a_chunk_is_refused_before_it_is_made(
    world: Any, terms: Terms, closed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    past = open_past(world.market(400, 60), 200, 399, 0.5, 7)
    target = np.zeros((past.num_steps, 60))
    loops = (lambda num_accounts: lambda t, view, last: np.zeros((num_accounts, 60))) if closed else None
    players = [Player("p", world.wide, target, loops)]
    made = Mock(wraps=lay_worlds)
    monkeypatch.setattr(sweep, "lay_worlds", made)
    with pytest.raises(ConfigError, match=r"stress.chunk_mib: one world of \d+ bars x 60 assets takes \d+ MiB, found 1; set it to") as told:
        run(past, (CALM,), players, terms, chunk_mib=1)
    made.assert_not_called()
    least = int(str(told.value).split("takes ")[1].split(" ")[0])
    run(past, (CALM,), players, terms, chunk_mib=least)
    with pytest.raises(ConfigError, match="set it to"):
        run(past, (CALM,), players, terms, chunk_mib=least - 1)


def test_targets_that_do_not_fit_the_span_are_refused(past: Past, players: list[Player], terms: Terms) -> None:
    short = players[0]._replace(target_KA=players[0].target_KA[:-1])
    with pytest.raises(ContractError, match="p0: expected targets of"):
        run(past, (CALM,), [short], terms)
