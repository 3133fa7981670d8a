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

import numpy as np
import torch
from ppo import NUM_COLUMNS, PPO, REWARD, build_world

from plusultra_core.models.policy import PolicyConfig, build_policy
from plusultra_core.rl.device.episodes import TensorEpisodes, TensorOutcome
from plusultra_core.rl.device.loop import collect
from plusultra_core.rl.env import TradingEnv, World
from plusultra_core.rl.learning.autograd import TorchConfig, TorchLearner
from plusultra_core.rl.ppo import update
from plusultra_core.simulation.observation import OWN_STATE

SIZES = {"cuda": (4_096, 65_536, 524_288), "cpu": (256, 1_024, 4_096)}
NUM_STEPS, NUM_ROUNDS = 64, 3
SPAN, EPISODE_BARS = (0, 3_900), 128


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


class Timed(TensorEpisodes):
    """Episodes with a clock, which waits for the device once it is told to."""

    seconds, waits_for = 0.0, ""

    def step(self, action: torch.Tensor) -> TensorOutcome:
        if not self.waits_for:
            return super().step(action)
        wait(self.waits_for)
        start = time.perf_counter()
        outcome = super().step(action)
        wait(self.waits_for)
        self.seconds += time.perf_counter() - start
        return outcome


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
    env = Timed(world, num_accounts, SPAN, EPISODE_BARS, 0.1, REWARD, dtype=torch.float32, device=device, compiled=compiled)
    rng, noise = np.random.default_rng(0), torch.Generator(device=device).manual_seed(0)
    best = float("inf")
    for number in range(NUM_ROUNDS + 1):
        start = time.perf_counter()
        rollout, _ = collect(learner, env, NUM_STEPS, PPO.gamma, PPO.gae_lambda, noise)
        update(learner, rollout, PPO, rng)
        wait(device)
        if number:
            best = min(best, time.perf_counter() - start)
    env.waits_for = device
    start = time.perf_counter()
    rollout, _ = collect(learner, env, NUM_STEPS, PPO.gamma, PPO.gae_lambda, noise)
    wait(device)
    collected = time.perf_counter()
    update(learner, rollout, PPO, rng)
    wait(device)
    learn = time.perf_counter() - collected
    seconds = {"environment": env.seconds, "rollout": collected - start - env.seconds, "learn": learn}
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
