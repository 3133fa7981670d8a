"""The loop of PPO: warm start, collect, update, validate, keep the best; resumable bit for bit."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from plusultra_core.errors import ConfigError
from plusultra_core.job import Progress
from plusultra_core.models.policies.acting import Acting
from plusultra_core.models.policies.build import AnyPolicy, learning_rates
from plusultra_core.models.policies.recipe import RecipeConfig
from plusultra_core.models.policy import Policy
from plusultra_core.models.seeds import MOST_SEEDS
from plusultra_core.rl.curriculum.risk import Charged, RiskConfig
from plusultra_core.rl.curriculum.stages import CurriculumConfig, Stage, cheaper, plan, stage_of
from plusultra_core.rl.curriculum.warmstart import WarmstartConfig, clone_rule
from plusultra_core.rl.env import TradingEnv, World
from plusultra_core.rl.episodes import checkpoint as disk
from plusultra_core.rl.episodes.book import BookEnv
from plusultra_core.rl.learning.autograd import TorchConfig, TorchLearner
from plusultra_core.rl.learning.learner import Alone, Learner, Team
from plusultra_core.rl.learning.processes import align, run_team
from plusultra_core.rl.ppo import PPOConfig, Row, update
from plusultra_core.rl.replay.store import Replay, ReplayConfig
from plusultra_core.rl.reward import RewardConfig, RewardScale
from plusultra_core.rl.workers.telemetry import Clock, Telemetry
from plusultra_core.rl.world import Rows, Spans, lessons_of

_SPARE = 64
"""Numbers that a team sums beside gradients and counts."""

AnyLearner = Learner | TorchLearner


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

    policy: RecipeConfig
    reward: RewardConfig
    risk: RiskConfig
    ppo: PPOConfig
    replay: ReplayConfig
    autograd: TorchConfig
    """Of policies that the compiled learner does not know."""
    warmstart: WarmstartConfig
    curriculum: CurriculumConfig
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
    num_seeds: int
    """Trainings, with the seeds `seed`, `seed` + 1 and so on; the one that scores best on the validation span is served."""

    def __post_init__(self) -> None:
        if self.gain <= 0 or not 0 <= self.band < 1 or self.num_threads < 1 or self.seed < 0 or self.horizon_index < 0:
            raise ConfigError("rl: expected gain > 0, band in [0, 1), num_threads >= 1, seed >= 0, horizon_index >= 0")
        if not 1 <= self.num_seeds <= MOST_SEEDS:
            raise ConfigError(f"num_seeds: expected in [1, {MOST_SEEDS}], found {self.num_seeds}")
        if (self.reward.sharpe_coef and not self.risk.sharpe.is_off) or (self.reward.drawdown_coef and not self.risk.drawdown.is_off):
            raise ConfigError("risk: sharpe and drawdown stand in reward and in risk; set one of each to 0")
        shared = self.train.num_accounts // self.train.num_workers
        if self.policy.memory.kind != "none" and shared < self.ppo.num_minibatches:
            raise ConfigError(
                f"ppo.num_minibatches: expected at most the {shared} accounts of a worker, found {self.ppo.num_minibatches}; "
                "a policy with a memory learns from whole accounts"
            )
        self.stages()

    def stages(self) -> tuple[Stage, ...]:
        """The curriculum and, last, the world as configured."""
        return plan(self.curriculum.stages, self.train.num_updates, self.train.episode_bars, self.ppo.gamma)


class Trained(NamedTuple):
    """What a training gives: the best weights, their scores, a row for every update."""

    tensors: dict[str, Tensor]
    metrics: Row
    history: list[Row]


class Place(NamedTuple):
    """Where a policy trains: the world, its spans, the most that a slot may hold."""

    world: World
    rows: Rows
    spans: Spans
    limit: float


def train_policy(run: RLConfig, place: Place, policy: AnyPolicy, checkpoint: Path, progress: Progress) -> Trained:
    """Train and return the weights that scored best on the validation part; update 0 is the cloned sizing rule.

    The policy that never trades is a candidate too: what earns less than nothing on validation is not kept.
    Every update draws from its own generator, so that a run that was killed goes on from its checkpoint
    and ends with the bytes of a run that was not.
    """
    if run.train.num_workers == 1:
        return _train(Alone(), run, place, policy, checkpoint, progress)
    capacity = sum(parameter.numel() for parameter in policy.parameters()) + 2 * run.ppo.num_minibatches + _SPARE

    own = copy.deepcopy(policy)  # what is sent to the others comes to lie in memory that all share

    def lead(team: Team) -> Trained:
        return _train(team, run, place, own, checkpoint, progress)

    return run_team(run.train.num_workers, capacity, lead, _work, run, place, policy, checkpoint)


def _work(team: Team, run: RLConfig, place: Place, policy: AnyPolicy, checkpoint: Path) -> None:
    """The part of a worker that is not the first, on weights of its own."""
    _train(team, run, place, copy.deepcopy(policy), checkpoint, None)


def _train(team: Team, run: RLConfig, place: Place, policy: AnyPolicy, checkpoint: Path, progress: Progress | None) -> Trained:
    """The loop of one worker. All hold the same weights; the first validates, keeps the best and reports, of its own episodes."""
    num_accounts, num_updates, stages = run.train.num_accounts // team.size, run.train.num_updates, run.stages()
    learner = make_learner(run, policy, team)
    scale = RewardScale(num_accounts) if run.ppo.norm_reward else None
    telemetry, replay, clock = Telemetry(num_accounts), Replay(run.replay), Clock()
    state = disk.load(checkpoint, _shape(run))
    env = _enter(run, place, policy, stage_of(stages, 0 if state is None else state["update"]), num_accounts)
    if state is None:
        state = _begin(run, place, policy, env, team)
    else:
        disk.restore(checkpoint, state, learner, env, scale, telemetry, replay)
    for number in range(state["update"], num_updates):
        rng, stage = _rng(run, number + 1, team), stage_of(stages, number)
        if number == stage.first and number > 0:
            env = _enter(run, place, policy, stage, num_accounts)
            env.reset(rng)
            _forget(learner, scale, telemetry, replay)
        if isinstance(env, Charged):
            env.set_progress(number / max(1, num_updates - 1))
        if run.ppo.anneal_lr:
            learner.learning_rate = run.ppo.learning_rate * (1.0 - number / num_updates)
        rollout, summary = replay.collect(
            number, learner, env, run.train.num_steps, stage.gamma, run.ppo.gae_lambda, rng, scale, telemetry.absorb
        )
        clock.lap("collect")
        row = update(learner, rollout, run.ppo, rng)
        clock.lap("learn")
        _absorb(policy, replay.fresh_obs(rollout), team)
        row = {
            "update": float(number + 1),
            **{k: float(v) for k, v in summary._asdict().items()},
            **telemetry.row,
            **replay.row,
            **row,
            **_spread(policy),
            "reward_scale": 1.0 if scale is None else scale.divisor,
            **_course(stage, stages),
        }
        is_checkpoint = (number + 1) % run.train.valid_every == 0 or number + 1 == num_updates
        if is_checkpoint and team.rank == 0:
            row |= validate(run, place, policy)
            _keep_best(state, policy, row)
        state["history"] = [*state["history"], row]
        if is_checkpoint:
            state["update"] = number + 1
            disk.save(checkpoint, state, _shape(run), learner, env, scale, telemetry, replay)
        if progress is not None:
            progress.report("policy", **row, **clock.read(num_accounts * run.train.num_steps))
    return Trained(state["best"], dict(state["best_row"]), state["history"])


def make_learner(run: RLConfig, policy: AnyPolicy, team: Team) -> AnyLearner:
    """The compiled learner for the policy that it knows, autograd for every other."""
    if isinstance(policy, Policy):
        return Learner(policy, run.ppo.learning_rate, team)
    return TorchLearner(policy, run.ppo.learning_rate, run.autograd, team, learning_rates(policy, run.policy))


def _enter(run: RLConfig, place: Place, policy: AnyPolicy, stage: Stage, num_accounts: int) -> Any:
    """Episodes of a stage; what a backbone sees of its windows goes with it."""
    if not isinstance(policy, Policy) and policy.body.rows is not None:
        policy.body.rows.see(stage.window_bars)
    return make_env(run, cheaper(place.world, stage.cost_factor), num_accounts, place.spans.train, stage.episode_bars, place.limit)


def make_env(
    run: RLConfig, world: World, num_accounts: int, span: tuple[int, int], episode_bars: int | None = None, limit: float = 1.0
) -> Any:
    """Episodes inside a span, no longer than it allows, with the scheduled terms of risk."""
    bars = min(episode_bars or run.train.episode_bars, span[1] - span[0] - 1)
    if run.policy.is_book:
        env: Any = BookEnv(world, num_accounts, span, bars, limit, run.band, run.reward)
    else:
        env = TradingEnv(world, num_accounts, span, bars, run.band, run.reward)
    return env if run.risk.is_off else Charged(env, run.risk, run.reward.scale)


def validate(run: RLConfig, place: Place, policy: AnyPolicy) -> Row:
    """Every asset, or the one book, through the whole validation span without exploration: reward and growth per bar, and what was held.

    Always in the world as configured, without the scheduled terms of risk, through whole windows.
    """
    world, (first, end) = place.world, place.spans.valid
    length = end - first - 1
    assets = np.flatnonzero(world.present_TN[first : end - 1].any(axis=0)).astype(np.int64)
    if not assets.size or length < 1:
        return {"valid_reward": 0.0, "valid_ret": 0.0, "valid_position": 0.0}
    episode_bars = min(run.train.episode_bars, length)
    env: Any
    if run.policy.is_book:
        env = BookEnv(world, 1, None, episode_bars, place.limit, run.band, run.reward)
        env.start_at(np.array([first], dtype=np.int64))
    else:
        env = TradingEnv(world, assets.size, None, episode_bars, run.band, run.reward)
        env.start_at(assets, np.full(assets.size, first))
    acting = Acting(policy, env.start_E.size)
    total: Any = np.zeros(3)
    with _whole_windows(policy):
        for _ in range(length):
            outcome = env.step(acting.act(env.obs_EP, None, env.allowed() if run.policy.is_book else None), None)
            held = np.abs(env.env.accounts.weight_EA).sum(axis=1) if run.policy.is_book else np.abs(env.env.accounts.weight_EA)
            total += (float(outcome.reward_E.mean()), float(outcome.ret_E.mean()), float(held.mean()))
    return {name: float(value) / length for name, value in zip(("valid_reward", "valid_ret", "valid_position"), total, strict=True)}


@contextmanager
def _whole_windows(policy: AnyPolicy) -> Iterator[None]:
    """Show a backbone whole windows, whatever its stage hides."""
    rows = None if isinstance(policy, Policy) else policy.body.rows
    hidden = 0 if rows is None else rows.visible_bars
    if rows is None or not hidden:
        yield
        return
    rows.see(0)
    yield
    rows.see(hidden)


def flattened(policy: AnyPolicy) -> AnyPolicy:
    """The policy whose every action is 0: a copy with the actor's last layer emptied."""
    flat = copy.deepcopy(policy)
    flat.silence()
    return flat


def _begin(run: RLConfig, place: Place, policy: AnyPolicy, env: Any, team: Team) -> dict[str, Any]:
    rng = _rng(run, 0, Alone())
    lessons = lessons_of(place.rows, run.policy, place.world, run.horizon_index, run.gain, place.limit)
    cloned = clone_rule(policy, lessons, run.warmstart, rng)
    align(policy, team)
    env.reset(rng if team.rank == 0 else _rng(run, 0, team))
    row = {"update": 0.0, "clone_loss": cloned[-1] if cloned else 0.0, "reward_scale": 1.0, **validate(run, place, policy)}
    flat = flattened(policy)
    nothing = {"update": 0.0, "is_flat": 1.0, "reward_scale": 1.0, **validate(run, place, flat)}
    nothing["clone_valid_reward"] = row["valid_reward"]
    best = {name: tensor.detach().clone().cpu() for name, tensor in flat.state_dict().items()}
    state: dict[str, Any] = {"update": 0, "history": [row], "best": best, "best_row": nothing}
    _keep_best(state, policy, row)
    return state


def _keep_best(state: dict[str, Any], policy: AnyPolicy, row: Row) -> None:
    if row["valid_reward"] > state["best_row"]["valid_reward"]:
        kept = {name: row[name] for name in ("update", "valid_reward", "valid_ret", "valid_position", "reward_scale")}
        state["best"] = {name: tensor.detach().clone().cpu() for name, tensor in policy.state_dict().items()}
        state["best_row"] = {**state["best_row"], **kept, "is_flat": 0.0}


def _absorb(policy: AnyPolicy, obs_BP: Tensor, team: Team) -> None:
    """Let what was seen move the running statistics, of all workers alike."""
    if isinstance(policy, Policy) or not policy.body.is_running:
        return
    moments = policy.body.moments(obs_BP)
    team.total(moments)
    policy.body.absorb(moments)


def _forget(learner: AnyLearner, scale: RewardScale | None, telemetry: Telemetry, replay: Replay) -> None:
    """Episodes begin anew: what was remembered and what was earned so far does not go on."""
    replay.forget()
    memory = learner.state().get("memory")
    if memory is not None:
        memory.zero_()
    if scale is not None:
        scale.state["running_E"][...] = 0.0
    for array in telemetry.state.values():
        array[...] = 0.0


def _spread(policy: AnyPolicy) -> Row:
    logstd = getattr(policy, "logstd", None)
    return {} if logstd is None else {"std": float(logstd.detach().exp())}


def _course(stage: Stage, stages: tuple[Stage, ...]) -> Row:
    """Where in the curriculum an update stands; nothing where there is none."""
    if len(stages) == 1:
        return {}
    numbers = {"stage": stage.number, "stage_episode_bars": stage.episode_bars, "window_bars": stage.window_bars}
    return {**{name: float(number) for name, number in numbers.items()}, "gamma": stage.gamma, "cost_factor": stage.cost_factor}


def _rng(run: RLConfig, number: int, team: Team) -> np.random.Generator:
    """The generator of an update, of its own for every worker."""
    seed = (run.seed, number) if team.rank == 0 else (run.seed, number, team.rank)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))


def _shape(run: RLConfig) -> dict[str, int]:
    return {"num_updates": run.train.num_updates, "num_workers": run.train.num_workers}
