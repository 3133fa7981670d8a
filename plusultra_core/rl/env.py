"""Single-asset episodes on the step kernel: what PPO trains in is what backtests run in."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from plusultra_core.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from plusultra_core.errors import ContractError
from plusultra_core.guardrails.limits import GuardrailsConfig
from plusultra_core.guardrails.margin import without_shorts
from plusultra_core.market import CostsConfig
from plusultra_core.rl.episodes.stepping import STANDS_LAST, Slots, look, prepare, step_episodes
from plusultra_core.rl.reward import RewardConfig
from plusultra_core.simulation.engine import Environment, SimulationConfig
from plusultra_core.simulation.observation import OWN_STATE
from plusultra_core.simulation.records import MarketArrays


@dataclass(frozen=True, slots=True)
class World:
    """All that an episode may happen in. `table` and `present` hold one row per bar of the market."""

    market: MarketArrays
    bar_ns: int
    table_TNF: Float32Array
    """Scaled market rows; 0 where there is no forecast."""
    present_TN: BoolArray
    """Whether there is a forecast."""
    simulation: SimulationConfig
    costs: CostsConfig
    guard: GuardrailsConfig


class Outcome(NamedTuple):
    """One step of E episodes, in memory that the environment writes anew at its next step. Shapes  (E,), final_obs (E, P)."""

    reward_E: Float64Array
    ret_E: Float64Array
    """Change of log equity."""
    terminated_E: BoolArray
    ended_E: BoolArray
    final_obs_EP: Float32Array
    """Observation that followed, before any reset."""


def sleeve(simulation: SimulationConfig, guard: GuardrailsConfig, limit: float) -> tuple[SimulationConfig, GuardrailsConfig]:
    """The account of one asset of a portfolio: its share of the capital, and all of that may be held.

    The drawdown states belong to the portfolio and are left to it.
    """
    own = replace(simulation, initial_capital_ccy=simulation.initial_capital_ccy * limit)
    free = replace(guard, max_weight=1.0, max_gross=1.0, max_net=1.0, reduce_drawdown=1.0, resume_drawdown=1.0, halt_drawdown=1.0)
    return own, free


class TradingEnv:
    """E episodes in lockstep, each on one asset from a start drawn out of `span`; ended ones start anew.

    Without a span every start is given (`start_at`).

    The action is the wished part of the limit in [-1, 1]. Everything that is random comes from the
    generator given to a call, and the latency from the episode's own stream.
    """

    def __init__(
        self, world: World, num_accounts: int, span: tuple[int, int] | None, episode_bars: int, band: float, reward: RewardConfig
    ) -> None:
        self._starts = np.zeros((0, 2), dtype=np.int64) if span is None else np.stack(_starts(world, span, episode_bars), axis=1)
        self.world = world
        self.episode_bars = episode_bars
        self._band = band
        self._reward = reward
        self.env = Environment(world.market, num_accounts, 1, world.bar_ns, world.simulation, world.costs, world.guard)
        num_columns = world.table_TNF.shape[2] + len(OWN_STATE)
        self.start_E: Int64Array = np.zeros(num_accounts, dtype=np.int64)
        self.num_episodes: Int64Array = np.zeros(1, dtype=np.int64)
        self.moments_E2: Float64Array = np.zeros((num_accounts, 2))
        self.obs_EP: Float32Array = np.zeros((num_accounts, num_columns), dtype=np.float32)
        self._final_EP: Float32Array = np.zeros_like(self.obs_EP)
        self._slots = _slots(self)
        self.request_E: Float64Array = self._slots.request
        self._prepared = prepare(self.env, self._slots, episode_bars, band, reward)

    def reset(self, rng: np.random.Generator) -> Float32Array:
        """Start every episode anew; returns the observations (E, P)."""
        self._restart(np.arange(self.start_E.size), rng)
        self._observe()
        return self.obs_EP

    def start_at(self, n_E: Int64Array, t_E: Int64Array) -> Float32Array:
        """Start episode e on asset n_E[e] at bar t_E[e], for evaluation."""
        rows = np.arange(self.start_E.size)
        self._begin(rows, n_E, t_E)
        self._observe()
        return self.obs_EP

    def present(self) -> BoolArray:
        """Whether the action of each episode is heard: there is a forecast at its bar. Shapes  (E,)."""
        return self._slots.heard.copy()

    def step(self, action_E: Float64Array, rng: np.random.Generator | None) -> Outcome:
        """One bar of every episode. Without a generator ended episodes are left where they ended."""
        slots = self._slots
        action_E = without_shorts(np.ascontiguousarray(action_E, dtype=np.float64), self.env.margin)
        num_ended = step_episodes(action_E, self._prepared.wires, self._prepared.numbers)
        if num_ended == STANDS_LAST:
            self.env.advance(self.request_E[:, None])
        final_EP = self.obs_EP
        if rng is not None and num_ended:
            final_EP = self._final_EP
            final_EP[...] = self.obs_EP
            self._restart(np.flatnonzero(slots.ended), rng)
            self._observe()
        return Outcome(slots.reward, slots.ret, slots.terminated, slots.ended, final_EP)

    def state(self) -> dict[str, np.ndarray]:
        """Everything that a checkpoint needs, by name; `load_state` puts it back."""
        own = {"start_E": self.start_E, "num_episodes": self.num_episodes, "moments_E2": self.moments_E2}
        return {name: value.copy() for name, value in {**own, **self.env.accounts._asdict()}.items()}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Go on from a `state`, bit for bit."""
        targets = {"start_E": self.start_E, "num_episodes": self.num_episodes, "moments_E2": self.moments_E2}
        targets |= self.env.accounts._asdict()
        for name, array in targets.items():
            array[...] = state[name]
        self._observe()

    def _restart(self, rows: Int64Array, rng: np.random.Generator) -> None:
        chosen = self._starts[rng.integers(0, len(self._starts), rows.size)]
        self._begin(rows, chosen[:, 0], chosen[:, 1])

    def _begin(self, rows: Int64Array, n_R: Int64Array, t_R: Int64Array) -> None:
        stream = self.num_episodes[0] + np.arange(rows.size)
        self.num_episodes += rows.size
        self.env.reset(rows, t_R, n_R[:, None], stream)
        self.start_E[rows] = t_R
        self.moments_E2[rows] = 0.0

    def _observe(self) -> None:
        look(self._prepared.wires)


def _slots(env: TradingEnv) -> Slots:
    """Views into the accounts, and room for what a step says."""
    accounts, world, num = env.env.accounts._asdict(), env.world, env.start_E.size
    found = {name: accounts.get(f"{name}_E", accounts.get(f"{name}_EA")) for name in Slots._fields}
    views = {name: array.reshape(-1) for name, array in found.items() if array is not None}
    views |= {name: np.zeros(num) for name in ("request", "reward", "ret")}
    views |= {name: np.zeros(num, dtype=np.bool_) for name in ("terminated", "ended", "heard")}
    table, present = np.ascontiguousarray(world.table_TNF, dtype=np.float32), np.ascontiguousarray(world.present_TN, dtype=np.bool_)
    return Slots(
        **views, start=env.start_E, moments=env.moments_E2, before=np.zeros((num, 2)), obs=env.obs_EP, present=present, table=table
    )


def _starts(world: World, span: tuple[int, int], episode_bars: int) -> tuple[Int64Array, Int64Array]:
    """Assets and bars at which an episode of full length has a forecast at its start and ends inside the span."""
    first, last = span[0], span[1] - episode_bars
    if last <= first:
        raise ContractError(f"episodes: expected a span longer than {episode_bars} bars, found {span}; use shorter episodes or more bars")
    t, n = np.nonzero(world.present_TN[first:last])
    if not n.size:
        raise ContractError(f"episodes: no asset has a forecast in bars {first} to {last}; build the windows again")
    return n.astype(np.int64), t.astype(np.int64) + first
