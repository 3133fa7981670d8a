"""What PPO earns of the optimum after so many samples in Garleanu and Pedersen's world, from scratch and warm-started.

    OMP_NUM_THREADS=1 python benchmarks/ppo_learning.py [SEEDS] [LEARNING_RATE]

The world, the optimum and the warm start are those of `tests/core/rl/test_optimum.py`. A linear forecaster is fitted to 80,000
bars of history, sized by what pays best over its horizon, and cloned; then PPO goes on as it does from scratch. Prints a
table in Markdown: part of the optimal utility, mean over the seeds, and when 90 % was reached first.
"""

import importlib.util
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

TESTS = Path(__file__).resolve().parents[1] / "tests" / "core" / "rl"
AFTER = (0, 1, 2, 4, 8, 12, 16, 24, 32)
SIZE = (256, 32)


def load(name: str) -> ModuleType:
    """A file of tests as a module."""
    spec = importlib.util.spec_from_file_location(f"of_tests_{name}", TESTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def curves(optimum: ModuleType, run: Any, horizon: int | None, num_seeds: int) -> tuple[np.ndarray, list[int], float]:
    """Mean curve, updates to 90 % of each seed, CPU-seconds a seed; no horizon is from scratch."""
    world, start = optimum.Garleanu(), time.process_time()
    found = []
    for seed in range(num_seeds):
        teacher = None if horizon is None else optimum.sized(world, optimum.supervised(world, horizon, seed), horizon)
        found.append(optimum.curve(world, run, seed, max(AFTER), teacher, SIZE))
    spent = (time.process_time() - start) / num_seeds
    return np.mean(found, axis=0), [optimum.first_at(values, 0.9) for values in found], spent


def main(num_seeds: int, learning_rate: float) -> None:
    """Print the table; the rate is that of all rows, held."""
    torch.set_num_threads(1)
    optimum = load("test_optimum")
    run = replace(load("conftest").RUN.ppo, learning_rate=learning_rate, gamma=optimum.GAMMA, gae_lambda=0.95)
    samples = SIZE[0] * SIZE[1]
    print("| start | " + " | ".join(f"{number * samples // 1000} k" for number in AFTER) + " | samples to 90 %, by seed | CPU-s |")
    print("| --- |" + " ---: |" * (len(AFTER) + 2))
    for name, horizon in (("scratch", None), ("forecaster of 1 bar", 1), ("forecaster of 5 bars", 5)):
        mean, reached, spent = curves(optimum, run, horizon, num_seeds)
        shown = " | ".join(f"{mean[number]:.2f}" for number in AFTER)
        print(f"| {name} | {shown} | {', '.join(f'{number * samples // 1000} k' for number in reached)} | {spent:.1f} |", flush=True)


if __name__ == "__main__":
    seeds, rate = [*sys.argv[1:], *("5", "1e-3")[len(sys.argv[1:]) :]]
    main(int(seeds), float(rate))
