"""The loop of PPO: warm start, collect, update, validate, keep the best; resumable bit for bit."""

import copy
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from plusultra_core import artifacts
from plusultra_core.errors import ConfigError, JobError
from plusultra_core.job import Progress
from plusultra_core.models.policy import Policy, PolicyConfig
from plusultra_core.rl.env import TradingEnv, World
from plusultra_core.rl.learning.learner import Alone, Learner, Team
from plusultra_core.rl.learning.processes import run_team
from plusultra_core.rl.ppo import PPOConfig, Row, update
from plusultra_core.rl.reward import RewardConfig, RewardScale
from plusultra_core.rl.rollout import collect
from plusultra_core.rl.warmstart import WarmstartConfig, clone_rule
from plusultra_core.rl.world import Rows, Spans
from plusultra_core.simulation.sizing import raw_weight

_SPARE = 16
"""Numbers that a team sums beside gradients and counts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Size and length of the training."""

    num_accounts: int
    """Episodes in lockstep."""
    num_workers: int
    """Processes that share the episodes and the gradient; part of the result's bytes. 1: all in the job's own."""
    num_steps: int
    """Bars of one collection."""
    num_updates: int
    episode_bars: int
    """Length of an episode; shorter where the span is."""
    valid_frac: float
    """Part of the span before the locked window that chooses the best update."""
    valid_every: int
    """Updates between two validations, which are also the checkpoints."""

    def __post_init__(self) -> None:
        for name in ("num_accounts", "num_workers", "num_steps", "num_updates", "valid_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"train.{name}: expected >= 1, found {getattr(self, name)}")
        if self.num_accounts % self.num_workers:
            raise ConfigError(f"train.num_accounts: expected a multiple of {self.num_workers} workers, found {self.num_accounts}")
        if self.episode_bars < 2 or not 0 < self.valid_frac < 1:
            raise ConfigError("train: expected episode_bars >= 2 and valid_frac in (0, 1)")


@dataclass(frozen=True, kw_only=True, slots=True)
class RLConfig:
    """How a policy is trained."""

    policy: PolicyConfig
    reward: RewardConfig
    ppo: PPOConfig
    warmstart: WarmstartConfig
    train: TrainConfig
    gain: float
    """Of the sizing rule that the actor is cloned from."""
    horizon_index: int
    """Horizon of the sizing rule, by its place among the panel's."""
    band: float
    """No-trade band, part of the limit; goes into the bundle."""
    num_threads: int
    """Threads of torch; part of the result's bytes. Below a width of about 128 one is three times as fast as two."""
    seed: int

    def __post_init__(self) -> None:
        if self.gain <= 0 or not 0 <= self.band < 1 or self.num_threads < 1 or self.seed < 0 or self.horizon_index < 0:
            raise ConfigError("rl: expected gain > 0, band in [0, 1), num_threads >= 1, seed >= 0, horizon_index >= 0")


class Trained(NamedTuple):
    """The best weights, what they scored, and one row per update."""

    tensors: dict[str, Tensor]
    metrics: Row
    history: list[Row]


def train_policy(run: RLConfig, world: World, policy: Policy, rows: Rows, spans: Spans, checkpoint: Path, progress: Progress) -> Trained:
    """Train and return the weights that scored best on the validation part; update 0 is the cloned sizing rule.

    The policy that never trades is a candidate too: what earns less than nothing on validation is not kept.
    Every update draws from its own generator, so that a run that was killed goes on from its checkpoint
    and ends with the bytes of a run that was not.
    """
    if run.train.num_workers == 1:
        return _train(Alone(), run, world, policy, rows, spans, checkpoint, progress)
    capacity = sum(parameter.numel() for parameter in policy.parameters()) + 2 * run.ppo.num_minibatches + _SPARE

    def lead(team: Team) -> Trained:
        return _train(team, run, world, policy, rows, spans, checkpoint, progress)

    return run_team(run.train.num_workers, capacity, lead, _train, run, world, policy, rows, spans, checkpoint, None)


def _train(
    team: Team, run: RLConfig, world: World, policy: Policy, rows: Rows, spans: Spans, checkpoint: Path, progress: Progress | None
) -> Trained:
    """The loop of one worker. All hold the same weights; the first validates, keeps the best and reports, of its own episodes."""
    env = make_env(run, world, run.train.num_accounts // team.size, spans.train)
    learner = Learner(policy, run.ppo.learning_rate, team)
    scale = RewardScale(env.start_E.size) if run.ppo.norm_reward else None
    state = _load(checkpoint, run)
    if state is None:
        state = _begin(run, world, policy, rows, spans, env, team)
    else:
        learner.load_state(state["policy"], state["optimizer"])
        _load_episodes(_place(checkpoint, team, state["update"]), env, scale)
    for number in range(state["update"], run.train.num_updates):
        rng = _rng(run, number + 1, team)
        if run.ppo.anneal_lr:
            learner.learning_rate = run.ppo.learning_rate * (1.0 - number / run.train.num_updates)
        rollout, summary = collect(learner, env, run.train.num_steps, run.ppo.gamma, run.ppo.gae_lambda, rng, scale)
        row = update(learner, rollout, run.ppo, rng)
        row = {
            "update": float(number + 1),
            **{k: float(v) for k, v in summary._asdict().items()},
            **row,
            "std": float(policy.logstd.detach().exp()),
            "reward_scale": 1.0 if scale is None else scale.divisor,
        }
        is_checkpoint = (number + 1) % run.train.valid_every == 0 or number + 1 == run.train.num_updates
        if is_checkpoint and team.rank == 0:
            row |= validate(run, world, policy, spans.valid)
            _keep_best(state, policy, row)
        state["history"] = [*state["history"], row]
        if is_checkpoint:
            state["update"] = number + 1
            _save(checkpoint, run, state, learner, env, scale)
        if progress is not None:
            progress.report("policy", **row)
    return Trained(state["best"], dict(state["best_row"]), state["history"])


def make_env(run: RLConfig, world: World, num_accounts: int, span: tuple[int, int]) -> TradingEnv:
    """Episodes inside a span, no longer than it allows."""
    episode_bars = min(run.train.episode_bars, span[1] - span[0] - 1)
    return TradingEnv(world, num_accounts, span, episode_bars, run.band, run.reward)


def validate(run: RLConfig, world: World, policy: Policy, span: tuple[int, int]) -> Row:
    """Every asset through the whole span without exploration: reward and growth per bar, and what was held."""
    first = span[0]
    length = span[1] - first - 1
    assets = np.flatnonzero(world.present_TN[first : span[1] - 1].any(axis=0)).astype(np.int64)
    if not assets.size or length < 1:
        return {"valid_reward": 0.0, "valid_ret": 0.0, "valid_position": 0.0}
    env = TradingEnv(world, assets.size, None, min(run.train.episode_bars, length), run.band, run.reward)
    env.start_at(assets, np.full(assets.size, first))
    reward, ret, held = 0.0, 0.0, 0.0
    with torch.no_grad():
        for _ in range(length):
            outcome = env.step(policy.act(torch.from_numpy(env.obs_EP)).double().numpy(), None)
            reward += float(outcome.reward_E.mean())
            ret += float(outcome.ret_E.mean())
            held += float(np.abs(env.env.accounts.weight_EA).mean())
    return {"valid_reward": reward / length, "valid_ret": ret / length, "valid_position": held / length}


def flattened(policy: Policy) -> Policy:
    """The policy whose every action is 0: a copy with the actor's last layer emptied."""
    flat = copy.deepcopy(policy)
    with torch.no_grad():
        for parameter in flat.actor[-1].parameters():
            parameter.zero_()
    return flat


def _begin(run: RLConfig, world: World, policy: Policy, rows: Rows, spans: Spans, env: TradingEnv, team: Team) -> dict[str, Any]:
    rng = _rng(run, 0, Alone())
    part = raw_weight(rows.quantiles_RKQ.numpy()[:, run.horizon_index], rows.levels, run.gain)
    cloned = clone_rule(policy, rows.rows_RF, torch.from_numpy(part.astype(np.float32)), run.warmstart, rng)
    env.reset(rng if team.rank == 0 else _rng(run, 0, team))
    row = {"update": 0.0, "clone_loss": cloned[-1] if cloned else 0.0, "reward_scale": 1.0, **validate(run, world, policy, spans.valid)}
    flat = flattened(policy)
    nothing = {"update": 0.0, "is_flat": 1.0, "reward_scale": 1.0, **validate(run, world, flat, spans.valid)}
    nothing["clone_valid_reward"] = row["valid_reward"]
    best = {name: tensor.detach().clone() for name, tensor in flat.state_dict().items()}
    state: dict[str, Any] = {"update": 0, "history": [row], "best": best, "best_row": nothing}
    _keep_best(state, policy, row)
    return state


def _keep_best(state: dict[str, Any], policy: Policy, row: Row) -> None:
    if row["valid_reward"] > state["best_row"]["valid_reward"]:
        kept = {name: row[name] for name in ("update", "valid_reward", "valid_ret", "valid_position", "reward_scale")}
        state["best"] = {name: tensor.detach().clone() for name, tensor in policy.state_dict().items()}
        state["best_row"] = {**state["best_row"], **kept, "is_flat": 0.0}


def _rng(run: RLConfig, number: int, team: Team) -> np.random.Generator:
    """The generator of an update, of its own for every worker."""
    seed = (run.seed, number) if team.rank == 0 else (run.seed, number, team.rank)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))


def _place(checkpoint: Path, team: Team, number: int) -> Path:
    """Where a worker keeps its episodes at an update: named by it, so that those of the checkpoint outlive a kill during the next."""
    return checkpoint.with_name(f"{checkpoint.name}.{team.rank}.{number}")


def _save(path: Path, run: RLConfig, state: dict[str, Any], learner: Learner, env: TradingEnv, scale: RewardScale | None) -> None:
    """Every worker its episodes, then the first the rest, which names the update; then what is older goes."""
    place = _place(path, learner.team, state["update"])
    parts = {"env": env.state(), "scale": {} if scale is None else scale.state}
    _write(place, {name: {k: torch.from_numpy(array) for k, array in part.items()} for name, part in parts.items()})
    learner.team.total(np.zeros(1))
    if learner.team.rank == 0:
        _write(path, {**state, "policy": learner.policy.state_dict(), "optimizer": learner.state(), **_shape(run)})
    learner.team.total(np.zeros(1))
    for older in path.parent.glob(f"{path.name}.{learner.team.rank}.*"):
        if older != place:
            older.unlink()


def _write(path: Path, state: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    artifacts.write_atomic(path, buffer.getvalue())


def _shape(run: RLConfig) -> dict[str, int]:
    return {"num_updates": run.train.num_updates, "num_workers": run.train.num_workers}


def _load(path: Path, run: RLConfig) -> dict[str, Any] | None:
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, weights_only=True)
    asked = _shape(run)
    found = {name: state[name] for name in asked}
    if found != asked:
        raise JobError(f"{path}: checkpoint of a run with {found}, asked for {asked}; remove it")
    return state


def _load_episodes(path: Path, env: TradingEnv, scale: RewardScale | None) -> None:
    parts: dict[str, dict[str, Tensor]] = torch.load(path, weights_only=True)
    env.load_state({name: tensor.numpy() for name, tensor in parts["env"].items()})
    if scale is not None:
        scale.state = {name: tensor.numpy().copy() for name, tensor in parts["scale"].items()}
