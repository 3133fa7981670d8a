"""Episodes of whole accounts: every asset of the market in a slot of its own, one action for all of them."""

import numpy as np

from plusultra_core.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from plusultra_core.errors import ContractError
from plusultra_core.models.policies.acting import book_parts
from plusultra_core.rl.env import Outcome, World
from plusultra_core.rl.reward import RewardConfig, growth, shape_reward
from plusultra_core.simulation.engine import Environment
from plusultra_core.simulation.observation import OWN_STATE, write_observation, write_own_state
from plusultra_core.simulation.sizing import request_weights, working_weights


class BookEnv:
    """E accounts of A slots in lockstep, as `TradingEnv` has single slots. Guardrails are the book's own, drawdown states and all.

    The action is the weight of every asset in [0, 1], with cash summing to one: a part of `guard.max_gross`. What is held where
    nothing may be asked keeps its room. Observations are those of the slots, side by side, each measured against `limit`.
    Shapes  obs (E, A (M + O)), action (E, A).
    """

    def __init__(
        self,
        world: World,
        num_accounts: int,
        span: tuple[int, int] | None,
        episode_bars: int,
        limit: float,
        band: float,
        reward: RewardConfig,
    ) -> None:
        self._start_S: Int64Array = np.zeros(0, dtype=np.int64) if span is None else _starts(world, span, episode_bars)
        self._world, self.episode_bars, self._limit, self._band, self._reward = world, episode_bars, limit, band, reward
        num_assets, num_columns = world.present_TN.shape[1], world.table_TNF.shape[2] + len(OWN_STATE)
        self.env = Environment(world.market, num_accounts, num_assets, world.bar_ns, world.simulation, world.costs, world.guard)
        self.start_E: Int64Array = np.zeros(num_accounts, dtype=np.int64)
        self.num_episodes: Int64Array = np.zeros(1, dtype=np.int64)
        self.moments_E2: Float64Array = np.zeros((num_accounts, 2))
        self.obs_EP: Float32Array = np.zeros((num_accounts, num_assets * num_columns), dtype=np.float32)
        self._own_EAO: Float64Array = np.zeros((num_accounts, num_assets, len(OWN_STATE)))

    def reset(self, rng: np.random.Generator) -> Float32Array:
        """Start every episode anew; returns the observations (E, P)."""
        self._restart(np.arange(self.start_E.size), rng)
        self._observe()
        return self.obs_EP

    def start_at(self, t_E: Int64Array) -> Float32Array:
        """Start episode e at bar t_E[e], for evaluation."""
        self._begin(np.arange(self.start_E.size), t_E)
        self._observe()
        return self.obs_EP

    def allowed(self) -> BoolArray:
        """Slots that may be asked for something: there is a forecast. Shapes  (E, A)."""
        allowed: BoolArray = self._world.present_TN[self.env.accounts.t_E[:, None], self.env.accounts.asset_EA]
        return allowed

    def present(self) -> BoolArray:
        """Whether anything of an action is heard. Shapes  (E,)."""
        return np.asarray(self.allowed().any(axis=1), dtype=np.bool_)

    def step(self, action: Float64Array, rng: np.random.Generator | None) -> Outcome:
        """One bar of every episode. Without a generator ended episodes are left where they ended."""
        accounts, allowed_EA = self.env.accounts, self.allowed()
        before, drawdown = accounts.equity_E.copy(), 1.0 - accounts.equity_E / accounts.peak_E
        weight_EA = np.asarray(accounts.weight_EA)
        part_EA = book_parts(action, weight_EA, allowed_EA, self._world.guard.max_gross, self._limit)
        self.env.advance(request_weights(part_EA, allowed_EA, weight_EA, working_weights(accounts), self._limit, self._band))
        ret = growth(before, accounts.equity_E)
        reward = shape_reward(ret, drawdown, 1.0 - accounts.equity_E / accounts.peak_E, self.moments_E2, self._reward)
        terminated = accounts.done_E.copy()
        ended = terminated | (accounts.t_E - self.start_E >= self.episode_bars)
        self._observe()
        outcome = Outcome(reward, ret, terminated, ended, self.obs_EP.copy())
        if rng is not None and ended.any():
            self._restart(np.flatnonzero(ended), rng)
            self._observe()
        return outcome

    def state(self) -> dict[str, np.ndarray]:
        """Everything that a checkpoint needs, by name; `load_state` puts it back."""
        return {name: value.copy() for name, value in {**self._own(), **self.env.accounts._asdict()}.items()}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Go on from a `state`, bit for bit."""
        for name, array in {**self._own(), **self.env.accounts._asdict()}.items():
            array[...] = state[name]
        self._observe()

    def _own(self) -> dict[str, np.ndarray]:
        return {"start_E": self.start_E, "num_episodes": self.num_episodes, "moments_E2": self.moments_E2}

    def _restart(self, rows: Int64Array, rng: np.random.Generator) -> None:
        self._begin(rows, self._start_S[rng.integers(0, self._start_S.size, rows.size)])

    def _begin(self, rows: Int64Array, t_R: Int64Array) -> None:
        stream = self.num_episodes[0] + np.arange(rows.size)
        self.num_episodes += rows.size
        assets = np.broadcast_to(np.arange(self._own_EAO.shape[1], dtype=np.int64), (rows.size, self._own_EAO.shape[1]))
        self.env.reset(rows, t_R, assets, stream)
        self.start_E[rows] = t_R
        self.moments_E2[rows] = 0.0

    def _observe(self) -> None:
        accounts, world = self.env.accounts, self._world
        write_own_state(accounts, self.env.last, self._limit, self.start_E, self.episode_bars, self._own_EAO)
        write_observation(world.table_TNF, accounts, self._own_EAO, 0, self.obs_EP.reshape(*self._own_EAO.shape[:2], -1))


def _starts(world: World, span: tuple[int, int], episode_bars: int) -> Int64Array:
    """Bars with a forecast at which an episode of full length ends inside the span."""
    first, last = span[0], span[1] - episode_bars
    found = first + np.flatnonzero(world.present_TN[first : max(first, last)].any(axis=1))
    if not found.size:
        raise ContractError(
            f"episodes: expected forecasts in a span longer than {episode_bars} bars, found none in {span}; use shorter ones"
        )
    return found.astype(np.int64)
