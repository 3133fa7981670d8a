"""Replay for PPO: what was done in the last few updates is learned from again, weighed by how far the policy has moved since.

The policy that the ratio is clipped around is the one with the weights of now, not the one that acted; the distance between those
two is a weight of its own, cut at `max_ratio`. So the ratio begins at 1 for new samples and old ones alike.
Source  Hilton et al. 2021, Batch size-invariance for policy optimization, section 3 (decoupled objective).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plusultra_core.arrays import Float32Array, Float64Array
from plusultra_core.errors import ConfigError
from plusultra_core.rl.learning.learner import Learns
from plusultra_core.rl.learning.recorder import Record
from plusultra_core.rl.replay.vtrace import targets
from plusultra_core.rl.reward import RewardScale
from plusultra_core.rl.rollout import Episodes, Rollout, Summary, Trajectory, Watch, collect, roll, samples_of, summarise, table_of
from plusultra_core.rl.workers.crew import merge

_MOST_LOG_RATIO = 50.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayConfig:
    """What is learned from again."""

    max_age: int
    """Updates since the policy that acted, at most; 0 is off."""
    max_ratio: float
    """The weight of an old sample is its ratio of densities, at most this; >= 1."""
    num_trajectories: int
    """Rollouts learned from beside the new one, at most: the newest."""

    def __post_init__(self) -> None:
        if self.max_age < 0 or self.num_trajectories < 1 or not 1.0 <= self.max_ratio < np.inf:
            raise ConfigError(
                "replay: expected max_age >= 0, num_trajectories >= 1 and max_ratio >= 1, "
                f"found {self.max_age}, {self.num_trajectories}, {self.max_ratio}"
            )

    @property
    def is_off(self) -> bool:
        """Whether every update learns from its own rollout alone."""
        return self.max_age == 0


class Replay:
    """The last rollouts of one worker, with the update before which each was made."""

    def __init__(self, cfg: ReplayConfig) -> None:
        self.cfg = cfg
        self.row: dict[str, float] = {}
        """What was told of the last collection."""
        self._kept: list[tuple[int, Trajectory]] = []
        self._shape = (0, 0)

    def collect(
        self, number: int, learner: Learns, env: Episodes, num_steps: int, gamma: float, gae_lambda: float, rng: np.random.Generator,
        scale: RewardScale | None = None, watch: Watch | None = None,
    ) -> tuple[Rollout, Summary]:  # fmt: skip
        """As `rollout.collect`, before update `number`; the samples are those of the new rollout and, beside them, of the old ones.

        The summary and what `watch` is shown are of the new rollout alone.
        """
        if self.cfg.is_off:
            return collect(learner, env, num_steps, gamma, gae_lambda, rng, scale, watch)
        fresh = roll(learner, env, num_steps, rng)
        if watch is not None:
            watch(fresh)
        self._shape = fresh.reward_TE.shape
        all_of = [(number, fresh), *self._young(number)]
        rollout = self._lesson(number, all_of, learner, table_of(env), gamma, gae_lambda, scale)
        self._kept = all_of[: self.cfg.num_trajectories]
        self._kept = self._young(number + 1)
        return rollout, summarise(fresh)

    def fresh_obs(self, rollout: Rollout) -> Tensor:
        """Observations of the new samples alone."""
        if self.cfg.is_off:
            return rollout.obs_BP
        (num_steps, num_accounts), num_columns = self._shape, rollout.obs_BP.shape[1]
        return rollout.obs_BP.view(num_steps, -1, num_columns)[:, :num_accounts].reshape(-1, num_columns)

    def forget(self) -> None:
        """Episodes begin anew in another world: what was done in the last one teaches nothing about it."""
        self._kept = []

    @property
    def state(self) -> dict[str, NDArray[np.generic]]:
        """All that is kept, for a checkpoint."""
        found: dict[str, NDArray[np.generic]] = {"born": np.array([born for born, _ in self._kept], dtype=np.int64)}
        for place, (_, trajectory) in enumerate(self._kept):
            columns = {**trajectory.record._asdict(), **trajectory._asdict()}
            del columns["record"]
            found |= {f"{place}.{name}": column for name, column in columns.items() if column is not None}
        return found

    def load_state(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Go on from a `state`, bit for bit."""
        self._kept = []
        for place, born in enumerate(state["born"]):
            record = Record(*(state.get(f"{place}.{name}") for name in Record._fields))  # type: ignore[arg-type]
            rest = (state[f"{place}.{name}"] for name in Trajectory._fields[1:])
            self._kept.append((int(born), Trajectory(record, *rest)))  # type: ignore[arg-type]

    def _young(self, number: int) -> list[tuple[int, Trajectory]]:
        return [(born, trajectory) for born, trajectory in self._kept if number - born <= self.cfg.max_age]

    def _lesson(
        self, number: int, all_of: list[tuple[int, Trajectory]], learner: Learns, table_RF: Float32Array | None, gamma: float,
        gae_lambda: float, scale: RewardScale | None,
    ) -> Rollout:  # fmt: skip
        trajectories = [trajectory for _, trajectory in all_of]
        merged = merge(trajectories)
        now = learner.review(merged.record, merged.ended_TE, table_RF)
        ratio_TE = _ratios(now, merged)
        num_fresh = trajectories[0].reward_TE.shape[1]
        ratio_TE[:, :num_fresh] = 1.0
        paid_TE = _paid(trajectories, gamma, scale, learner)
        value_TE = now.value_TE.astype(np.float64)
        advantage_TE, target_TE = targets(
            paid_TE, value_TE, now.next_TE, ratio_TE, merged.terminated_TE, merged.ended_TE, gamma, gae_lambda, self.cfg.max_ratio
        )
        weight_TE = np.minimum(ratio_TE, self.cfg.max_ratio)
        ages = np.repeat([number - born for born, _ in all_of], [trajectory.reward_TE.size for trajectory in trajectories])
        self.row = {"replay_age": float(ages.mean()), **_telling(ratio_TE[:, num_fresh:], weight_TE[:, num_fresh:])}
        rollout = samples_of(merged._replace(record=now), table_RF, advantage_TE, target_TE)
        return rollout._replace(weight_B=torch.from_numpy(weight_TE.astype(np.float32)).flatten())


def _ratios(now: Record, merged: Trajectory) -> Float64Array:
    """Density of what was done, now over then; an action that was not heard did nothing, whoever chose it."""
    moved_TE = now.logprob_TE.astype(np.float64) - merged.record.logprob_TE.astype(np.float64)
    ratio_TE: Float64Array = np.exp(np.minimum(np.where(merged.heard_TE, moved_TE, 0.0), _MOST_LOG_RATIO))
    return ratio_TE


def _paid(trajectories: list[Trajectory], gamma: float, scale: RewardScale | None, learner: Learns) -> Float64Array:
    """Rewards side by side; the new ones move the scale, the old ones are told in its units of now."""
    fresh, *old = trajectories
    if scale is None:
        return np.concatenate([trajectory.reward_TE for trajectory in trajectories], axis=1)
    first = scale.scaled(fresh.reward_TE, fresh.ended_TE, gamma, learner.team)
    return np.concatenate([first, *(scale.in_units(trajectory.reward_TE) for trajectory in old)], axis=1)


def _telling(ratio_TE: Float64Array, weight_TE: Float64Array) -> dict[str, float]:
    """Of the old samples: their mean weight, and what part of them an even sample would be worth as much as (Kish); 1 of none."""
    if not ratio_TE.size:
        return {"replay_ratio": 1.0, "replay_ess": 1.0}
    share_TE = ratio_TE / ratio_TE.max()
    ess = float(share_TE.sum()) ** 2 / float((share_TE**2).sum()) / share_TE.size
    return {"replay_ratio": float(weight_TE.mean()), "replay_ess": ess}
