"""Splits that nobody recorded: a price that jumps by a small whole ratio between two bars, and stays."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import polars as pl

from plusultra_core.arrays import BoolArray, Float64Array, Int64Array
from plusultra_core.errors import ConfigError

_CANDIDATES = 65_536  # jumps looked at together, so that memory has a bound
_SIGMA = 1.2533  # standard deviation over the mean of absolute values, of a normal law
_TOLD = {"symbol": pl.String, "at": pl.String, "before": pl.Float64, "price": pl.Float64, "split": pl.String}


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitsConfig:
    """When a jump of the price between two bars is worth asking for a split."""

    ratios: tuple[float, ...]
    """Shares that one share becomes (7, 1.5), or that become one."""
    tolerance_frac: float
    """How far from the ratio the price may jump, as a part of it: what else happened overnight."""
    sigmas: float
    """How many standard deviations of the symbol's log returns the jump must be, of all its bars and of those just before it."""
    level_bars: int
    """Bars before, and at most after, whose median closes must lie further apart than half the ratio."""

    def __post_init__(self) -> None:
        if not 0 < self.tolerance_frac < 1:
            raise ConfigError(f"tolerance_frac: expected above 0 and below 1, found {self.tolerance_frac}")
        if not self.ratios or min(self.ratios) * (1 - self.tolerance_frac) <= 1:
            raise ConfigError(f"ratios: expected numbers above 1 by more than tolerance_frac, found {list(self.ratios)}")
        if self.sigmas <= 0 or self.level_bars < 2:
            raise ConfigError(f"splits: expected sigmas > 0 and level_bars >= 2, found {self.sigmas} and {self.level_bars}")

    @property
    def least_log(self) -> float:
        """Half the smallest jump that counts: below it a price is nearer to where it was."""
        return float(np.log(min(self.ratios) * (1 - self.tolerance_frac)) / 2)


def unrecorded_splits(bars: pl.DataFrame, actions: pl.DataFrame, raw: frozenset[str], cfg: SplitsConfig) -> pl.DataFrame:
    """Jumps like splits that no action explains: symbol, at, before (the close), price (the first one after it), split (`7:1`).

    From a close to the next open (the next close where there is none): a crash within a bar is no split. An action explains a jump
    that is none once it is applied: a dividend, or a split where prices are `raw`; where they are not, their source should have.

    Shapes  bars: symbol, ts_ns, close, change (over the close before, null at a symbol's first bar), and open where there is one,
            sorted; actions: symbol, ts_ns, and action, ratio, amount where there are.
    Looks   ahead level_bars: at whether the price stays.
    """
    change = bars["change"].to_numpy()
    least = np.exp(cfg.least_log)
    place = np.flatnonzero((change >= least) | (change <= 1 / least))
    if not place.size:
        return pl.DataFrame(schema=_TOLD)
    log_close = np.log(bars["close"].cast(pl.Float64).to_numpy())
    opened = bars["open"].cast(pl.Float64).to_numpy()[place] if "open" in bars.columns else np.full(place.size, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        log_price = np.where(opened > 0, np.log(opened), log_close[place])
    step = log_price - log_close[place - 1]
    ratio = _ratio(step, cfg)
    kept = np.isfinite(ratio)
    kept[kept] = _stays(log_close, np.isnan(change), place[kept], ratio[kept], cfg)
    place, step, ratio = place[kept], step[kept], ratio[kept]
    found = bars[place].select("symbol", "ts_ns", price=pl.Series(np.exp(log_price[kept])), step=pl.Series(step), like=pl.Series(ratio))
    beside = {"before": pl.Series(np.exp(log_close[place - 1])), "before_ns": bars["ts_ns"].gather(place - 1)}
    told = _unexplained(found.with_columns(**beside), actions, raw)
    at = pl.from_epoch("ts_ns", time_unit="ns").dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    said = pl.Series([_said(one) for one in told["like"].to_list()], dtype=pl.String)
    return told.select("symbol", pl.col("before", "price").round_sig_figs(6), at=at, split=said).select(_TOLD.keys())


def _ratio(step: Float64Array, cfg: SplitsConfig) -> Float64Array:
    """The split (its logarithm, above 0 for more shares) that a jump of the price is like; NaN where it is like none."""
    known = np.log(np.array(cfg.ratios))
    nearest = np.abs(np.abs(step)[:, None] - known).argmin(axis=1)
    off = np.abs(np.abs(step) - known[nearest])
    return np.where(off <= np.log1p(cfg.tolerance_frac), -np.sign(step) * known[nearest], np.nan)


def _stays(log_close: Float64Array, begins: BoolArray, place: Int64Array, ratio: Float64Array, cfg: SplitsConfig) -> BoolArray:
    """Which jumps are far beyond what the symbol does, and have its price on another level before and after."""
    starts = np.flatnonzero(begins)
    symbol = np.searchsorted(starts, place, side="right") - 1
    end = np.append(starts[1:], log_close.size)
    moves = np.abs(np.diff(log_close, prepend=np.nan))
    moves[begins | (moves >= cfg.least_log)] = np.nan  # of which there should be few
    told = ~np.isnan(moves)
    with np.errstate(invalid="ignore"):
        usual = np.add.reduceat(np.where(told, moves, 0.0), starts) / np.add.reduceat(told, starts)
    kept = np.zeros(place.size, dtype=np.bool_)
    for block in range(0, place.size, _CANDIDATES):
        some = slice(block, block + _CANDIDATES)
        at, mine = place[some, None], symbol[some]
        earlier, later = at - 1 - np.arange(cfg.level_bars), at + np.arange(cfg.level_bars)
        before = np.where(earlier >= starts[mine, None], log_close[np.maximum(earlier, 0)], np.nan)
        after = np.where(later < end[mine, None], log_close[np.minimum(later, log_close.size - 1)], np.nan)
        near = np.where(earlier > starts[mine, None], moves[np.maximum(earlier, 0)], np.nan)
        size, close = np.abs(ratio[some]), log_close[place[some]]
        level, sigma = _median(before), _SIGMA * np.fmax(usual[mine], _mean(near))
        moved = [np.sign(-ratio[some]) * (one - level) > size / 2 for one in (close, _median(after))]
        kept[some] = moved[0] & moved[1] & (size > cfg.sigmas * sigma) & (earlier[:, -1] >= starts[mine])
    return kept


def _median(rows: Float64Array) -> Float64Array:
    """Median of what is there in each row; a row has something."""
    ordered, count = np.sort(rows, axis=1), (~np.isnan(rows)).sum(axis=1)
    pick = np.arange(len(rows))
    middle: Float64Array = 0.5 * (ordered[pick, (count - 1) // 2] + ordered[pick, count // 2])
    return middle


def _mean(rows: Float64Array) -> Float64Array:
    """Mean of what is there in each row, NaN where nothing is."""
    there = ~np.isnan(rows)
    with np.errstate(invalid="ignore"):
        mean: Float64Array = np.where(there, rows, 0.0).sum(axis=1) / there.sum(axis=1)
    return mean


def _unexplained(found: pl.DataFrame, actions: pl.DataFrame, raw: frozenset[str]) -> pl.DataFrame:
    """Jumps that stay jumps when the actions since the bar before are applied."""
    if found.is_empty() or actions.is_empty():
        return found
    dated = found.join(actions.with_columns(action_ns="ts_ns").drop("ts_ns"), on="symbol", maintain_order="left")
    dated = dated.filter((pl.col("action_ns") > pl.col("before_ns")) & (pl.col("action_ns") <= pl.col("ts_ns")))
    split = pl.when((pl.col("action") == "split") & pl.col("symbol").is_in(list(raw))).then("ratio")
    paid = pl.when(pl.col("action") == "dividend").then("amount").sum()
    applied = split.log().sum() - (1 - paid / pl.col("before").first()).clip(lower_bound=1e-9).log()
    factor = dated.group_by("symbol", "ts_ns").agg(applied=applied)
    told = found.join(factor, on=["symbol", "ts_ns"], how="left", maintain_order="left")
    rest = (pl.col("step") + pl.col("applied").fill_null(0.0)).abs()
    return told.filter(rest > pl.col("like").abs() / 2)


def _said(ratio: float) -> str:
    """A split as it is announced: new shares for old ones."""
    parts = Fraction(float(np.exp(abs(ratio)))).limit_denominator(20)
    few, many = parts.denominator, parts.numerator
    return f"{many}:{few}" if ratio > 0 else f"{few}:{many}"
