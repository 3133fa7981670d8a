"""PPO against worlds whose optimum is known in closed form."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from plusultra_core.models.policy import Policy, PolicyConfig, build_policy
from plusultra_core.rl.curriculum.warmstart import WarmstartConfig, imitate
from plusultra_core.rl.env import Outcome
from plusultra_core.rl.learning.learner import Learner
from plusultra_core.rl.ppo import update
from plusultra_core.rl.reward import RewardScale
from plusultra_core.rl.rollout import collect

GAMMA = 0.95


@dataclass(frozen=True)
class Garleanu:
    """One asset, two mean-reverting predictors of its return, quadratic costs and risk; units of the asset's deviation.

    r(t+1) = f1 + f2 + noise, f_k(t+1) = (1 - decay_k) f_k(t) + shock; utility of bar t: x r(t+1) - risk / 2 x^2 - cost / 2 (x - x(t-1))^2.
    Source  Garleanu, Pedersen 2013, Dynamic Trading with Predictable Returns and Transaction Costs, section 2.
    """

    decay: tuple[float, float] = (0.3, 0.05)
    deviation: tuple[float, float] = (0.4, 0.2)
    """Of each predictor, at rest."""
    risk: float = 1.0
    cost: float = 10.0
    noise: float = 1.0

    def gain(self) -> np.ndarray:
        """Row k of the optimal rule x(t) = k @ (x(t-1), f1, f2), from the discounted Riccati recursion."""
        a = np.diag([0.0, *(1 - d for d in self.decay)])
        b = np.array([1.0, 0.0, 0.0])
        value = np.zeros((3, 3))
        pay = np.array([self.cost, 1.0, 1.0])
        for _ in range(5_000):
            onward = GAMMA * value
            curve = self.risk + self.cost - b @ onward @ b
            slope = pay + a.T @ onward @ b
            own = np.diag([-self.cost, 0.0, 0.0])
            value = own + a.T @ onward @ a + np.outer(slope, slope) / curve
        return slope / curve


class GarleanuEpisodes:
    """E accounts in the world; the action is the position as a part of `reach`. Episodes of `length` bars start flat and are truncated."""

    reach = 2.5

    def __init__(self, world: Garleanu, num_accounts: int, length: int, rng: np.random.Generator) -> None:
        self.world, self.length = world, length
        self.position_E = np.zeros(num_accounts)
        self.f_EK = rng.normal(size=(num_accounts, 2)) * world.deviation
        self.age_E = rng.integers(0, length, num_accounts)
        self.obs_EP = self._observe()

    def present(self) -> np.ndarray:
        return np.ones(self.position_E.size, np.bool_)

    def step(self, action_E: np.ndarray, rng: Any) -> Outcome:
        world, wish_E = self.world, self.reach * action_E
        ret_E = self.f_EK.sum(axis=1) + world.noise * rng.normal(size=wish_E.size)
        reward_E = wish_E * ret_E - 0.5 * world.risk * wish_E**2 - 0.5 * world.cost * (wish_E - self.position_E) ** 2
        self.advance(wish_E, rng)
        final, ended_E = self._observe(), self.age_E >= self.length
        self.position_E[ended_E], self.age_E[ended_E] = 0.0, 0
        self.f_EK[ended_E] = rng.normal(size=(int(ended_E.sum()), 2)) * world.deviation
        self.obs_EP = self._observe()
        return Outcome(reward_E, ret_E, np.zeros_like(ended_E), ended_E, final)

    def advance(self, position_E: np.ndarray, rng: np.random.Generator) -> None:
        keep = 1 - np.array(self.world.decay)
        self.f_EK = keep * self.f_EK + rng.normal(size=self.f_EK.shape) * self.world.deviation * np.sqrt(1 - keep**2)
        self.position_E = position_E.copy()
        self.age_E = self.age_E + 1

    def _observe(self) -> np.ndarray:
        return np.column_stack((self.f_EK / self.world.deviation, self.position_E / self.reach)).astype(np.float32)


def utility(world: Garleanu, rule: Any, num_accounts: int = 4_000, length: int = 200) -> float:
    """Discounted expected utility of a rule from a flat start, on the same paths for every rule; the noise of returns is left out."""
    rng = np.random.default_rng(99)
    env = GarleanuEpisodes(world, num_accounts, length, rng)
    total = 0.0
    for t in range(length):
        wish_E = rule(env)
        pay_E = wish_E * env.f_EK.sum(axis=1) - 0.5 * world.risk * wish_E**2 - 0.5 * world.cost * (wish_E - env.position_E) ** 2
        total += GAMMA**t * float(pay_E.mean())
        env.advance(wish_E, rng)
        env.obs_EP = env._observe()
    return total


def optimal(world: Garleanu) -> Any:
    gain = world.gain()
    return lambda env: gain[0] * env.position_E + env.f_EK @ gain[1:]


def learned(world: Garleanu, run: Any, seed: int, num_updates: int, num_accounts: int = 256, num_steps: int = 32) -> tuple[Any, list[Any]]:
    """A policy that PPO learned from scratch, and the history."""
    policy = build_policy(PolicyConfig(width=64, num_layers=2, init_std=0.3), 2, 1, seed)
    learner = Learner(policy, run.learning_rate)
    env = GarleanuEpisodes(world, num_accounts, 100, np.random.default_rng(seed))
    scale = RewardScale(num_accounts)
    history = []
    for number in range(num_updates):
        rng = np.random.default_rng((seed, number))
        learner.learning_rate = run.learning_rate * (1 - number / num_updates)
        rollout, summary = collect(learner, env, num_steps, run.gamma, run.gae_lambda, rng, scale)
        history.append({**summary._asdict(), **update(learner, rollout, run, rng)})
    return lambda e: e.reach * np.tanh(learner.networks.outputs(torch.from_numpy(e.obs_EP), 1)[0].astype(np.float64)), history


@pytest.fixture
def run(lab: Any) -> Any:
    return replace(lab.run.ppo, learning_rate=1e-3, gamma=GAMMA, gae_lambda=0.95)


def myopic(world: Garleanu) -> Any:
    """What is best for the next bar alone."""
    return lambda env: (env.f_EK.sum(axis=1) + world.cost * env.position_E) / (world.risk + world.cost)


@pytest.mark.parametrize("cost", [2.0, 10.0])
def test_the_optimal_rule_is_the_closed_form_of_the_paper(cost: float) -> None:
    """Trade the part a / cost of the way to the aim; the paper pays the cost a bar before the gain, hence cost x gamma here."""
    world = Garleanu(cost=cost)
    risk, charge, rho = world.risk, cost * GAMMA, 1 - GAMMA
    drag = risk * (1 - rho) + charge * rho
    a = (np.sqrt(drag**2 + 4 * risk * charge * (1 - rho) ** 2) - drag) / (2 * (1 - rho))
    aim = [1 / risk / (1 + decay * a / risk) for decay in world.decay]
    assert world.gain() == pytest.approx([1 - a / charge, *(a / charge * part for part in aim)], rel=1e-9)


def test_no_rule_near_the_optimal_one_earns_more() -> None:
    world = Garleanu()
    gain, best = world.gain(), utility(world, optimal(world))
    for k in range(3):
        for factor in (0.9, 1.1):
            other = gain * np.where(np.arange(3) == k, factor, 1.0)
            assert utility(world, lambda env, other=other: other[0] * env.position_E + env.f_EK @ other[1:]) < best
    assert utility(world, myopic(world)) < 0.85 * best


@pytest.mark.slow
def test_ppo_from_scratch_reaches_the_optimum_of_garleanu_and_pedersen(run: Any) -> None:
    """2.5 million samples a seed; the myopic rule has 82 % of the optimal utility."""
    world = Garleanu()
    best = utility(world, optimal(world))
    parts = [utility(world, learned(world, run, seed, num_updates=300)[0]) / best for seed in range(5)]
    assert min(parts) >= 0.95, parts


def supervised(world: Garleanu, horizon: int, seed: int, num_accounts: int = 200, num_bars: int = 400) -> np.ndarray:
    """A linear forecaster of the return over `horizon` bars, fitted to a history that no episode sees: weights of f1, f2, 1."""
    rng = np.random.default_rng((seed, 1))
    env = GarleanuEpisodes(world, num_accounts, 10**9, rng)
    seen, ret = [], []
    for _ in range(num_bars):
        seen.append(env.obs_EP[:, :2].astype(np.float64))
        ret.append(env.f_EK.sum(axis=1) + world.noise * rng.normal(size=num_accounts))
        env.advance(env.position_E, rng)
        env.obs_EP = env._observe()
    ahead = np.stack([np.sum(ret[t : t + horizon], axis=0) for t in range(num_bars - horizon + 1)]).ravel()
    x = np.concatenate(seen[: num_bars - horizon + 1])
    return np.linalg.lstsq(np.column_stack((x, np.ones(len(x)))), ahead, rcond=None)[0]


def sized(world: Garleanu, weight: np.ndarray, horizon: int) -> Any:
    """What pays best where the forecast holds and the position is kept for its horizon."""

    def rule(env: GarleanuEpisodes) -> np.ndarray:
        forecast = env.obs_EP[:, :2] @ weight[:2] + weight[2]
        return (forecast + world.cost * env.position_E) / (horizon * world.risk + world.cost)

    return rule


def cloned(world: Garleanu, rule: Any, policy: Policy, seed: int) -> None:
    """Fit the actor to a rule, on predictors at rest and positions around zero."""
    rng = np.random.default_rng((seed, 2))
    env = GarleanuEpisodes(world, 512, 1, rng)

    def draw() -> tuple[torch.Tensor, torch.Tensor, None]:
        env.f_EK, env.position_E = rng.normal(size=(512, 2)) * world.deviation, 0.25 * env.reach * rng.normal(size=512)
        env.obs_EP = env._observe()
        return torch.from_numpy(env.obs_EP), torch.from_numpy((rule(env) / env.reach).astype(np.float32)), None

    for rate in (3e-3, 1e-3, 3e-4, 1e-4):
        imitate(policy, draw, WarmstartConfig(num_steps=500, batch_size=512, learning_rate=rate))


def curve(world: Garleanu, run: Any, seed: int, num_updates: int, teacher: Any, size: tuple[int, int] = (256, 32)) -> list[float]:
    """Part of the optimal utility earned before any update and after each; PPO from a teacher's clone, or from scratch."""
    policy = build_policy(PolicyConfig(width=64, num_layers=2, init_std=0.1), 2, 1, seed)
    if teacher is not None:
        cloned(world, teacher, policy, seed)
    learner = Learner(policy, run.learning_rate)
    env, scale = GarleanuEpisodes(world, size[0], 100, np.random.default_rng(seed)), RewardScale(size[0])
    best = utility(world, optimal(world), 1_000, 120)

    def earned() -> float:
        return utility(
            world, lambda e: e.reach * np.tanh(learner.networks.outputs(torch.from_numpy(e.obs_EP), 1)[0].astype(np.float64)), 1_000, 120
        )

    found = [earned() / best]
    for number in range(num_updates):
        rng = np.random.default_rng((seed, number))
        rollout, _ = collect(learner, env, size[1], run.gamma, run.gae_lambda, rng, scale)
        update(learner, rollout, run, rng)
        found.append(earned() / best)
    return found


def first_at(values: list[float], part: float) -> int:
    """Updates until the curve stands at `part` for the first time; all of them and one more where it never does."""
    return next((number for number, value in enumerate(values) if value >= part), len(values))


@pytest.mark.slow
def test_warm_started_from_a_supervised_model_ppo_needs_less_than_a_third_of_the_samples(run: Any) -> None:
    """To 90 % of the optimal utility, everything else equal; 8,192 samples an update."""
    world, horizon = Garleanu(), 5
    warm, scratch = [], []
    for seed in range(3):
        teacher = sized(world, supervised(world, horizon, seed), horizon)
        warm.append(curve(world, run, seed, 4, teacher))
        scratch.append(curve(world, run, seed, 24, None))
    assert all(values[0] < 0.2 for values in scratch)
    assert 3 * sum(first_at(values, 0.9) for values in warm) <= sum(first_at(values, 0.9) for values in scratch)
    assert all(first_at(values, 0.9) < len(values) for values in scratch)
    assert min(max(values[1:]) for values in warm) > 0.9


@pytest.mark.slow
def test_a_forecast_of_one_bar_saves_two_thirds_of_the_samples_where_ppo_learns_on_slowly(run: Any) -> None:
    """To 90 % of the optimal utility, against scratch at its better rate; the clone alone has three quarters."""
    world, slow = Garleanu(), replace(run, learning_rate=3e-4)
    warm = [curve(world, slow, seed, 8, sized(world, supervised(world, 1, seed), 1)) for seed in range(3)]
    scratch = [curve(world, run, seed, 24, None) for seed in range(3)]
    assert all(0.6 < values[0] < 0.85 for values in warm)
    assert all(first_at(values, 0.9) < len(values) for values in (*warm, *scratch))
    assert 3 * sum(first_at(values, 0.9) for values in warm) <= sum(first_at(values, 0.9) for values in scratch)


@pytest.mark.slow
def test_where_nothing_can_be_known_and_trading_costs_the_learned_turnover_goes_to_zero(run: Any) -> None:
    """Predictors of no size; from bars of any position the learned rule trades and holds next to nothing, and earns nothing."""
    world = replace(Garleanu(), deviation=(1e-9, 1e-9))
    rule, _ = learned(world, run, 0, num_updates=300)
    rng = np.random.default_rng(7)
    env = GarleanuEpisodes(world, 1_000, 10_000, rng)
    pnl, turnover = np.zeros(1_000), 0.0
    for _ in range(100):
        wish = rule(env)
        turnover += float(np.abs(wish - env.position_E).mean()) / 100
        pnl += wish * rng.normal(size=1_000) - 0.5 * world.cost * (wish - env.position_E) ** 2
        env.advance(wish, rng)
        env.obs_EP = env._observe()
    assert turnover < 0.01 * env.reach
    assert abs(pnl.mean()) < 1.96 * pnl.std() / np.sqrt(1_000)


class Liquidation:
    """E accounts that sell one unit in `length` steps; the action is the part of the rest that is sold, the last step sells all.

    Each step costs v^2 for what it sells and risk x^2 for what it leaves.
    Source  Almgren, Chriss 2000, Optimal Execution of Portfolio Transactions, section 2 (linear temporary impact).
    """

    length, risk, noise = 10, 0.2, 0.1

    def __init__(self, num_accounts: int) -> None:
        self.rest_E, self.age_E = np.ones(num_accounts), np.arange(num_accounts) % self.length
        self.obs_EP = self._observe()

    def present(self) -> np.ndarray:
        return np.ones(self.rest_E.size, np.bool_)

    def step(self, action_E: np.ndarray, rng: Any) -> Outcome:
        ended_E = self.age_E == self.length - 1
        left_E = np.where(ended_E, 0.0, self.rest_E * 0.5 * (1.0 - action_E))
        cost_E = (self.rest_E - left_E) ** 2 + self.risk * left_E**2
        reward_E = self.noise * left_E * rng.normal(size=left_E.size) - cost_E
        self.rest_E, self.age_E = left_E, self.age_E + 1
        final = self._observe()
        self.rest_E, self.age_E = np.where(ended_E, 1.0, self.rest_E), np.where(ended_E, 0, self.age_E)
        self.obs_EP = self._observe()
        return Outcome(reward_E, -cost_E, ended_E, ended_E, final)

    def optimum(self) -> np.ndarray:
        """What is left after each step: sinh(kappa (T - t)) / sinh(kappa T), 2 (cosh kappa - 1) = risk over impact."""
        kappa = np.arccosh(1 + self.risk / 2)
        return np.sinh(kappa * (self.length - np.arange(self.length + 1))) / np.sinh(kappa * self.length)

    def cost(self, left: np.ndarray) -> float:
        return float((np.diff(left) ** 2).sum() + self.risk * (left[1:] ** 2).sum())

    def _observe(self) -> np.ndarray:
        return np.column_stack((2 * self.rest_E - 1, 2 * self.age_E / self.length - 1)).astype(np.float32)


@pytest.mark.slow
def test_ppo_liquidates_within_three_percent_of_the_optimal_cost(run: Any) -> None:
    """Selling equal parts costs 1.9 times the optimum, selling at once 2.8 times."""
    cfg = replace(run, gamma=1.0, learning_rate=3e-3)
    env, learner = Liquidation(256), Learner(build_policy(PolicyConfig(width=64, num_layers=2, init_std=0.3), 1, 1, 0), cfg.learning_rate)
    scale = RewardScale(256)
    for number in range(150):
        rng = np.random.default_rng((3, number))
        learner.learning_rate = cfg.learning_rate * (1 - number / 150)
        rollout, _ = collect(learner, env, 30, cfg.gamma, cfg.gae_lambda, rng, scale)
        update(learner, rollout, cfg, rng)
    single = Liquidation(1)
    left = [1.0]
    for _ in range(single.length):
        mean = learner.networks.outputs(torch.from_numpy(single.obs_EP), 1)[0].astype(np.float64)
        left.append(left[-1] * 0.5 * (1 - float(np.tanh(mean[0]))) if len(left) < single.length else 0.0)
        single.step(np.tanh(mean), np.random.default_rng(0))
    best = single.cost(single.optimum())
    assert single.cost(np.linspace(1, 0, single.length + 1)) > 1.8 * best
    assert best <= single.cost(np.array(left)) < 1.03 * best, single.cost(np.array(left)) / best
