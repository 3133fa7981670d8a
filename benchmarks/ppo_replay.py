"""What replay does to samples and time in Garleanu and Pedersen's world: PPO from scratch with old rollouts of a capped age, and without.

    OMP_NUM_THREADS=1 python benchmarks/ppo_replay.py [SEEDS]

The world and the optimum are those of `tests/core/rl/test_optimum.py`. An update learns from 2,048 new samples and, beside them, from
the rollouts of the last `max_age` updates; minibatches grow with them, the number of gradient steps does not. One line has no replay
but more passes over the new samples, as many sample passes as max_age 1. Prints a table in Markdown: part of the optimal utility, mean
over the seeds; when 90 % was reached first, by seed; CPU-seconds and seconds of collecting and learning a seed, without measuring utility.
"""

import sys
import time
from dataclasses import replace
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from ppo_learning import load

from plusultra_core.models.policy import PolicyConfig, build_policy
from plusultra_core.rl.learning.learner import Learner
from plusultra_core.rl.ppo import update
from plusultra_core.rl.replay.store import Replay, ReplayConfig
from plusultra_core.rl.reward import RewardScale

NUM_UPDATES, NUM_ACCOUNTS, NUM_STEPS = 96, 128, 16
AFTER = (8, 16, 32, 48, 64, 80, 96)


class Course(NamedTuple):
    """One training."""

    values: list[float]
    """Part of the optimal utility, before any update and after every fourth."""
    cpu_s: float
    wall_s: float
    ess: float
    ratio: float


def course(optimum: ModuleType, run: Any, seed: int, cfg: ReplayConfig) -> Course:
    """PPO from scratch."""
    world = optimum.Garleanu()
    policy = build_policy(PolicyConfig(width=64, num_layers=2, init_std=0.1), 2, 1, seed)
    learner, replay, scale = Learner(policy, run.learning_rate), Replay(cfg), RewardScale(NUM_ACCOUNTS)
    env = optimum.GarleanuEpisodes(world, NUM_ACCOUNTS, 100, np.random.default_rng(seed))
    best = optimum.utility(world, optimum.optimal(world), 1_000, 120)

    def acts(e: Any) -> Any:
        return e.reach * np.tanh(learner.networks.outputs(torch.from_numpy(e.obs_EP), 1)[0].astype(np.float64))

    values, told, cpu_s, wall_s = [optimum.utility(world, acts, 1_000, 120) / best], [], 0.0, 0.0
    for number in range(NUM_UPDATES):
        rng, cpu, wall = np.random.default_rng((seed, number)), time.process_time(), time.perf_counter()
        rollout, _ = replay.collect(number, learner, env, NUM_STEPS, run.gamma, run.gae_lambda, rng, scale)
        update(learner, rollout, run, rng)
        cpu_s, wall_s = cpu_s + time.process_time() - cpu, wall_s + time.perf_counter() - wall
        told.append((replay.row.get("replay_ess", 1.0), replay.row.get("replay_ratio", 1.0)))
        if (number + 1) % 4 == 0:
            values.append(optimum.utility(world, acts, 1_000, 120) / best)
    return Course(values, cpu_s, wall_s, *np.mean(told[8:], axis=0))


def main(num_seeds: int) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    optimum = load("test_optimum")
    run = replace(load("conftest").RUN.ppo, learning_rate=1e-3, gamma=optimum.GAMMA, gae_lambda=0.95)
    samples = NUM_ACCOUNTS * NUM_STEPS
    print("| max_age | epochs | " + " | ".join(f"{number * samples // 1000} k" for number in AFTER), end="")
    print(" | samples to 90 %, by seed | weight | ESS | CPU-s | s |")
    print("| --- |" + " ---: |" * (len(AFTER) + 6))
    course(optimum, run, 0, ReplayConfig(max_age=1, max_ratio=1.0, num_trajectories=1))
    for max_age, epochs in ((0, 4), (1, 4), (3, 4), (0, 8)):
        cfg = ReplayConfig(max_age=max_age, max_ratio=1.0, num_trajectories=max(1, max_age))
        found = [course(optimum, replace(run, update_epochs=epochs), seed, cfg) for seed in range(num_seeds)]
        mean = np.mean([one.values for one in found], axis=0)
        reached = [next((f"{4 * n * samples // 1000} k" for n, value in enumerate(one.values) if value >= 0.9), "never") for one in found]
        ends = [np.mean([getattr(one, name) for one in found]) for name in ("ratio", "ess", "cpu_s", "wall_s")]
        shown = " | ".join(f"{mean[number // 4]:.2f}" for number in AFTER)
        print(f"| {max_age} | {epochs} | {shown} | {', '.join(reached)} | " + " | ".join(f"{x:.2f}" for x in ends) + " |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
