"""PPO on the step kernel: samples a second of collect + learn, beside a plain torch loop and Stable-Baselines3 in the same run.

    OMP_NUM_THREADS=1 python benchmarks/ppo.py

CPU-seconds, one thread; the loops take turns and the best round of each counts. Two processes are given by the CPU-seconds of
the busier one, and by the clock. Same environment, same two networks of 2 x 64, 4 epochs x 4 minibatches, 20 columns of observation;
then market rows of 16 to 512 columns, looked up and multiplied. How fast it learns, not only runs: benchmarks/ppo_return.py.
Stable-Baselines3 is left out by name where it is not installed; a throw-away environment that has it beside all that is needed:

    python3.11 -m venv /tmp/peers && /tmp/peers/bin/pip install . "stable-baselines3>=2.9,<3"
"""

import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from plusultra_core import config
from plusultra_core.clock import NS_PER_HOUR
from plusultra_core.guardrails.limits import GuardrailsConfig
from plusultra_core.market import MarketConfig
from plusultra_core.models.policy import PolicyConfig, build_policy
from plusultra_core.rl import rollout as rollout_module
from plusultra_core.rl.env import TradingEnv, World, sleeve
from plusultra_core.rl.learning.learner import Learner, Team
from plusultra_core.rl.learning.processes import run_team
from plusultra_core.rl.ppo import PPOConfig, losses, update
from plusultra_core.rl.reward import RewardConfig
from plusultra_core.rl.rollout import Rollout, collect
from plusultra_core.simulation.engine import SimulationConfig
from plusultra_core.simulation.market import market_arrays
from plusultra_core.simulation.observation import OWN_STATE

ROOT = Path(__file__).resolve().parents[1]
SIZES = ((1024, 64), (64, 128))
NUM_COLUMNS, NUM_ROUNDS, LEAST_SAMPLES = 15, 3, 65_536
WIDTHS = (16, 64, 256, 512)
POLICY = PolicyConfig(width=64, num_layers=2, init_std=0.3)
REWARD = RewardConfig(scale=100.0, variance_coef=1.0, drawdown_coef=0.1, sharpe_coef=0.0, sharpe_decay=0.01)
PPO = PPOConfig(
    learning_rate=3e-4, anneal_lr=False, norm_reward=False, gamma=0.95, gae_lambda=0.9, update_epochs=4, num_minibatches=4, clip_coef=0.2,
    ent_coef=0.0, vf_coef=0.5, max_grad_norm=0.5, target_kl=None,
)  # fmt: skip
Turn = Callable[[], None]


def build_world(num_bars: int = 4_000, num_assets: int = 8, num_columns: int = NUM_COLUMNS) -> World:
    """Random walks at an hour a bar, market rows of noise, costs and rules of the base profile."""
    rng = np.random.default_rng(0)
    close = 100 * np.exp(np.cumsum(0.005 * rng.standard_normal((num_assets, num_bars)), axis=1))
    opened = np.hstack((close[:, :1], close[:, :-1]))
    bars = {"open": opened, "high": np.maximum(opened, close) * 1.001, "low": np.minimum(opened, close) * 0.999, "close": close}
    bars |= {"volume": np.full(close.shape, 1e7), "funding": np.zeros(close.shape)}
    simulation = config.load(SimulationConfig, ROOT / "configs" / "base" / "simulation.yaml")
    guard = config.load(GuardrailsConfig, ROOT / "configs" / "base" / "guardrails.yaml")
    market = config.load(MarketConfig, ROOT / "configs" / "markets" / "equity.yaml")
    ts_ns = 1_451_682_000_000_000_000 + NS_PER_HOUR * np.arange(num_bars)
    whole = np.ones(close.shape, np.bool_)
    arrays = market_arrays(ts_ns, bars, np.full(close.shape, 0.005), whole, market, simulation.adv_bars, simulation.fallback_sigma)
    table = rng.standard_normal((num_bars, num_assets, num_columns)).astype(np.float32)
    own, free = sleeve(simulation, guard, 1 / num_assets)
    return World(arrays, NS_PER_HOUR, table, whole.T.copy(), own, market.costs, free)


def cost_of_asking() -> float:
    """Seconds that it takes to ask for the time: a quarter of a step of 64 accounts."""
    start = time.process_time()
    for _ in range(10_000):
        time.process_time()
    return (time.process_time() - start) / 10_000


CLOCK_S = cost_of_asking()


class Timed(TradingEnv):
    """The environment with a clock."""

    seconds = 0.0

    def step(self, action_E: Any, rng: Any) -> Any:
        start = time.process_time()
        outcome = super().step(action_E, rng)
        self.seconds += time.process_time() - start - CLOCK_S
        return outcome


def episodes(world: World, num_accounts: int) -> Timed:
    env = Timed(world, num_accounts, (0, 3_900), 128, 0.1, REWARD)
    env.reset(np.random.default_rng(0))
    return env


def own(world: World, num_accounts: int, num_steps: int, phases: dict[str, float]) -> Turn:
    """The loop of this station; adds the seconds of its phases to `phases`."""
    num_columns = world.table_TNF.shape[2]
    env, learner = episodes(world, num_accounts), Learner(build_policy(POLICY, num_columns, len(OWN_STATE), 0), PPO.learning_rate)
    rng = np.random.default_rng(1)

    def turn() -> None:
        start, env.seconds = time.process_time(), 0.0
        rollout, _ = collect(learner, env, num_steps, PPO.gamma, PPO.gae_lambda, rng)
        between = time.process_time()
        update(learner, rollout, PPO, rng)
        spent = {
            "environment": env.seconds,
            "policy and bookkeeping": between - start - env.seconds,
            "learn": time.process_time() - between,
        }
        for name, seconds in spent.items():
            phases[name] = phases.get(name, 0.0) + seconds

    return turn


def plain(world: World, num_accounts: int, num_steps: int) -> Turn:
    """The same in eager torch, as CleanRL writes it: a step at a time, advantages in a loop over time, autograd."""
    env, policy = episodes(world, num_accounts), build_policy(POLICY, NUM_COLUMNS, len(OWN_STATE), 0)
    optimizer = torch.optim.Adam(policy.parameters(), lr=PPO.learning_rate, eps=1e-5)
    rng = np.random.default_rng(1)

    def turn() -> None:
        rollout = plain_rollout(policy, env, num_steps, rng)
        for _ in range(PPO.update_epochs):
            for index in torch.randperm(len(rollout.u_B)).chunk(PPO.num_minibatches):
                loss, _ = losses(policy, Rollout(*(field[index] for field in rollout[:7])), PPO)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(policy.parameters(), PPO.max_grad_norm)
                optimizer.step()

    return turn


def plain_rollout(policy: Any, env: Timed, num_steps: int, rng: np.random.Generator) -> Rollout:
    """Collect with a forward pass of both networks a step; truncation is bootstrapped."""
    shape = (num_steps, env.obs_EP.shape[0])
    obs = torch.empty(*shape, env.obs_EP.shape[1])
    u, logprob, value, reward, ended = (torch.empty(shape) for _ in range(5))
    with torch.no_grad():
        for t in range(num_steps):
            obs[t] = torch.from_numpy(env.obs_EP)
            mean, value[t] = policy.mean(obs[t]), policy.value(obs[t])
            u[t] = mean + policy.logstd.exp() * torch.randn(shape[1])
            logprob[t] = policy.logprob(mean, u[t])
            outcome = env.step(torch.tanh(u[t]).double().numpy(), rng)
            reward[t], ended[t] = torch.from_numpy(outcome.reward_E), torch.from_numpy(outcome.ended_E)
            if outcome.ended_E.any():
                reward[t] += PPO.gamma * ended[t] * policy.value(torch.from_numpy(outcome.final_obs_EP))
        following, running, advantage = policy.value(torch.from_numpy(env.obs_EP)), torch.zeros(shape[1]), torch.empty(shape)
        for t in reversed(range(num_steps)):
            delta = reward[t] + PPO.gamma * (1 - ended[t]) * following - value[t]
            running = delta + PPO.gamma * PPO.gae_lambda * (1 - ended[t]) * running
            advantage[t], following = running, value[t]
    target = (advantage + value).flatten()
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    columns = (u.flatten(), logprob.flatten(), value.flatten(), advantage.flatten(), target)
    return Rollout(obs.flatten(0, 1), *columns, torch.ones_like(target))


def peer(world: World, num_accounts: int, num_steps: int) -> Turn:
    """Stable-Baselines3's PPO on the same environment behind its vector interface."""
    import gymnasium
    import stable_baselines3
    from stable_baselines3.common.vec_env import VecEnv

    class Behind(VecEnv):
        def __init__(self) -> None:
            self.env, self.rng = episodes(world, num_accounts), np.random.default_rng(0)
            box = gymnasium.spaces.Box
            super().__init__(num_accounts, box(-np.inf, np.inf, (self.env.obs_EP.shape[1],), np.float32), box(-1, 1, (1,), np.float32))

        def reset(self) -> Any:
            return self.env.reset(self.rng).copy()

        def step_async(self, actions: Any) -> None:
            self.actions = np.clip(actions[:, 0], -1, 1).astype(np.float64)

        def step_wait(self) -> Any:
            outcome = self.env.step(self.actions, self.rng)
            infos: list[dict[str, Any]] = [{} for _ in range(num_accounts)]
            for e in np.flatnonzero(outcome.ended_E):
                infos[e] = {"terminal_observation": outcome.final_obs_EP[e], "TimeLimit.truncated": not outcome.terminated_E[e]}
            return self.env.obs_EP.copy(), outcome.reward_E.astype(np.float32), outcome.ended_E, infos

        def close(self) -> None: ...
        def get_attr(self, attr_name: str, indices: Any = None) -> Any:
            return [None] * num_accounts

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None: ...
        def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> Any: ...
        def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> Any:
            return [False] * num_accounts

    model = stable_baselines3.PPO(
        "MlpPolicy", Behind(), learning_rate=PPO.learning_rate, n_steps=num_steps, n_epochs=PPO.update_epochs, gamma=PPO.gamma,
        batch_size=num_accounts * num_steps // PPO.num_minibatches, gae_lambda=PPO.gae_lambda, policy_kwargs={"net_arch": [64, 64]},
        device="cpu",
    )  # fmt: skip
    return lambda: model.learn(num_accounts * num_steps, reset_num_timesteps=False) and None


def member(team: Team, num_accounts: int, num_steps: int, num_turns: int) -> tuple[float, float]:
    """A member's part of the turns; CPU-seconds of the busiest member, and seconds by the clock."""
    world = build_world()
    env = episodes(world, num_accounts // team.size)
    learner = Learner(build_policy(POLICY, NUM_COLUMNS, len(OWN_STATE), 0), PPO.learning_rate, team)
    rng, start, began = np.random.default_rng(team.rank), 0.0, 0.0
    for turn in range(num_turns + 1):
        if turn == 1:
            team.total(np.zeros(1))
            start, began = time.process_time(), time.perf_counter()
        rollout, _ = collect(learner, env, num_steps, PPO.gamma, PPO.gae_lambda, rng)
        update(learner, rollout, PPO, rng)
    spent = np.zeros(team.size)
    spent[team.rank] = time.process_time() - start
    team.total(spent)
    return float(spent.max()), time.perf_counter() - began


def two(num_accounts: int, num_steps: int) -> tuple[float, float]:
    """Samples a second of two processes that share the gradient: by the CPU-seconds of the busier, without waiting, and by the clock."""
    num_turns = max(1, LEAST_SAMPLES // (num_accounts * num_steps))
    arguments = (num_accounts, num_steps, num_turns)
    rounds = [run_team(2, 50_000, lambda team: member(team, *arguments), member, *arguments) for _ in range(NUM_ROUNDS)]
    cpu, clock = (num_turns * num_accounts * num_steps / min(times) for times in zip(*rounds, strict=True))
    return cpu, clock


def measure(world: World, num_accounts: int, num_steps: int) -> dict[str, Any]:
    """Samples a second of every loop, its ratio to the own one, and the shares of the own one's phases."""
    phases: dict[str, float] = {}
    turns = {"own": own(world, num_accounts, num_steps, phases), "plain torch": plain(world, num_accounts, num_steps)}
    if importlib.util.find_spec("stable_baselines3"):
        turns["stable-baselines3"] = peer(world, num_accounts, num_steps)
    repeats = max(1, LEAST_SAMPLES // (num_accounts * num_steps))
    best = dict.fromkeys(turns, float("inf"))
    for turn in turns.values():
        turn()
    phases.clear()
    for _ in range(NUM_ROUNDS):
        for name, turn in turns.items():
            start = time.process_time()
            for _ in range(repeats):
                turn()
            best[name] = min(best[name], (time.process_time() - start) / repeats)
    rates = {name: num_accounts * num_steps / seconds for name, seconds in best.items()}
    rates["own, two processes"], clock = two(num_accounts, num_steps)
    return {
        "size": f"{num_accounts} x {num_steps}",
        "samples_per_s": {name: round(rate) for name, rate in rates.items()},
        "own_over": {name: round(rates["own"] / rate, 2) for name, rate in rates.items() if "own" not in name},
        "two_over": {name: round(rates["own, two processes"] / rate, 2) for name, rate in rates.items() if "two" not in name},
        "two_processes_by_the_clock": round(clock),
        "share": {name: round(seconds / sum(phases.values()), 4) for name, seconds in phases.items()},
    }


def wide(num_columns: int, num_accounts: int, num_steps: int) -> dict[str, Any]:
    """Samples a second with market rows that are looked up in the first layer, and multiplied for every sample."""
    world, rates, pays = build_world(num_columns=num_columns), {}, rollout_module.pays
    chosen = pays(world.table_TNF.shape[0] * world.table_TNF.shape[1], num_accounts * num_steps, num_columns)
    turns: dict[str, Turn] = {}
    for name, looks in (("looked up", True), ("multiplied", False)):
        turns[name] = own(world, num_accounts, num_steps, {})
        rates[name] = 0.0
        for _ in range(NUM_ROUNDS):
            rollout_module.pays = lambda *_, looks=looks: looks
            start = time.process_time()
            turns[name]()
            rates[name] = max(rates[name], num_accounts * num_steps / (time.process_time() - start))
    rollout_module.pays = pays
    of = {name: round(rate) for name, rate in rates.items()}
    return {"columns": num_columns, **of, "ratio": round(of["looked up"] / of["multiplied"], 2), "chosen": bool(chosen)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    made = build_world()
    rows = [measure(made, *size) for size in SIZES]
    print(json.dumps({"torch": torch.__version__, "rows": rows, "wide": [wide(width, *SIZES[0]) for width in WIDTHS]}, indent=1))
