"""Rollouts: T steps of E episodes, and the samples that an update learns from."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from plusultra_core.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from plusultra_core.rl.env import Outcome, World
from plusultra_core.rl.gae import advantages
from plusultra_core.rl.learning.learner import Learns, Team
from plusultra_core.rl.learning.recorder import Record
from plusultra_core.rl.learning.tables import Market, market_of, pays
from plusultra_core.rl.reward import RewardScale
from plusultra_core.simulation.observation import OWN_STATE


class Rollout(NamedTuple):
    """Samples of one collection, flattened over (T, E)."""

    obs_BP: Tensor
    u_B: Tensor
    """Action before squashing."""
    logprob_B: Tensor
    value_B: Tensor
    advantage_B: Tensor
    return_B: Tensor
    heard_B: Tensor
    """1 where the action had an effect, else 0."""
    market: Market | None = None
    """Where market rows are looked up they are here, and `obs` is the own state alone."""
    allowed_BC: Tensor | None = None
    """What might be done, where something might not."""
    state_ES: Tensor | None = None
    """Of a policy with a memory: the memory of every account at the start."""
    ended_TE: Tensor | None = None
    """And after which steps it was emptied."""
    weight_B: Tensor | None = None
    """Of an old sample's advantage, where old ones are learned from again."""


class Summary(NamedTuple):
    """What the episodes of a collection gave, for the history."""

    reward_mean: float
    ret_mean: float
    num_ended: int
    num_terminated: int
    action_abs: float
    saturated: float
    """Share of actions beyond .99 of the limit."""


class Episodes(Protocol):
    """E episodes in lockstep, as `TradingEnv` has them. Some also say what is `allowed`: a mask (E, C) for the policy."""

    obs_EP: Float32Array

    def present(self) -> BoolArray:
        """Whether the action of each episode is heard."""

    def step(self, action_E: Float64Array, rng: np.random.Generator | None) -> Outcome:
        """One step of every episode; `obs_EP` then holds what follows, after any reset."""


class Trajectory(NamedTuple):
    """What E episodes did in T steps, as a worker ships it; the learner makes a `Rollout` of it."""

    record: Record
    reward_TE: Float64Array
    ret_TE: Float64Array
    terminated_TE: BoolArray
    ended_TE: BoolArray
    heard_TE: BoolArray
    action_TE: Float64Array
    """A book of A slots has one more axis."""


Watch = Callable[[Trajectory], object]


def collect(
    learner: Learns,
    env: Episodes,
    num_steps: int,
    gamma: float,
    gae_lambda: float,
    rng: np.random.Generator,
    scale: RewardScale | None = None,
    watch: Watch | None = None,
) -> tuple[Rollout, Summary]:
    """Let the policy act, with exploration, for `num_steps` bars of every episode; with a `scale` it learns from scaled rewards.

    `watch` is shown the trajectory that the samples are made of.
    Shapes  T = num_steps, E accounts of `env`, B = T E in time-major order.
    """
    trajectory = roll(learner, env, num_steps, rng)
    if watch is not None:
        watch(trajectory)
    return finish(trajectory, table_of(env), gamma, gae_lambda, scale, learner.team), summarise(trajectory)


def roll(learner: Learns, env: Episodes, num_steps: int, rng: np.random.Generator) -> Trajectory:
    """Act for `num_steps` bars of every episode; market rows are looked up where that pays."""
    num_accounts, num_columns = env.obs_EP.shape
    shape = (num_steps, num_accounts)
    table_RF = table_of(env) if learner.looks_up else None
    if table_RF is not None and not pays(len(table_RF), num_steps * num_accounts, table_RF.shape[1]):
        table_RF = None
    first = 0 if table_RF is None else table_RF.shape[1]
    recorder = learner.record(num_steps, num_accounts, num_columns - first, table_RF, rng)
    reward_TE: Float64Array = np.empty(shape)
    ret_TE: Float64Array = np.empty(shape)
    terminated_TE: BoolArray = np.empty(shape, dtype=np.bool_)
    ended_TE: BoolArray = np.empty(shape, dtype=np.bool_)
    heard_TE: BoolArray = np.empty(shape, dtype=np.bool_)
    actions = []
    allowed = getattr(env, "allowed", None)
    for t in range(num_steps):
        heard_TE[t] = env.present()
        row_E, allowed_EC = None if table_RF is None else rows_of(env), None if allowed is None else allowed()
        action_E = recorder.act(t, env.obs_EP[:, first:], row_E, allowed_EC)
        outcome = env.step(action_E, rng)
        reward_TE[t], ret_TE[t] = outcome.reward_E, outcome.ret_E
        terminated_TE[t], ended_TE[t] = outcome.terminated_E, outcome.ended_E
        recorder.follow(outcome.final_obs_EP, outcome.ended_E, t == num_steps - 1)
        actions.append(action_E)
    record = recorder.record(ended_TE)
    return Trajectory(record, reward_TE, ret_TE, terminated_TE, ended_TE, heard_TE, np.stack(actions))


def finish(
    trajectory: Trajectory, table_RF: Float32Array | None, gamma: float, gae_lambda: float, scale: RewardScale | None, team: Team
) -> Rollout:
    """Advantages and returns of what was done, flattened over (T, E)."""
    record, ended_TE = trajectory.record, trajectory.ended_TE
    value_TE = record.value_TE.astype(np.float64)
    paid_TE = trajectory.reward_TE if scale is None else scale.scaled(trajectory.reward_TE, ended_TE, gamma, team)
    advantage_TE = advantages(paid_TE, value_TE, record.next_TE, trajectory.terminated_TE, ended_TE, gamma, gae_lambda)
    return samples_of(trajectory, table_RF, advantage_TE, advantage_TE + value_TE)


def samples_of(trajectory: Trajectory, table_RF: Float32Array | None, advantage_TE: Float64Array, target_TE: Float64Array) -> Rollout:
    """What was done, flattened over (T, E), with its advantages and what the critic is to say."""
    record = trajectory.record
    market = None if record.row_TE is None or table_RF is None else market_of(table_RF, record.row_TE.reshape(-1))
    obs_BP, u_B, logprob_B, value_B, advantage_B, return_B, heard_B = (
        torch.from_numpy(np.asarray(x, dtype=np.float32)).flatten(0, 1)
        for x in (record.obs_TEP, record.u_TE, record.logprob_TE, record.value_TE, advantage_TE, target_TE, trajectory.heard_TE)
    )
    allowed_BC = None if record.allowed_TEC is None else torch.from_numpy(record.allowed_TEC).flatten(0, 1)
    state_ES = None if record.state_ES is None else torch.from_numpy(record.state_ES)
    ended = None if state_ES is None else torch.from_numpy(trajectory.ended_TE)
    return Rollout(obs_BP, u_B, logprob_B, value_B, advantage_B, return_B, heard_B, market, allowed_BC, state_ES, ended)


def summarise(trajectory: Trajectory) -> Summary:
    """The row of the history."""
    size = np.abs(trajectory.action_TE)
    return Summary(
        float(trajectory.reward_TE.mean()), float(trajectory.ret_TE.mean()), int(trajectory.ended_TE.sum()),
        int(trajectory.terminated_TE.sum()), float(size.mean()), float((size > 0.99).mean()),
    )  # fmt: skip


def table_of(env: Any) -> Float32Array | None:
    """The market rows that all episodes share, one row per (bar, asset); None of episodes that see anything but a row and an own state."""
    world = getattr(env, "world", None)
    if not isinstance(world, World) or env.obs_EP.shape[1] != world.table_TNF.shape[2] + len(OWN_STATE):
        return None
    return world.table_TNF.reshape(-1, world.table_TNF.shape[2])


def rows_of(env: Any) -> Int64Array:
    """Where each episode stands in the table."""
    accounts = env.env.accounts
    row_E: Int64Array = accounts.t_E * env.world.table_TNF.shape[1] + accounts.asset_EA[:, 0]
    return row_E
