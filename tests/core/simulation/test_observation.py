"""What a policy sees of itself is the same in its own account and as one slot of a portfolio."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from plusultra_core.clock import NS_PER_DAY
from plusultra_core.simulation.engine import Environment, open_account
from plusultra_core.simulation.observation import OWN_STATE, observe_single, write_observation, write_own_state


def test_the_own_state_is_position_order_drawdown_trade_and_time(world: Any) -> None:
    market = world.market(20, 1, seed=3)
    env = open_account(market, 0, NS_PER_DAY, replace(world.plain, participation=0.003, time_in_force="gtc"), world.costly, world.wide)
    own = np.zeros((1, 1, len(OWN_STATE)))
    start = np.zeros(1, np.int64)
    write_own_state(env.accounts, env.last, 1.0, start, 10, own)
    assert own[0, 0].tolist() == [0.0, 0.0, 0.0, 0.0, 1.0]
    waiting = False
    for passed in range(1, 8):
        step = env.step(np.full((1, 1), 2.0))
        write_own_state(env.accounts, step, 1.0, start, 10, own)
        accounts = env.accounts
        assert own[0, 0, 0] == pytest.approx(accounts.weight_EA[0, 0])
        assert own[0, 0, 2] == pytest.approx(1.0 - accounts.equity_E[0] / accounts.peak_E[0])
        assert own[0, 0, 4] == pytest.approx(1.0 - passed / 10)
        waiting |= own[0, 0, 1] > 0
    assert own[0, 0, 0] > 0
    assert waiting


def test_a_slot_of_a_portfolio_sees_what_its_own_account_would(world: Any) -> None:
    market = world.market(30, 4, seed=4, gaps=0.1)
    limit = 0.25
    book = open_account(market, 0, NS_PER_DAY, world.plain, world.costly, world.wide)
    alone = Environment(market, 4, 1, NS_PER_DAY, replace(world.plain, initial_capital_ccy=0.25e6), world.costly, world.wide)
    alone.reset(np.arange(4), np.zeros(4, np.int64), np.arange(4)[:, None], np.arange(4))
    action = np.random.default_rng(0).uniform(-1, 1, (29, 4))
    one, many = np.zeros((1, 4, 5)), np.zeros((4, 1, 5))
    for t in range(29):
        step = book.step(limit * action[t : t + 1])
        steps = alone.step(action[t][:, None])
        write_own_state(book.accounts, step, limit, np.zeros(1, np.int64), 50, one)
        write_own_state(alone.accounts, steps, 1.0, np.zeros(4, np.int64), 50, many)
        # they differ only in that the portfolio's equity is shared by its slots
        assert np.allclose(one[0], many[:, 0], atol=0.05)
    assert np.abs(one).max() > 0.1


def test_the_observation_is_the_market_row_and_then_the_own_state(world: Any) -> None:
    market = world.market(12, 3)
    env = Environment(market, 2, 1, NS_PER_DAY, world.plain, world.free, world.wide)
    env.reset(np.arange(2), np.array([5, 7]), np.array([[2], [0]]), np.arange(2))
    table = np.random.default_rng(0).random((8, 3, 6)).astype(np.float32)
    own = np.full((2, 1, 5), 0.5)
    obs = np.zeros((2, 1, 11), np.float32)
    write_observation(table, env.accounts, own, 4, obs)
    assert np.array_equal(obs[0, 0], np.concatenate((table[1, 2], np.full(5, 0.5, np.float32))))
    assert np.array_equal(obs[1, 0, :6], table[3, 0])


def test_one_pass_writes_what_the_two_functions_write(world: Any) -> None:
    env = Environment(world.market(40, 3, gaps=0.1), 5, 1, NS_PER_DAY, replace(world.plain, participation=0.003), world.costly, world.wide)
    asset, start = np.array([0, 1, 2, 1, 0]), np.arange(5)
    env.reset(np.arange(5), start, asset[:, None], np.arange(5))
    table = np.random.default_rng(0).normal(size=(40, 3, 4)).astype(np.float32)
    rng, own = np.random.default_rng(1), np.zeros((5, 1, 5))
    expected, found = np.zeros((5, 1, 9), np.float32), np.zeros((5, 9), np.float32)
    one = env.accounts
    for _ in range(20):
        env.step(rng.uniform(-1, 1, (5, 1)))
        write_own_state(one, env.last, 1.0, start, 7, own)
        write_observation(table, one, own, 0, expected)
        slots = (one.position_EA, one.working_EA, one.fill_EA, one.mark_EA, one.pnl_EA, one.pnl_peak_EA)
        observe_single(one.equity_E, one.capital_E, *(slot[:, 0] for slot in slots), one.t_E, asset, start, 7, table, found)
        assert np.array_equal(found, expected[:, 0])
    assert np.abs(found[:, 4:8]).max() > 0
