"""Three ways of learning on from a supervised backbone (frozen, discriminative rates, full), beside the same policy from scratch.

    OMP_NUM_THREADS=1 python benchmarks/ppo_warmstart.py optimum [SEEDS] [LEARNING_RATE]
    OMP_NUM_THREADS=1 python benchmarks/ppo_warmstart.py real ARTIFACTS POLICY [SEEDS] [UPDATES]

`optimum`: the world of `tests/core/rl/test_optimum.py`, whose two predictors come in a window of two bars of eight columns, turned
together with six of noise. A forecaster of 1 or 5 bars is fitted to 80,000 bars of history; the policy begins as the clone of its
forecast, sized by what pays best over its horizon, and PPO learns on. Part of the optimal utility after so many samples.

`real`: what a policy of the store ARTIFACTS (its directory `policy_checkpoint/POLICY`) was trained from: the same panel, bundle,
market and rules. Reward a bar on the validation span, which PPO never learns from, after so many samples.
"""

import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from ppo_learning import load

from plusultra_core import artifacts, config
from plusultra_core.guardrails.limits import GuardrailsConfig
from plusultra_core.market import MarketConfig
from plusultra_core.models.bundle import load_bundle
from plusultra_core.models.forecaster import Forecaster, ForecasterConfig, InputShape, build_forecaster
from plusultra_core.models.linear import LinearConfig
from plusultra_core.models.policies.acting import Acting
from plusultra_core.models.policies.build import AnyPolicy, build
from plusultra_core.models.policies.recipe import RecipeConfig
from plusultra_core.rl.curriculum.warmstart import WarmstartConfig, imitate
from plusultra_core.rl.env import Outcome
from plusultra_core.rl.jobs import TEACHER, slot_limit
from plusultra_core.rl.learning.learner import Alone
from plusultra_core.rl.ppo import update
from plusultra_core.rl.reward import RewardScale, of_share
from plusultra_core.rl.rollout import collect
from plusultra_core.rl.train import Place, RLConfig, make_learner, train_policy
from plusultra_core.rl.world import build_world, spans_of
from plusultra_core.simulation.engine import SimulationConfig
from plusultra_core.windows.panel import load_panel

AFTER = (0, 1, 2, 4, 8, 12, 16, 24, 32)
SIZE, LENGTH = (256, 32), 100
SERIES, BARS, COLUMNS, LEVELS = 64, 2_000, 8, (0.25, 0.5, 0.75)
WAYS = ("frozen", "discriminative", "full")
Way = tuple[str, str, bool]
"""What the backbone begins as, how it is tuned, whether the actor is cloned."""


class Silent:
    """Progress that nobody reads."""

    def report(self, message: str, **numbers: float) -> None:
        pass


class Paths:
    """Predictors of many series, and the windows in which they are seen: number t x series + n ends at bar t of series n."""

    def __init__(self, world: Any, num_bars: int, num_series: int, seed: tuple[int, ...]) -> None:
        rng, keep = np.random.default_rng(seed), 1 - np.array(world.decay)
        f_TNK = np.empty((num_bars, num_series, 2))
        f_TNK[0] = rng.normal(size=(num_series, 2)) * world.deviation
        for t in range(1, num_bars):
            f_TNK[t] = keep * f_TNK[t - 1] + rng.normal(size=(num_series, 2)) * world.deviation * np.sqrt(1 - keep**2)
        turn = np.linalg.qr(np.random.default_rng(8).normal(size=(COLUMNS, COLUMNS)))[0]
        noise = rng.normal(size=(num_bars, num_series, COLUMNS - 2))
        self.f_TNK = f_TNK
        self.x_TNF = torch.from_numpy((np.concatenate((f_TNK / world.deviation, noise), axis=2) @ turn).astype(np.float32))

    def __call__(self, n_B: torch.Tensor, t_B: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Windows of two bars, as a panel gives them."""
        x_BTF = torch.stack((self.x_TNF[(t_B - 1).clamp_min(0), n_B], self.x_TNF[t_B, n_B]), dim=1)
        return x_BTF, torch.zeros(len(n_B), 2, 0, dtype=torch.int64), torch.ones(len(n_B), 2, dtype=torch.bool)

    def attach(self, policy: Any) -> None:
        """Let a policy look its windows up here."""
        num_bars, num_series = self.f_TNK.shape[:2]
        policy.body.rows.attach(self, np.tile(np.arange(num_series), num_bars), np.repeat(np.arange(num_bars), num_series))


class Episodes:
    """Accounts of the world along the paths; an observation is the number of a window and the position, as a part of the reach."""

    def __init__(self, optimum: ModuleType, paths: Paths, rng: np.random.Generator) -> None:
        self.world, self.reach, self.paths = optimum.Garleanu(), optimum.GarleanuEpisodes.reach, paths
        self.position_E = np.zeros(SIZE[0])
        self.age_E = rng.integers(0, LENGTH, SIZE[0])
        self.n_E, self.t_E = rng.integers(0, SERIES, SIZE[0]), rng.integers(1, BARS - LENGTH, SIZE[0])
        self.obs_EP = self._observe()

    def present(self) -> np.ndarray:
        return np.ones(SIZE[0], np.bool_)

    def step(self, action_E: np.ndarray, rng: Any) -> Outcome:
        world, wish_E = self.world, self.reach * action_E
        ret_E = self.paths.f_TNK[self.t_E, self.n_E].sum(axis=1) + world.noise * rng.normal(size=wish_E.size)
        reward_E = wish_E * ret_E - 0.5 * world.risk * wish_E**2 - 0.5 * world.cost * (wish_E - self.position_E) ** 2
        self.position_E, self.age_E, self.t_E = wish_E.copy(), self.age_E + 1, self.t_E + 1
        final, ended_E = self._observe(), self.age_E >= LENGTH
        num = int(ended_E.sum())
        self.position_E[ended_E], self.age_E[ended_E] = 0.0, 0
        self.n_E[ended_E], self.t_E[ended_E] = rng.integers(0, SERIES, num), rng.integers(1, BARS - LENGTH, num)
        self.obs_EP = self._observe()
        return Outcome(reward_E, ret_E, np.zeros_like(ended_E), ended_E, final)

    def _observe(self) -> np.ndarray:
        return np.column_stack((self.t_E * SERIES + self.n_E, self.position_E / self.reach)).astype(np.float32)


def utility(optimum: ModuleType, paths: Paths, rule: Any) -> float:
    """Discounted utility of a rule of (number, f, position), flat at bar 1 of every series; the noise of returns is left out."""
    world, num = optimum.Garleanu(), paths.f_TNK.shape[1]
    position, total = np.zeros(num), 0.0
    for t in range(1, len(paths.f_TNK)):
        f_NK = paths.f_TNK[t]
        wish = rule(t * num + np.arange(num), f_NK, position)
        pay = wish * f_NK.sum(axis=1) - 0.5 * world.risk * wish**2 - 0.5 * world.cost * (wish - position) ** 2
        total += optimum.GAMMA ** (t - 1) * float(pay.mean())
        position = wish
    return total


def supervised(optimum: ModuleType, horizon: int, seed: int) -> Forecaster:
    """Quantiles of the return over `horizon` bars, in deviations of its noise, and its direction, fitted to 80,000 bars."""
    world = optimum.Garleanu()
    paths, rng = Paths(world, 400 + horizon, 200, (seed, 1)), np.random.default_rng((seed, 3))
    ret_TN = paths.f_TNK.sum(axis=2) + world.noise * rng.normal(size=paths.f_TNK.shape[:2])
    ahead_TN = sum(ret_TN[k : 400 + k] for k in range(horizon)) / (world.noise * np.sqrt(horizon))
    model = forecaster(seed).train()
    for rate in (1e-2, 1e-3):
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        for _ in range(400):
            t_B, n_B = (torch.from_numpy(rng.integers(low, high, 1_024)) for low, high in ((1, 400), (0, 200)))
            y_B1 = torch.from_numpy(ahead_TN[t_B, n_B]).float()[:, None]
            forecast = model(*paths(n_B, t_B))
            error_BQ = y_B1 - forecast.quantiles_BKQ[:, 0]
            level_Q = torch.tensor(LEVELS)
            loss = torch.maximum(level_Q * error_BQ, (level_Q - 1) * error_BQ).mean()
            loss = loss + torch.nn.functional.cross_entropy(forecast.logits_BKC[:, 0], (y_B1[:, 0] > 0).long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def forecaster(seed: int) -> Forecaster:
    """A linear one over windows of two bars."""
    linear = LinearConfig(width=COLUMNS, trend_bars=1, lags=2)
    cfg = ForecasterConfig(kind="linear", hybrid=None, linear=linear, quantile_levels=LEVELS, num_classes=2)
    return build_forecaster(cfg, InputShape(num_features=COLUMNS, lookback=2, num_states=(), num_horizons=1), seed)


def clone(optimum: ModuleType, policy: AnyPolicy, model: Forecaster, paths: Paths, horizon: int, seed: int) -> None:
    """Fit the actor to what pays best where the forecast holds and the position is kept for its horizon."""
    world, reach, rng = optimum.Garleanu(), optimum.GarleanuEpisodes.reach, np.random.default_rng((seed, 2))

    def draw() -> tuple[torch.Tensor, torch.Tensor, None]:
        t_B, n_B, held_B = rng.integers(1, BARS, 512), rng.integers(0, SERIES, 512), 0.25 * rng.normal(size=512)
        with torch.no_grad():
            median_B = model(*paths(torch.from_numpy(n_B), torch.from_numpy(t_B))).quantiles_BKQ[:, 0, 1].double().numpy()
        forecast_B = median_B * world.noise * np.sqrt(horizon)
        part_B = (forecast_B / reach + world.cost * held_B) / (horizon * world.risk + world.cost)
        obs_BP = np.column_stack((t_B * SERIES + n_B, held_B)).astype(np.float32)
        return torch.from_numpy(obs_BP), torch.from_numpy(part_B.astype(np.float32)), None

    for rate in (3e-3, 1e-3, 3e-4, 1e-4):
        imitate(policy, draw, WarmstartConfig(num_steps=500, batch_size=512, learning_rate=rate))


def curve(optimum: ModuleType, run: RLConfig, horizon: int, way: Way, seed: int) -> list[float]:
    """Part of the optimal utility before any update and after each."""
    source, tuning, is_cloned = way
    world, cfg = optimum.Garleanu(), run.ppo
    paths, judged = Paths(world, BARS, SERIES, (seed, 0)), Paths(world, 121, 1_000, (99,))
    model = supervised(optimum, horizon, seed) if source == "supervised" else forecaster(seed)
    backbone = dataclasses.replace(run.policy.backbone, source=source, tuning=tuning)
    run = dataclasses.replace(run, policy=dataclasses.replace(run.policy, kind="backbone", backbone=backbone))
    policy = build(run.policy, model, (1.0,), 1, 1, seed)
    paths.attach(policy)
    policy.fit_rows(policy.body.rows.whole())  # type: ignore[union-attr]
    if is_cloned:
        clone(optimum, policy, model, paths, horizon, seed)
    learner = make_learner(run, policy, Alone())
    env, scale = Episodes(optimum, paths, np.random.default_rng(seed)), RewardScale(SIZE[0])
    gain, reach = world.gain(), env.reach
    best = utility(optimum, judged, lambda _, f_NK, position: gain[0] * position + f_NK @ gain[1:])

    def earned() -> float:
        judged.attach(policy)
        acting = Acting(policy, 1_000)
        found = utility(
            optimum, judged,
            lambda number, _, position: reach * acting.act(np.column_stack((number, position / reach)).astype(np.float32)),
        )  # fmt: skip
        paths.attach(policy)
        return found / best

    parts = [earned()]
    for number in range(max(AFTER)):
        rng = np.random.default_rng((seed, number))
        rollout, _ = collect(learner, env, SIZE[1], cfg.gamma, cfg.gae_lambda, rng, scale)
        update(learner, rollout, cfg, rng)
        parts.append(earned())
    return parts


def show(name: str, curves: list[list[float]], samples: list[int], part: float, spent: float) -> None:
    """One row of the table: means over seeds, when each seed first stood at 90 %, CPU-seconds a seed."""
    cells = " | ".join(f"{value:.2f}" for value in np.mean(curves, axis=0)[list(AFTER)])
    first = [next((samples[i] for i, value in enumerate(values) if value >= part), None) for values in curves]
    reached = ", ".join("never" if number is None else f"{number // 1000} k" for number in first)
    print(f"| {name} | {cells} | {reached} | {spent:.0f} |", flush=True)


def against_the_optimum(num_seeds: int, learning_rate: float) -> None:
    """The table of the world with a known optimum; the rate is that of all rows, held."""
    optimum, lab = load("test_optimum"), load("conftest").RUN
    samples = [number * SIZE[0] * SIZE[1] for number in range(max(AFTER) + 1)]
    ppo = dataclasses.replace(lab.ppo, learning_rate=learning_rate, gamma=optimum.GAMMA, gae_lambda=0.95)
    size = dataclasses.replace(lab.policy.size, width=64, init_std=0.1)
    run = dataclasses.replace(lab, ppo=ppo, policy=dataclasses.replace(lab.policy, size=size))
    rows: dict[str, tuple[int, Way]] = {"scratch": (1, ("none", "full", False))}
    for horizon in (1, 5):
        rows |= {f"{horizon}-bar forecaster, {tuning}": (horizon, ("supervised", tuning, True)) for tuning in WAYS}
    rows["5-bar forecaster, full, actor not cloned"] = (5, ("supervised", "full", False))
    print("| start | " + " | ".join(f"{samples[number] // 1000} k" for number in AFTER) + " | samples to 90 %, by seed | CPU-s a seed |")
    print("| --- |" + " ---: |" * (len(AFTER) + 2))
    for name, (horizon, way) in rows.items():
        start = time.process_time()
        curves = [curve(optimum, run, horizon, way, seed) for seed in range(num_seeds)]
        show(name, curves, samples, 0.9, (time.process_time() - start) / num_seeds)


def by_digest(store: Path, asset: str, sha256: str) -> Path:
    """The artifact of that content."""
    return next(path for path in (store / asset).iterdir() if artifacts.open_artifact(path, verify=False).sha256 == sha256)


def on_the_validation_span(store: Path, key: str, num_seeds: int, num_updates: int) -> None:
    """The table of a real class."""
    manifest = json.loads((store / "policy_checkpoint" / key / "manifest.json").read_text())
    parts, lineage = manifest["config"], manifest["lineage"]
    panel = load_panel(by_digest(store, "windows", lineage["windows"]))
    teacher = load_bundle(by_digest(store, "supervised_checkpoint", lineage["supervised"]) / TEACHER)
    kinds = {"simulation": SimulationConfig, "guardrails": GuardrailsConfig, "market": MarketConfig}
    simulation, guard, market = (config.parse(kind, parts[name], name) for name, kind in kinds.items())
    rl = config.parse(RLConfig, {"num_seeds": 1, **parts["rl"]}, "rl")
    train = dataclasses.replace(rl.train, num_updates=num_updates, valid_every=max(1, num_updates // 8), num_accounts=64)
    limit = slot_limit(guard, len(panel.symbols))  # type: ignore[arg-type]
    spans = spans_of(panel, train.valid_frac)
    rows: dict[str, tuple[str, str, str, bool]] = {
        "rows of the frozen forecaster, not cloned": ("mlp", "supervised", "frozen", False),
        "rows of the frozen forecaster": ("mlp", "supervised", "frozen", True),
        "backbone from scratch": ("backbone", "none", "full", False),
        **{f"backbone, {tuning}": ("backbone", "supervised", tuning, True) for tuning in WAYS},
    }
    samples = train.num_accounts * train.num_steps
    print(f"| start | {' | '.join(f'{n * samples // 1000} k' for n in range(0, num_updates + 1, train.valid_every))} | CPU-s a seed |")
    for name, (kind, source, tuning, is_cloned) in rows.items():
        start, curves = time.process_time(), []
        for seed in range(num_seeds):
            backbone = dataclasses.replace(rl.policy.backbone, source=source, tuning=tuning)
            recipe: RecipeConfig = dataclasses.replace(rl.policy, kind=kind, backbone=backbone)
            steps = rl.warmstart.num_steps if is_cloned else 0
            run = dataclasses.replace(
                rl, policy=recipe, train=train, seed=seed, reward=of_share(rl.reward, limit),
                warmstart=dataclasses.replace(rl.warmstart, num_steps=steps),
            )  # fmt: skip
            made = build_world(panel, teacher, None, spans, simulation, market, guard, limit, recipe, seed)  # type: ignore[arg-type]
            world, policy, lessons = made
            with tempfile.TemporaryDirectory() as folder:
                trained = train_policy(run, Place(world, lessons, spans, limit), policy, Path(folder) / "policy.pt", Silent())  # type: ignore[arg-type]
            curves.append([row["valid_reward"] for row in trained.history if "valid_reward" in row])
        cells = " | ".join(f"{mean:.3f} ± {std:.3f}" for mean, std in zip(np.mean(curves, axis=0), np.std(curves, axis=0), strict=True))
        print(f"| {name} | {cells} | {(time.process_time() - start) / num_seeds:.0f} |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "real":
        seeds, updates = [*sys.argv[4:], *("3", "32")[len(sys.argv[4:]) :]]
        on_the_validation_span(Path(sys.argv[2]), sys.argv[3], int(seeds), int(updates))
    else:
        seeds, rate = [*sys.argv[2:], *("3", "3e-4")[len(sys.argv[2:]) :]]
        against_the_optimum(int(seeds), float(rate))
