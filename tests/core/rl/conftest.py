"""A market whose next return is written into the market rows, and the configs of a short run."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from plusultra_core.clock import NS_PER_DAY
from plusultra_core.guardrails.limits import GuardrailsConfig
from plusultra_core.market import CostsConfig
from plusultra_core.models.policy import Policy, PolicyConfig, build_policy
from plusultra_core.rl.env import World
from plusultra_core.rl.ppo import PPOConfig
from plusultra_core.rl.reward import RewardConfig
from plusultra_core.rl.train import RLConfig, TrainConfig
from plusultra_core.rl.warmstart import WarmstartConfig
from plusultra_core.rl.world import Rows
from plusultra_core.simulation.engine import SimulationConfig
from plusultra_core.simulation.market import plain_terms
from plusultra_core.simulation.observation import OWN_STATE
from plusultra_core.simulation.records import MarketArrays

LEVELS = (0.25, 0.5, 0.75)


def planted_world(num_bars: int = 400, num_assets: int = 4, signal: float = 0.5, half_spread_bps: float = 1.0, columns: int = 6) -> World:
    """Column 0 of the market rows correlates with the next return; the others are noise."""
    rng = np.random.default_rng(5)
    shape = (num_bars, num_assets)
    seen, noise = rng.normal(size=shape), rng.normal(size=shape)
    ret = 0.01 * (signal * np.vstack((np.zeros((1, num_assets)), seen[:-1])) + np.sqrt(1 - signal**2) * noise)
    close = 100.0 * np.exp(np.cumsum(ret, axis=0))
    opened = np.vstack((close[:1], close[:-1]))
    market = MarketArrays(
        ts_ns=np.arange(num_bars, dtype=np.int64) * NS_PER_DAY,
        open=opened,
        high=np.maximum(opened, close) * 1.001,
        low=np.minimum(opened, close) * 0.999,
        close=close,
        volume=np.full(shape, 1e9),
        funding=np.zeros(shape),
        sigma=np.full(shape, 0.01),
        adv_ccy=np.full(shape, 1e11),
        half_spread_bps=np.full(shape, half_spread_bps),
        tradable=np.ones(shape, np.bool_),
        proxy=np.zeros(shape, np.int8),
        **plain_terms(np.arange(num_bars) * NS_PER_DAY, num_assets),
    )
    table = rng.normal(size=(*shape, columns)).astype(np.float32)
    table[:, :, 0] = seen
    simulation = SimulationConfig(
        initial_capital_ccy=1e6,
        latency_ms=(0.0, 1000.0),
        latency_prob=(0.5, 0.5),
        participation=0.1,
        time_in_force="gtc",
        order_type="market",
        limit_offset_bps=0.0,
        maker_fee_factor=1.0,
        permanent_coef=0.0,
        permanent_decay_frac=0.0,
        min_order_ccy=1.0,
        retarget_frac=0.1,
        max_leverage=2.0,
        maintenance_margin=0.1,
        liquidation_penalty_bps=50.0,
        adv_bars=5,
        fallback_sigma=0.02,
        seed=7,
    )
    costs = CostsConfig(
        fee_bps=1.0, fee_min_ccy=0.0, half_spread_bps=1.0, impact_coef=1.0, impact_exponent=0.5, borrow_bps_year=0.0, funding=False
    )
    guard = GuardrailsConfig(
        max_weight=1.0, max_gross=1.0, max_net=1.0, max_participation=1.0, reduce_drawdown=1.0, resume_drawdown=1.0, halt_drawdown=1.0
    )
    return World(market, NS_PER_DAY, table, np.ones(shape, np.bool_), simulation, costs, guard)


RUN = RLConfig(
    policy=PolicyConfig(width=16, num_layers=2, init_std=0.5),
    reward=RewardConfig(scale=100.0, variance_coef=2.0, drawdown_coef=0.0, sharpe_coef=0.0, sharpe_decay=0.01),
    ppo=PPOConfig(
        learning_rate=2e-3,
        anneal_lr=True,
        norm_reward=True,
        gamma=0.9,
        gae_lambda=0.9,
        update_epochs=4,
        num_minibatches=4,
        clip_coef=0.2,
        ent_coef=0.0,
        vf_coef=0.5,
        max_grad_norm=0.5,
        target_kl=None,
    ),
    warmstart=WarmstartConfig(num_steps=0, batch_size=256, learning_rate=3e-3),
    train=TrainConfig(num_accounts=64, num_workers=1, num_steps=32, num_updates=4, episode_bars=40, valid_frac=0.2, valid_every=2),
    gain=1.0,
    horizon_index=0,
    band=0.0,
    num_threads=1,
    seed=7,
)


@dataclass(frozen=True)
class Lab:
    """Names for the tests, since test files cannot import one another."""

    run: RLConfig = RUN

    def world(self, **changes: Any) -> World:
        return planted_world(**changes)

    def changed(self, **train: Any) -> RLConfig:
        return replace(RUN, train=replace(RUN.train, **train))

    def policy(self, world: World, seed: int = 1) -> Policy:
        return build_policy(RUN.policy, world.table_TNF.shape[2], len(OWN_STATE), seed)

    def rows(self, world: World, span: tuple[int, int]) -> Rows:
        """Rows of the span whose median quantile is column 0."""
        rows = torch.from_numpy(world.table_TNF[span[0] : span[1]].reshape(-1, world.table_TNF.shape[2]).copy())
        quantiles = rows[:, :1, None] + torch.tensor([-0.67, 0.0, 0.67])
        return Rows(rows, quantiles, LEVELS)


@pytest.fixture(scope="session")
def lab() -> Lab:
    """Everything a test of PPO starts from."""
    torch.set_num_threads(1)
    return Lab()
