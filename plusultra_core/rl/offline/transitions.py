"""What was seen, done, paid and seen next, out of a ledger: the material of learning without a simulator."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from plusultra_core.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from plusultra_core.errors import ArtifactError, ConfigError
from plusultra_core.rl.reward import RewardConfig, growth, shape_reward
from plusultra_core.simulation.observation import OWN_STATE
from plusultra_core.simulation.records import COSTS

_CLIP = 5.0


class Transitions(NamedTuple):
    """B steps of a behaviour, those of a trajectory one after the other in time.

    `action` is the wished part of the limit in [-1, 1]; `logprob` the behaviour's log density of its atanh, NaN where
    nobody knows.
    A trajectory that merely ends has no `terminated` step: what follows it is worth what its last observation is.
    """

    obs_BP: Float32Array
    action_B: Float32Array
    reward_B: Float32Array
    next_BP: Float32Array
    terminated_B: BoolArray
    trajectory_B: Int64Array
    logprob_B: Float32Array


class SlotHistory(NamedTuple):
    """What a ledger says of every slot, (S, A); row s goes from the close of bar first + s to the next.

    Units   weights are parts of equity; pnl is in account currency, after all costs.
    """

    first: int
    weight: Float64Array
    """Held at the decision."""
    working: Float64Array
    """Still to be traded at the decision."""
    traded: Float64Array
    """Filled in the bar before the decision."""
    target: Float64Array
    """Asked for; NaN where nothing was."""
    pnl: Float64Array
    """Of the step."""
    equity: Float64Array
    """Of the whole account at the decision, (S,)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SlotTerms:
    """How a slot of the ledger is seen as an account of its own."""

    limit: float
    """Largest weight of the slot."""
    capital_ccy: float
    """Of the whole account."""
    episode_bars: int
    reward: RewardConfig

    def __post_init__(self) -> None:
        if not 0 < self.limit <= 1 or self.capital_ccy <= 0 or self.episode_bars < 2:
            raise ConfigError("offline: expected limit in (0, 1], capital > 0, episode_bars >= 2")
        if self.reward.sharpe_coef:
            raise ConfigError(
                "offline: a differential Sharpe ratio runs through an episode and is not known of a ledger; set sharpe_coef: 0"
            )


def read_history(trace: Path, strategy: str, symbols: tuple[str, ...], ts_ns_T: Int64Array) -> SlotHistory:
    """A strategy's slots out of a trace artifact.

    Looks   at the rows of one strategy; a decision sees what had happened by then.
    Raises  ArtifactError for a strategy that is not there, or symbols and times that the panel lacks.
    """
    import pyarrow.parquet as pq

    def read(name: str, columns: list[str]) -> Any:
        rows = pq.read_table(trace / f"{name}.parquet", columns=columns, filters=[("strategy", "=", strategy)])
        return {key: rows[key].to_numpy() for key in columns}

    account = read("account", ["ts_ns", "equity"])
    if account["ts_ns"].size < 2:
        raise ArtifactError(f"{trace}: no ledger of strategy {strategy!r}; name one that the trace has")
    first = int(np.searchsorted(ts_ns_T, account["ts_ns"][0]))
    num_steps, num_slots = account["ts_ns"].size - 1, len(symbols)
    if not np.array_equal(ts_ns_T[first : first + num_steps + 1], account["ts_ns"]):
        raise ArtifactError(f"{trace}: times of {strategy!r} are none of the panel's; trace again from these windows")
    place = {symbol: a for a, symbol in enumerate(symbols)}

    def spread(rows: Any, name: str, fill: float) -> Float64Array:
        step = np.searchsorted(account["ts_ns"], rows["ts_ns"]) - 1
        slot = np.array([place.get(symbol, -1) for symbol in rows["symbol"]], dtype=np.int64)
        if slot.size and slot.min() < 0:
            raise ArtifactError(f"{trace}: symbols of {strategy!r} are none of the panel's; trace again from these windows")
        out: Float64Array = np.full((num_steps, num_slots), fill)
        out[step, slot] = rows[name]
        return out

    terms = ["price_pnl", *COSTS]
    held = read("positions", ["ts_ns", "symbol", "weight", "mark", "target_weight", *terms])
    lived = read_executions(trace, strategy)
    equity = account["equity"][1:, None]
    pnl = spread(held, "price_pnl", 0.0) - sum(spread(held, name, 0.0) for name in COSTS)
    marks = {name: spread(lived, name, 0.0) for name in ("left", "filled", "mark")}
    value = np.where(marks["mark"] > 0, marks["mark"], 0.0) / np.where(equity > 0, equity, np.inf)
    return SlotHistory(
        first,
        _before(spread(held, "weight", 0.0)),
        _before(marks["left"] * value),
        _before(marks["filled"] * value),
        spread(held, "target_weight", np.nan),
        pnl,
        account["equity"][:-1],
    )


def read_executions(trace: Path, strategy: str) -> dict[str, Any]:
    """Signed quantities that each bar filled and left at work, by symbol and time; the last order of a bar counts."""
    import pyarrow.parquet as pq

    path = trace / "executions" / f"strategy={strategy}" / "part.parquet"
    rows = pq.read_table(path, columns=["symbol", "ts_ns", "side", "qty_left", "qty_filled", "status", "mark"], partitioning=None)
    sign = np.where(rows["side"].to_numpy() == "buy", 1.0, -1.0)
    filled = rows["qty_filled"].to_numpy()
    left = np.where(rows["status"].to_numpy() == "carried", rows["qty_left"].to_numpy() - filled, 0.0)
    kept = {name: rows[name].to_numpy() for name in ("symbol", "ts_ns", "mark")}
    return {**kept, "filled": sign * filled, "left": sign * left}


def _before(values: Float64Array) -> Float64Array:
    """Rows moved to the decision that follows them."""
    moved: Float64Array = np.zeros_like(values)
    moved[1:] = np.nan_to_num(values[:-1])
    return moved


def transitions_of(
    history: SlotHistory, terms: SlotTerms, table_TNF: Float32Array, present_TN: BoolArray, span: tuple[int, int]
) -> Transitions:
    """Steps of all slots whose decision and next decision lie inside the span and had a forecast.

    A slot is seen as PPO sees an account of its own: what it holds as a part of its limit, what it earns as a part of the limit's part of
    the account's equity at the decision, which is what its weights are parts of; its drawdown is that of these returns, compounded.
    Where the behaviour asked for nothing it is taken to have asked for what it held and had at work.
    Shapes  table (T, N, F), present (T, N).
    """
    own_SAO = own_states(history, terms)
    num_steps = len(history.pnl)
    part = np.where(np.isnan(history.target), history.weight + history.working, history.target) / terms.limit
    money = np.where(history.equity > 0, terms.limit * history.equity, np.inf)[:, None]
    ret = growth(np.ones_like(history.pnl), 1.0 + history.pnl / money)
    total = np.concatenate((np.zeros((1, part.shape[1])), np.cumsum(ret, axis=0)))
    fall = 1.0 - np.exp(total - np.maximum.accumulate(total, axis=0))
    reward = shape_reward(ret, fall[:-1], fall[1:], np.zeros((0, 2)), terms.reward)
    bars = history.first + np.arange(num_steps)
    inside = (bars >= span[0]) & (bars + 1 < span[1]) & (np.arange(num_steps) + 1 < num_steps)
    known = inside[:, None] & present_TN[bars] & present_TN[np.minimum(bars + 1, len(present_TN) - 1)]
    slot, step = np.nonzero(known.T)
    if not slot.size:
        raise ArtifactError(f"offline: no step of the ledger lies in bars {span[0]} to {span[1]}; trace a longer walk-forward")
    rows = np.concatenate((table_TNF[history.first : history.first + num_steps], own_SAO.astype(np.float32)), axis=2)
    fresh = np.concatenate(([True], (slot[1:] != slot[:-1]) | (step[1:] != step[:-1] + 1)))
    return Transitions(
        obs_BP=rows[step, slot],
        action_B=np.clip(part[step, slot], -1.0, 1.0).astype(np.float32),
        reward_B=reward[step, slot].astype(np.float32),
        next_BP=rows[step + 1, slot],
        terminated_B=np.zeros(slot.size, dtype=np.bool_),
        trajectory_B=np.cumsum(fresh) - 1,
        logprob_B=np.full(slot.size, np.nan, dtype=np.float32),
    )


def own_states(history: SlotHistory, terms: SlotTerms) -> Float64Array:
    """Own state of every slot at each decision, as `write_own_state` has it. Shapes  (S, A, O)."""
    num_steps = len(history.pnl)
    pnl = _before(np.cumsum(history.pnl, axis=0))
    peak = np.maximum(np.maximum.accumulate(pnl, axis=0), 0.0)
    fall = np.clip((peak - pnl) / (terms.limit * terms.capital_ccy + peak), 0.0, 1.0)
    left = 1.0 - (np.arange(num_steps) % terms.episode_bars) / terms.episode_bars
    columns = {
        "position": np.clip(history.weight / terms.limit, -_CLIP, _CLIP),
        "working": np.clip(history.working / terms.limit, -_CLIP, _CLIP),
        "drawdown": fall,
        "last_trade": np.clip(history.traded / terms.limit, -_CLIP, _CLIP),
        "time_left": np.broadcast_to(left[:, None], fall.shape),
    }
    return np.stack([columns[name] for name in OWN_STATE], axis=2)
