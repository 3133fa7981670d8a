"""Episodes in a market that lends nothing: no short, no debt, no forced close, on the kernel and on tensors."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from plusultra_core.market import MarginConfig
from plusultra_core.rl.device.episodes import TensorEpisodes
from plusultra_core.rl.env import TradingEnv

CASH = MarginConfig(account="cash", max_leverage=1.0, maintenance_margin=0.0, liquidation_penalty_bps=0.0, shorts=False, reserve_frac=0.02)
BARS = 30


def test_an_action_that_would_sell_what_is_not_held_asks_for_nothing(lab: Any) -> None:
    world = lab.world()
    lows = world.market.low.copy()
    lows[60] = 1e-3  # nearly nothing, in every asset
    market = world.market._replace(low=lows)
    cash = replace(world, market=market, costs=replace(world.costs, margin=CASH))
    actions = np.random.default_rng(2).uniform(-1.0, 1.0, (BARS, 4))
    actions[15:] = 1.0
    ends = {}
    for name, made in (("cash", cash), ("lent", replace(world, market=market))):
        env = TradingEnv(made, 4, None, BARS, 0.0, lab.run.reward)
        env.start_at(np.arange(4), np.full(4, 40))
        asked, held, money = [], [], []
        for action in actions:
            env.step(action, None)
            asked.append(env.request_E.copy())
            held.append(env.env.accounts.position_EA[:, 0].copy())
            money.append(env.env.accounts.cash_E.copy())
        ends[name] = (np.array(asked), np.array(held), np.array(money), env.env.accounts.done_E.copy())
    asked, held, money, done = ends["cash"]
    assert asked.min() == 0.0
    assert held.min() >= -1e-9
    assert held.max() > 0.0
    assert money.min() >= 0.0
    assert not done.any()
    assert ends["lent"][0].min() < -0.5
    assert ends["lent"][1].min() < -1.0
    assert ends["lent"][2].min() < 0.0


def test_episodes_on_tensors_know_what_is_lent_too(lab: Any) -> None:
    world = lab.world()
    cash = replace(world, costs=replace(world.costs, margin=CASH))
    one = TradingEnv(cash, 8, (10, 200), BARS, 0.1, lab.run.reward)
    other = TensorEpisodes(cash, 8, (10, 200), BARS, 0.1, lab.run.reward, dtype=torch.float64, device="cpu")
    t, n = np.arange(20, 28), np.arange(8) % 4
    one._begin(np.arange(8), n, t)
    one._observe()
    other.stream = torch.from_numpy(one.env.accounts.stream_E.copy())
    other.start_at(torch.from_numpy(t), torch.from_numpy(n))
    for action in np.random.default_rng(5).uniform(-1.0, 1.0, (BARS - 1, 8)):
        mine, theirs = one.step(action, None), other.step(torch.from_numpy(action))
        assert np.allclose(theirs.ret.numpy(), mine.ret_E, rtol=1e-9, atol=1e-12)
    assert one.env.accounts.position_EA.min() >= -1e-9
