"""PPO's environment is the simulator: its numbers are a backtest's, its episodes stay in their span, its state is whole."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from plusultra_core.errors import ContractError
from plusultra_core.rl import env as module
from plusultra_core.rl.env import TradingEnv, sleeve
from plusultra_core.rl.reward import pay
from plusultra_core.simulation.engine import Environment, backtest
from plusultra_core.simulation.observation import OWN_STATE, observe_single
from plusultra_core.simulation.records import CARRIED, FILLED
from plusultra_core.simulation.sizing import request_single


def make(lab: Any, world: Any, num: int = 8, span: tuple[int, int] | None = (10, 200), bars: int = 20, band: float = 0.0) -> TradingEnv:
    return TradingEnv(world, num, span, bars, band, lab.run.reward)


def test_an_episode_earns_what_the_backtest_of_its_actions_earns(lab: Any) -> None:
    world = lab.world()
    env = make(lab, world, num=1, span=None)
    env.start_at(np.array([2]), np.array([30]))
    action = np.random.default_rng(0).uniform(-1, 1, 20)
    equity = [env.env.accounts.equity_E[0]]
    growth = 0.0
    for a in action:
        growth += env.step(np.array([a]), None).ret_E[0]
        equity.append(env.env.accounts.equity_E[0])
    targets = np.full((20, 4), np.nan)
    targets[:, 2] = action
    ledger = backtest(world.market, targets, 30, world.bar_ns, world.simulation, world.costs, world.guard)
    assert np.array_equal(ledger.equity, equity)
    assert growth == pytest.approx(np.log(equity[-1] / equity[0]))


def test_with_thin_volume_carried_orders_limits_and_a_band_it_still_earns_what_the_backtest_earns(lab: Any) -> None:
    """5,000 units of a quarter of a million take several bars; the guardrails cut; wishes within the band are not sent."""
    world = lab.world(half_spread_bps=8.0)
    guard = replace(world.guard, max_weight=0.6, max_participation=0.5)
    market = world.market._replace(volume=np.full_like(world.market.volume, 5_000.0), adv_ccy=np.full_like(world.market.adv_ccy, 5e5))
    costs = replace(world.costs, fee_min_ccy=5.0, borrow_bps_year=300.0)
    world = replace(world, market=market, guard=guard, costs=costs)
    env = make(lab, world, num=1, span=None, band=0.15, bars=60)
    env.start_at(np.array([1]), np.array([30]))
    targets = np.full((60, 4), np.nan)
    equity = [env.env.accounts.equity_E[0]]
    for i, a in enumerate(np.repeat(np.random.default_rng(4).uniform(-1, 1, 12), 5)):
        env.step(np.array([a]), None)
        targets[i, 1] = env.request_E[0]
        equity.append(env.env.accounts.equity_E[0])
    ledger = backtest(world.market, targets, 30, world.bar_ns, world.simulation, world.costs, world.guard)
    assert np.array_equal(ledger.equity, equity)
    assert {FILLED, CARRIED} <= set(ledger.steps.status[:, 1].tolist())
    assert np.isnan(targets[:, 1]).any()
    assert np.abs(ledger.residual()).max() < 1e-12


def test_the_simulator_is_the_one_kernel_and_not_a_copy() -> None:
    assert module.Environment.step.__module__ == "plusultra_core.simulation.engine"


def test_episodes_start_anywhere_and_never_leave_their_span(lab: Any) -> None:
    env = make(lab, lab.world(), num=64, span=(50, 90), bars=15)
    rng = np.random.default_rng(3)
    env.reset(rng)
    starts = set()
    for _ in range(60):
        starts |= set(env.start_E.tolist())
        env.step(rng.uniform(-1, 1, 64), rng)
        assert env.env.accounts.t_E.min() >= 50
        assert env.env.accounts.t_E.max() < 90
    assert min(starts) == 50
    assert max(starts) == 74


def test_an_episode_ends_after_its_length_and_the_next_begins_flat(lab: Any) -> None:
    env = make(lab, lab.world(), num=4, bars=5)
    rng = np.random.default_rng(3)
    env.reset(rng)
    for step in range(1, 11):
        outcome = env.step(np.full(4, 0.8), rng)
        assert outcome.ended_E.tolist() == [step % 5 == 0] * 4
        assert not outcome.terminated_E.any()
        if step % 5 == 0:
            assert np.all(env.env.accounts.position_EA == 0)
            own = env.obs_EP[:, -len(OWN_STATE) :]
            assert np.array_equal(own, np.tile(np.array([0, 0, 0, 0, 1], np.float32), (4, 1)))
            assert np.all(outcome.final_obs_EP[:, -len(OWN_STATE)] > 0.5)


def test_the_observation_holds_the_rows_of_now_and_the_position_held(lab: Any) -> None:
    world = lab.world()
    env = make(lab, world, num=1, span=None)
    obs = env.start_at(np.array([1]), np.array([40]))
    assert np.array_equal(obs[0, :6], world.table_TNF[40, 1])
    env.step(np.array([0.7]), None)
    assert np.array_equal(env.obs_EP[0, :6], world.table_TNF[41, 1])
    assert env.obs_EP[0, 6] == pytest.approx(0.7, abs=0.02)


def test_what_is_held_matters_so_that_this_is_no_bandit(lab: Any) -> None:
    world = lab.world(half_spread_bps=20.0)
    rewards = []
    for before in (0.0, 0.9):
        env = make(lab, world, num=1, span=None)
        env.start_at(np.array([1]), np.array([40]))
        env.step(np.array([before]), None)
        rewards.append(env.step(np.array([0.9]), None).ret_E[0])
    assert rewards[1] - rewards[0] > 1e-3


def test_within_the_band_and_without_a_forecast_nothing_is_done(lab: Any) -> None:
    world = lab.world()
    world.present_TN[41] = False
    env = make(lab, world, num=1, span=None, band=0.2)
    env.start_at(np.array([1]), np.array([39]))
    for action, traded in ((0.1, False), (0.5, True), (-0.5, False), (-0.5, True)):
        env.step(np.array([action]), None)
        assert (env.env.last.fill[0, 0] != 0) == traded


def test_a_state_that_is_put_back_goes_on_bit_for_bit(lab: Any) -> None:
    world = lab.world()
    first, second = make(lab, world), make(lab, world)
    first.reset(np.random.default_rng(0))
    for t in range(13):
        first.step(np.full(8, 0.3), np.random.default_rng(t))
    second.load_state(first.state())
    assert np.array_equal(first.obs_EP, second.obs_EP)
    for t in range(20):
        a, b = (env.step(np.full(8, -0.3), np.random.default_rng(t)) for env in (first, second))
        for left, right in zip(a, b, strict=True):
            assert np.array_equal(left, right)


@pytest.mark.parametrize("kind", ["plain", "usual", "limit orders"])
def test_a_step_in_one_call_is_request_market_reward_and_observation_to_the_last_bit(lab: Any, kind: str) -> None:
    world = lab.world(half_spread_bps=8.0, num_bars=120)
    world.present_TN[::7] = False
    if kind == "plain":
        simulation = replace(world.simulation, latency_ms=(0.0,), latency_prob=(1.0,))
        world = replace(world, simulation=simulation, costs=replace(world.costs, impact_coef=0.0))
    elif kind == "limit orders":
        world = replace(world, simulation=replace(world.simulation, order_type="limit", limit_offset_bps=20.0))
    cfg, num = replace(lab.run.reward, drawdown_coef=0.2, sharpe_coef=0.1), 70
    env = TradingEnv(world, num, (5, 110), 12, 0.1, cfg)
    env.reset(np.random.default_rng(1))
    twin = Environment(world.market, num, 1, world.bar_ns, world.simulation, world.costs, world.guard)
    start, moments, before, request = np.zeros(num, np.int64), np.zeros((num, 2)), np.zeros((num, 2)), np.zeros(num)
    reward, ret, terminated, ended = np.zeros(num), np.zeros(num), np.zeros(num, np.bool_), np.zeros(num, np.bool_)
    obs = np.zeros_like(env.obs_EP)
    for step in range(40):
        for name, array in env.env.accounts._asdict().items():
            getattr(twin.accounts, name)[...] = array
        start[:], moments[:] = env.start_E, env.moments_E2
        a = {name: array.reshape(num) for name, array in twin.accounts._asdict().items()}
        action = np.random.default_rng(step).uniform(-1, 1, num)
        action[3] = np.nan
        assert np.array_equal(env.present(), world.present_TN[a["t_E"], a["asset_EA"]])
        outcome = env.step(action, np.random.default_rng(step))
        asked = (a["t_E"], a["asset_EA"], a["weight_EA"], a["working_EA"], a["mark_EA"], a["equity_E"], a["peak_E"])
        request_single(action, world.present_TN, *asked, 0.1, request, before)
        twin.step(request[:, None])
        coefs = (cfg.scale, cfg.variance_coef, cfg.drawdown_coef, cfg.sharpe_coef, cfg.sharpe_decay)
        books = (before, a["equity_E"], a["peak_E"], a["done_E"], a["t_E"], start)
        pay(*books, 12, moments, *coefs, reward, ret, terminated, ended)
        own = ("equity_E", "capital_E", "position_EA", "working_EA", "fill_EA", "mark_EA", "pnl_EA", "pnl_peak_EA", "t_E", "asset_EA")
        observe_single(*(a[name] for name in own), start, 12, world.table_TNF, obs)
        assert np.array_equal(env.request_E, request, equal_nan=True)
        for found, wanted in zip(outcome, (reward, ret, terminated, ended, obs), strict=True):
            assert np.array_equal(found, wanted)
        for name, array in env.env.accounts._asdict().items():
            assert np.array_equal(array[~ended], getattr(twin.accounts, name)[~ended], equal_nan=True)
        assert ended.any() == (step % 12 == 11)


def test_a_step_past_the_last_bar_is_refused_and_does_nothing(lab: Any) -> None:
    world = lab.world(num_bars=50)
    env = make(lab, world, num=2, span=None)
    env.start_at(np.array([0, 1]), np.array([47, 48]))
    env.step(np.array([0.5, 0.5]), None)
    equity = env.env.accounts.equity_E.copy()
    with pytest.raises(ContractError, match="stands on bar 49, the last is 49"):
        env.step(np.array([0.1, 0.1]), None)
    assert np.array_equal(env.env.accounts.equity_E, equity)


def test_a_span_that_is_too_short_or_empty_is_refused(lab: Any) -> None:
    with pytest.raises(ContractError, match="longer than 20 bars"):
        make(lab, lab.world(), span=(10, 30))
    world = lab.world()
    world.present_TN[:] = False
    with pytest.raises(ContractError, match="no asset has a forecast"):
        make(lab, world)


def test_a_sleeve_has_its_share_of_the_capital_and_leaves_drawdowns_to_the_portfolio(lab: Any) -> None:
    world = lab.world()
    own, free = sleeve(world.simulation, replace(world.guard, max_weight=0.1, halt_drawdown=1.0), 0.25)
    assert own.initial_capital_ccy == 0.25e6
    assert free.max_weight == 1.0
    assert free.halt_drawdown == 1.0
