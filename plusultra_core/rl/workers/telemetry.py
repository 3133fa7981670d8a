"""What a training looks like from outside: episodes and the spread of their rewards, the age of weights, and where the time goes.

Contents are the same for the same seed and belong into the history. Timings are not, and go to progress reports only.
"""

import time

import numpy as np
from numba import njit

from plusultra_core.arrays import BoolArray, Float64Array
from plusultra_core.rl.rollout import Trajectory

Row = dict[str, float]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_NUM_STATE = 6
_LENGTH, _REWARD, _RET, _PEAK, _FALL, _TRADED = range(_NUM_STATE)


class Telemetry:
    """Episodes of E accounts, followed from rollout to rollout; `state` is all of it."""

    def __init__(self, num_accounts: int) -> None:
        self.state: dict[str, Float64Array] = {"episode_E6": np.zeros((num_accounts, _NUM_STATE)), "action_E": np.zeros(num_accounts)}
        self.row: Row = {}
        """What was told last."""

    def absorb(self, trajectory: Trajectory, staleness: int = 0) -> Row:
        """A row about a rollout; `staleness` is how many updates old the weights were that acted.

        What describes episodes is of those that ended in it, and missing where none did. `episode_turnover` is the sum of the changes
        of the wished part of the limit; `episode_ret` of log returns; `episode_drawdown` the deepest fall of equity, a fraction.
        """
        reward_TE, ended_TE = trajectory.reward_TE, trajectory.ended_TE
        wish_TE = np.where(trajectory.heard_TE, _wish(trajectory.action_TE), 0.0)
        done_R6: Float64Array = np.empty((int(ended_TE.sum()), _NUM_STATE))
        follow(reward_TE, trajectory.ret_TE, wish_TE, ended_TE, self.state["action_E"], self.state["episode_E6"], done_R6)
        row = {
            "reward_std": float(reward_TE.std()),
            "heard_frac": float(trajectory.heard_TE.mean()),
            "staleness": float(staleness),
            "num_liquidated": float(trajectory.terminated_TE.sum()),
        }
        for level, value in zip(QUANTILES, np.quantile(reward_TE, QUANTILES), strict=True):
            row[f"reward_p{round(100 * level):02d}"] = float(value)
        self.row = row | (_episodes(done_R6) if len(done_R6) else {})
        return self.row


class Clock:
    """Seconds by phase since the last reading."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Count the time since the last lap, or reading, to a phase."""
        now = time.perf_counter()
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._last
        self._last = now

    def read(self, num_samples: int) -> Row:
        """Samples a second and seconds of every phase; begins anew. Never part of an artifact."""
        seconds, self._seconds, self._last = self._seconds, {}, time.perf_counter()
        rates = {f"{name}_samples_per_s": num_samples / max(spent, 1e-9) for name, spent in seconds.items()}
        return rates | {f"{name}_seconds": spent for name, spent in seconds.items()}


@njit(cache=True, error_model="numpy")
def follow(
    reward_TE: Float64Array,
    ret_TE: Float64Array,
    wish_TE: Float64Array,
    ended_TE: BoolArray,
    action_E: Float64Array,
    episode_E6: Float64Array,
    done_R6: Float64Array,
) -> None:
    """Go through a rollout; moves what is known of the episodes that run, writes down those that end.

    Shapes  all (T, E); action (E,) the wish before; episode, done (.., 6): length, reward, log return, its peak, deepest fall, turnover.
    """
    num = 0
    for t in range(reward_TE.shape[0]):
        for e in range(reward_TE.shape[1]):
            episode = episode_E6[e]
            episode[0] += 1.0
            episode[1] += reward_TE[t, e]
            episode[2] += ret_TE[t, e]
            episode[3] = max(episode[3], episode[2])
            episode[4] = max(episode[4], episode[3] - episode[2])
            episode[5] += abs(wish_TE[t, e] - action_E[e])
            action_E[e] = wish_TE[t, e]
            if ended_TE[t, e]:
                done_R6[num] = episode
                num += 1
                episode[:] = 0.0
                action_E[e] = 0.0


def _wish(action_TE: Float64Array) -> Float64Array:
    """Of a book, the whole that is wished for."""
    return action_TE if action_TE.ndim == 2 else np.abs(action_TE).sum(axis=2)


def _episodes(done_R6: Float64Array) -> Row:
    row = {
        "episode_bars": float(done_R6[:, _LENGTH].mean()),
        "episode_reward": float(done_R6[:, _REWARD].mean()),
        "episode_reward_std": float(done_R6[:, _REWARD].std()),
        "episode_ret": float(done_R6[:, _RET].mean()),
        "episode_drawdown": float(-np.expm1(-done_R6[:, _FALL]).mean()),
        "episode_drawdown_max": float(-np.expm1(-done_R6[:, _FALL].max())),
        "episode_turnover": float(done_R6[:, _TRADED].mean()),
    }
    for level, value in zip(QUANTILES, np.quantile(done_R6[:, _REWARD], QUANTILES), strict=True):
        row[f"episode_reward_p{round(100 * level):02d}"] = float(value)
    return row
