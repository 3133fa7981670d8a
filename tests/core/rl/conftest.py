"""A market whose next return is written into the market rows, and the configs of a short run."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from plusultra_core.clock import NS_PER_DAY
from plusultra_core.guardrails.limits import GuardrailsConfig
from plusultra_core.market import CostsConfig, MarginConfig
from plusultra_core.models.forecaster import Forecaster, ForecasterConfig, InputShape, build_forecaster
from plusultra_core.models.linear import LinearConfig
from plusultra_core.models.policies.build import AnyPolicy, build
from plusultra_core.models.policies.recipe import BackboneConfig, MemoryConfig, RecipeConfig
from plusultra_core.models.policy import PolicyConfig
from plusultra_core.rl.curriculum.risk import RiskConfig, Schedule
from plusultra_core.rl.curriculum.stages import CurriculumConfig
from plusultra_core.rl.curriculum.warmstart import WarmstartConfig
from plusultra_core.rl.env import World
from plusultra_core.rl.learning.autograd import TorchConfig
from plusultra_core.rl.ppo import PPOConfig
from plusultra_core.rl.replay.store import ReplayConfig
from plusultra_core.rl.reward import RewardConfig
from plusultra_core.rl.train import Place, RLConfig, TrainConfig
from plusultra_core.rl.world import Rows, Spans
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
        adv_bars=5,
        fallback_sigma=0.02,
        seed=7,
    )
    lent = MarginConfig(
        account="margin", max_leverage=2.0, maintenance_margin=0.1, liquidation_penalty_bps=50.0, shorts=True, reserve_frac=0.0
    )
    costs = CostsConfig(
        fee_bps=1.0, fee_min_ccy=0.0, half_spread_bps=1.0, impact_coef=1.0, impact_exponent=0.5, borrow_bps_year=0.0, funding=False,
        margin=lent,
    )  # fmt: skip
    guard = GuardrailsConfig(
        max_weight=1.0, max_gross=1.0, max_net=1.0, max_participation=1.0, reduce_drawdown=1.0, resume_drawdown=1.0, halt_drawdown=1.0
    )
    return World(market, NS_PER_DAY, table, np.ones(shape, np.bool_), simulation, costs, guard)


OFF = Schedule(kind="constant", start=0.0, end=0.0)
RUN = RLConfig(
    policy=RecipeConfig(
        kind="mlp",
        head="gaussian",
        size=PolicyConfig(width=16, num_layers=2, init_std=0.5),
        grid=(-1.0, -0.5, 0.0, 0.5, 1.0),
        memory=MemoryConfig(kind="none", bars=3, width=4),
        norm_obs="train_span",
        backbone=BackboneConfig(source="supervised", tuning="full", depth_decay=0.5),
    ),
    risk=RiskConfig(sharpe=OFF, sortino=OFF, drawdown=OFF, cvar=OFF, entropic=OFF, decay=0.01, level=0.05, aversion=5.0),
    replay=ReplayConfig(max_age=0, max_ratio=1.0, num_trajectories=3),
    autograd=TorchConfig(device="cpu", precision="32-true", compile=False, chunk=4096),
    curriculum=CurriculumConfig(stages=()),
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
    num_seeds=1,
)


@dataclass(frozen=True)
class Lab:
    """Names for the tests, since test files cannot import one another."""

    run: RLConfig = RUN

    def world(self, **changes: Any) -> World:
        return planted_world(**changes)

    def changed(self, **train: Any) -> RLConfig:
        return replace(RUN, train=replace(RUN.train, **train))

    def recipe(self, kind: str = "mlp", head: str = "gaussian", memory: str = "none", **changes: Any) -> RLConfig:
        """The short run with a policy of another recipe."""
        made = replace(RUN.policy, kind=kind, head=head, memory=replace(RUN.policy.memory, kind=memory), **changes)
        return replace(RUN, policy=made)

    def policy(self, world: World, seed: int = 1, run: RLConfig = RUN) -> AnyPolicy:
        """A policy that reads the market rows of the world or, with a backbone of its own, windows of two of them."""
        num_bars, num_assets, columns = world.table_TNF.shape
        policy = build(run.policy, forecaster(columns), (1.0,), len(OWN_STATE), num_assets, seed)
        rows = getattr(getattr(policy, "body", None), "rows", None)
        if rows is not None:
            rows.attach(Windows(world), np.tile(np.arange(num_assets), num_bars), np.repeat(np.arange(num_bars), num_assets))
        return policy

    def place(self, world: World, spans: Spans, run: RLConfig = RUN) -> Place:
        """Rows of the train span whose median quantile is column 0; numbers of windows where the policy reads those."""
        num_bars, num_assets = world.present_TN.shape
        n_R, t_R = np.tile(np.arange(num_assets), spans.train[1] - spans.train[0]), np.repeat(np.arange(*spans.train), num_assets)
        rows = torch.from_numpy(world.table_TNF[t_R, n_R])
        quantiles = rows[:, :1, None] + torch.tensor([-0.67, 0.0, 0.67])
        if run.policy.kind == "backbone":
            numbers = np.arange(num_bars * num_assets, dtype=np.float32).reshape(num_bars, num_assets, 1)
            world = replace(world, table_TNF=numbers)
            rows = torch.from_numpy(numbers[t_R, n_R])
        return Place(world, Rows(rows, quantiles, LEVELS, n_R, t_R), spans, 1.0)


class Windows:
    """Windows of two market rows, as a panel gives them."""

    def __init__(self, world: World) -> None:
        self._table = torch.from_numpy(world.table_TNF)

    def __call__(self, n_B: torch.Tensor, t_B: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x_BTF = torch.stack((self._table[(t_B - 1).clamp_min(0), n_B], self._table[t_B, n_B]), dim=1)
        return x_BTF, torch.zeros(len(n_B), 2, 0, dtype=torch.int64), torch.ones(len(n_B), 2, dtype=torch.bool)


def forecaster(columns: int) -> Forecaster:
    """A linear one over windows of two rows; its own rows have as many columns."""
    cfg = ForecasterConfig(
        kind="linear", hybrid=None, linear=LinearConfig(width=columns - 5, trend_bars=1, lags=2), quantile_levels=LEVELS, num_classes=2
    )
    return build_forecaster(cfg, InputShape(num_features=columns, lookback=2, num_states=(), num_horizons=1), seed=1)


@pytest.fixture(scope="session")
def lab() -> Lab:
    """Everything a test of PPO starts from."""
    torch.set_num_threads(1)
    return Lab()
