"""Accounts stepped and samples learned a second on a device, for three sizes, with the share of time by phase.

    python benchmarks/gpu.py                    # on the GPU
    python benchmarks/gpu.py --device cpu       # the same on the processor, to see that it runs

The step on tensors (`simulation.twin`), eager and compiled, beside the compiled kernel on one core of the processor;
then PPO whose rollouts never leave the device (`rl.device`), two tanh networks of 2 x 64, 4 epochs x 4 minibatches, 20 columns.
Wall clock, best of three, the device waited for. What the processor does in the same run stands beside it.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from plusultra_core import config
from plusultra_core.clock import NS_PER_HOUR
from plusultra_core.guardrails.limits import GuardrailsConfig
from plusultra_core.market import MarketConfig
from plusultra_core.models.policy import PolicyConfig, build_policy
from plusultra_core.rl.device.episodes import TensorEpisodes
from plusultra_core.rl.device.loop import collect
from plusultra_core.rl.env import TradingEnv, World, sleeve
from plusultra_core.rl.learning.autograd import TorchConfig, TorchLearner
from plusultra_core.rl.ppo import PPOConfig, update
from plusultra_core.rl.reward import RewardConfig
from plusultra_core.simulation.engine import SimulationConfig
from plusultra_core.simulation.market import market_arrays
from plusultra_core.simulation.observation import OWN_STATE

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"cuda": (4_096, 65_536, 524_288), "cpu": (256, 1_024, 4_096)}
NUM_COLUMNS, NUM_BARS, NUM_ASSETS, NUM_STEPS, NUM_ROUNDS = 15, 4_000, 8, 64, 3
REWARD = RewardConfig(scale=100.0, variance_coef=1.0, drawdown_coef=0.1, sharpe_coef=0.0, sharpe_decay=0.01)
PPO = PPOConfig(
    learning_rate=3e-4, anneal_lr=False, norm_reward=False, gamma=0.95, gae_lambda=0.9, update_epochs=4, num_minibatches=4, clip_coef=0.2,
    ent_coef=0.0, vf_coef=0.5, max_grad_norm=0.5, target_kl=None,
)  # fmt: skip
SPAN, EPISODE_BARS = (0, NUM_BARS - 100), 128


def build_world() -> World:
    """Random walks at an hour a bar, market rows of noise, costs and rules of the base profile."""
    rng = np.random.default_rng(0)
    close = 100 * np.exp(np.cumsum(0.005 * rng.standard_normal((NUM_ASSETS, NUM_BARS)), axis=1))
    opened = np.hstack((close[:, :1], close[:, :-1]))
    bars = {"open": opened, "high": np.maximum(opened, close) * 1.001, "low": np.minimum(opened, close) * 0.999, "close": close}
    bars |= {"volume": np.full(close.shape, 1e7), "funding": np.zeros(close.shape)}
    simulation = config.load(SimulationConfig, ROOT / "configs" / "base" / "simulation.yaml")
    guard = config.load(GuardrailsConfig, ROOT / "configs" / "base" / "guardrails.yaml")
    market = config.load(MarketConfig, ROOT / "configs" / "markets" / "equity.yaml")
    ts_ns = 1_451_682_000_000_000_000 + NS_PER_HOUR * np.arange(NUM_BARS)
    whole = np.ones(close.shape, np.bool_)
    arrays = market_arrays(ts_ns, bars, np.full(close.shape, 0.005), whole, market, simulation.adv_bars, simulation.fallback_sigma)
    table = rng.standard_normal((NUM_BARS, NUM_ASSETS, NUM_COLUMNS)).astype(np.float32)
    own, free = sleeve(simulation, guard, 1 / NUM_ASSETS)
    return World(arrays, NS_PER_HOUR, table, whole.T.copy(), own, market.costs, free)


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def best_seconds(call: Callable[[], None], device: str) -> float:
    """Shortest of several rounds, by the wall clock, once warm."""
    call()
    wait(device)
    found = []
    for _ in range(NUM_ROUNDS):
        start = time.perf_counter()
        call()
        wait(device)
        found.append(time.perf_counter() - start)
    return min(found)


def stepped(world: World, num_accounts: int, device: str, compiled: bool) -> float:
    """Million steps of an account a second."""
    env = TensorEpisodes(world, num_accounts, SPAN, EPISODE_BARS, 0.1, REWARD, dtype=torch.float32, device=device, compiled=compiled)
    action = torch.rand(num_accounts, device=device) - 0.5

    def steps() -> None:
        with torch.no_grad():
            for _ in range(NUM_STEPS):
                env.step(action)

    return num_accounts * NUM_STEPS / best_seconds(steps, device) / 1e6


def stepped_by_kernel(world: World, num_accounts: int) -> float:
    """The same by the compiled kernel on one core."""
    env = TradingEnv(world, num_accounts, SPAN, EPISODE_BARS, 0.1, REWARD)
    rng = np.random.default_rng(0)
    env.reset(rng)
    action = rng.uniform(-0.5, 0.5, num_accounts)

    def steps() -> None:
        for _ in range(NUM_STEPS):
            env.step(action, rng)

    return num_accounts * NUM_STEPS / best_seconds(steps, "cpu") / 1e6


def learned(world: World, num_accounts: int, device: str, compiled: bool) -> tuple[float, dict[str, float]]:
    """Thousand samples a second of collect + update, and the share of each phase."""
    policy = build_policy(PolicyConfig(width=64, num_layers=2, init_std=0.3), NUM_COLUMNS, len(OWN_STATE), 0)
    precision = "bf16-mixed" if device == "cuda" else "32-true"
    cfg = TorchConfig(device="cuda" if device == "cuda" else "cpu", precision=precision, compile=compiled, chunk=1 << 20)
    learner = TorchLearner(policy, PPO.learning_rate, cfg)
    env = TensorEpisodes(world, num_accounts, SPAN, EPISODE_BARS, 0.1, REWARD, dtype=torch.float32, device=device, compiled=compiled)
    rng, noise = np.random.default_rng(0), torch.Generator(device=device).manual_seed(0)
    seconds = {"environment": 0.0, "rollout": 0.0, "learn": 0.0}
    advance = env.step

    def timed(action: torch.Tensor) -> object:
        wait(device)
        start = time.perf_counter()
        outcome = advance(action)
        wait(device)
        seconds["environment"] += time.perf_counter() - start
        return outcome

    best = float("inf")
    for number in range(NUM_ROUNDS + 1):
        start = time.perf_counter()
        rollout, _ = collect(learner, env, NUM_STEPS, PPO.gamma, PPO.gae_lambda, noise)
        update(learner, rollout, replace(PPO, update_epochs=4), rng)
        wait(device)
        if number:
            best = min(best, time.perf_counter() - start)
    env.step = timed  # type: ignore[method-assign, assignment]
    start = time.perf_counter()
    rollout, _ = collect(learner, env, NUM_STEPS, PPO.gamma, PPO.gae_lambda, noise)
    wait(device)
    seconds["rollout"] = time.perf_counter() - start - seconds["environment"]
    start = time.perf_counter()
    update(learner, rollout, PPO, rng)
    wait(device)
    seconds["learn"] = time.perf_counter() - start
    total = sum(seconds.values())
    return num_accounts * NUM_STEPS / best / 1e3, {name: value / total for name, value in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--sizes", type=int, nargs="*", help="accounts; the default depends on the device")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device here; --device cpu runs the same on the processor")
    torch.set_float32_matmul_precision("high")
    name = torch.cuda.get_device_name() if options.device == "cuda" else "the processor"
    world = build_world()
    print(f"{name}, torch {torch.__version__}\n")
    print("| accounts | kernel on one core, M steps/s | tensors | tensors, compiled |\n| --- | --- | --- | --- |")
    sizes = options.sizes or SIZES[options.device]
    for size in sizes:
        compiled = "" if options.no_compile else f"{stepped(world, size, options.device, True):.1f}"
        eager, kernel = stepped(world, size, options.device, False), stepped_by_kernel(world, min(size, 65_536))
        print(f"| {size:,} | {kernel:.1f} | {eager:.2f} | {compiled} |")
    print("\n| accounts x steps | k samples/s | environment | policy, advantages | learn |\n| --- | --- | --- | --- | --- |")
    for size in sizes:
        rate, share = learned(world, size, options.device, not options.no_compile)
        shares = " | ".join(f"{100 * share[phase]:.1f} %" for phase in ("environment", "rollout", "learn"))
        print(f"| {size:,} x {NUM_STEPS} | {rate:,.0f} | {shares} |")


if __name__ == "__main__":
    main()
