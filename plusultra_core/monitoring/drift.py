"""Has the world left what the models were trained on? PSI and KS against a null that knows autocorrelation.

The textbook levels (PSI 0.1 and 0.25, the KS p-value) hold for independent samples only; market features are not. So the
statistics of reference and live are compared with those of the same time blocks put in random order.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from plusultra_core.arrays import BoolArray, Float64Array, Int64Array
from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.monitoring.alerts import AlertsConfig
from plusultra_core.monitoring.health import HealthConfig
from plusultra_core.monitoring.metrics import MetricsConfig

_MAX_BLOCKS = 400
_Statistic = Callable[[Float64Array, Float64Array], Float64Array]

VERDICT_SCHEMA = {
    "feature": pl.String,
    "status": pl.String,
    "psi": pl.Float64,
    "ks": pl.Float64,
    "p_value": pl.Float64,
    "q_value": pl.Float64,
    "num_reference": pl.Int64,
    "num_live": pl.Int64,
    "effective_live": pl.Float64,
    "block_bars": pl.Int64,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class MonitoringConfig:
    """When a distribution counts as moved, and what is watched besides."""

    num_bins: int
    """Quantile bins of the reference; live samples are counted in the same bins."""
    smoothing: float
    """Added to each bin's count, so that an empty bin has a logarithm."""
    num_ks_points: int
    """Pooled quantiles at which the two distribution functions are compared, at most."""
    block_taus: float
    """Length of a permuted block in integrated autocorrelation times."""
    num_permutations: int
    """Orders drawn at least; more where the number of features asks for smaller p-values."""
    min_live_blocks: int
    """Fewer blocks of live data than this give no verdict."""
    min_effective_live: float
    """Fewer effectively independent live samples than this give no verdict."""
    fdr: float
    """False discovery rate over the features of one comparison (Benjamini-Hochberg)."""
    min_psi: float
    """A smaller PSI is no drift, however certain."""
    raise_after: int
    """Comparisons in a row that must find drift before the alarm is raised."""
    clear_after: int
    """Comparisons in a row that must find none before it is cleared."""
    seed: int
    health: HealthConfig
    metrics: MetricsConfig
    alerts: AlertsConfig

    def __post_init__(self) -> None:
        for name, least in (("num_bins", 2), ("num_ks_points", 8), ("num_permutations", 99), ("min_live_blocks", 2), ("raise_after", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}: expected >= {least}, found {getattr(self, name)}")
        for name in ("smoothing", "block_taus", "min_effective_live"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name}: expected > 0, found {getattr(self, name)}")
        if not 0 < self.fdr < 1:
            raise ConfigError(f"fdr: expected in (0, 1), found {self.fdr}")
        if self.min_psi < 0 or self.clear_after < 1:
            raise ConfigError(f"min_psi, clear_after: expected >= 0 and >= 1, found {self.min_psi} and {self.clear_after}")


@dataclass(frozen=True, slots=True)
class Alarm:
    """State of one alarm between comparisons; `streak` counts comparisons in a row against it."""

    level: Literal["silent", "firing"]
    streak: int


def build_drift(reference: pl.DataFrame, live: pl.DataFrame, features: tuple[str, ...], cfg: MonitoringConfig) -> pl.DataFrame:
    """One verdict a feature: `stable`, `drift`, or `insufficient` where the live data cannot tell.

    Both frames have `ts_ns` and the features; several rows of one time (symbols) move together.
    Looks   back only: every live row is later than every reference row.
    NaN     missing values are a bin of their own: a feature that dies drifts.
    Raises  ContractError when a column is missing, a value is infinite, or the spans overlap.
    Source  PSI and KS: STATISTICS 11; null: block permutation after Gretton et al. 2012; Benjamini & Hochberg 1995.
    """
    _check_frames(reference, live, features)
    both = pl.concat([reference.select("ts_ns", *features), live.select("ts_ns", *features)])
    time_R = both["ts_ns"].rank("dense").cast(pl.Int64).to_numpy() - 1
    num_reference = len(reference)
    num_times = int(reference["ts_ns"].n_unique())
    # The smallest p-value that a single drifting feature needs to pass Benjamini-Hochberg.
    level = cfg.fdr / len(features)
    rows = []
    for index, name in enumerate(features):
        x_R = both[name].cast(pl.Float64).to_numpy()
        rows.append({"feature": name, **_score(x_R, time_R, num_reference, num_times, level, cfg, cfg.seed + index)})
    frame = pl.DataFrame(rows, schema={name: kind for name, kind in VERDICT_SCHEMA.items() if name not in ("status", "q_value")})
    q_value = pl.Series("q_value", benjamini_hochberg(frame["p_value"].fill_null(np.nan).to_numpy()))
    drifted = (pl.col("q_value") <= cfg.fdr) & (pl.col("psi") >= cfg.min_psi)
    status = (
        pl.when(pl.col("p_value").is_null()).then(pl.lit("insufficient")).when(drifted).then(pl.lit("drift")).otherwise(pl.lit("stable"))
    )
    return frame.with_columns(q_value.fill_nan(None)).with_columns(status=status).select(*VERDICT_SCHEMA).sort("feature")


def psi(reference_B: Float64Array, live_B: Float64Array, smoothing: float) -> Float64Array:
    """Population stability index of counts in shared bins, over the last axis.

    Shapes  counts (..., bins); result (...).
    Source  sum (p - q) ln(p / q), smoothed.
    """
    num_bins = reference_B.shape[-1]
    p = (live_B + smoothing) / (live_B.sum(-1, keepdims=True) + smoothing * num_bins)
    q = (reference_B + smoothing) / (reference_B.sum(-1, keepdims=True) + smoothing * num_bins)
    result: Float64Array = ((p - q) * np.log(p / q)).sum(-1)
    return result


def reference_bins(reference: Float64Array, live: Float64Array, num_bins: int) -> tuple[Int64Array, Int64Array, int]:
    """Bin of every sample, by the quantiles of the reference alone; and how many bins there are.

    A reference of few distinct values (a state, a flag, a constant) gets a bin for each value and one for each gap.
    NaN     bin 0.
    """
    finite = reference[np.isfinite(reference)]
    values = np.unique(finite)
    if len(values) <= num_bins:
        codes = [np.searchsorted(values, x, "left") + np.searchsorted(values, x, "right") + 1 for x in (reference, live)]
        size = 2 * len(values) + 2
    else:
        edges = np.unique(np.quantile(finite, np.arange(1, num_bins) / num_bins))
        codes = [np.searchsorted(edges, x, "right") + 1 for x in (reference, live)]
        size = len(edges) + 2
    ref, liv = (np.where(np.isnan(x), 0, code).astype(np.int64) for x, code in zip((reference, live), codes, strict=True))
    return ref, liv, size


def autocorrelation_time(x_T: Float64Array) -> float:
    """Integrated autocorrelation time: so many samples count as one independent one; at least 1.

    Source  1 + 2 sum of autocorrelations, cut at the first lag >= 5 times the sum so far (Sokal 1997, 3).
    """
    x = x_T[np.isfinite(x_T)]
    if len(x) < 4 or np.ptp(x) == 0:
        return 1.0
    size = 1 << (2 * len(x) - 1).bit_length()
    spectrum = np.fft.rfft(x - x.mean(), size)
    covariance = np.fft.irfft(spectrum * np.conj(spectrum), size)[: len(x)]
    tau = 2 * np.cumsum(covariance / covariance[0]) - 1
    inside = np.arange(len(tau)) < 5 * tau
    cut = int(np.argmin(inside)) if not inside.all() else len(tau) - 1
    return float(max(1.0, tau[cut]))


def benjamini_hochberg(p_F: Float64Array) -> Float64Array:
    """Adjusted p-values; NaN is left out of the count and stays NaN."""
    q_F = np.full(len(p_F), np.nan)
    known = np.flatnonzero(~np.isnan(p_F))
    order = known[np.argsort(p_F[known], kind="stable")]
    scaled = p_F[order] * len(order) / np.arange(1, len(order) + 1)
    q_F[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return q_F


def step_alarm(alarm: Alarm, status: str, cfg: MonitoringConfig) -> Alarm:
    """The alarm after one more comparison; `insufficient` leaves it as it is."""
    if status == "insufficient":
        return alarm
    against = (status == "drift") == (alarm.level == "silent")
    streak = alarm.streak + 1 if against else 0
    if alarm.level == "silent" and streak >= cfg.raise_after:
        return Alarm("firing", 0)
    if alarm.level == "firing" and streak >= cfg.clear_after:
        return Alarm("silent", 0)
    return Alarm(alarm.level, streak)


def _score(
    x_R: Float64Array, time_R: Int64Array, num_reference: int, num_times: int, level: float, cfg: MonitoringConfig, seed: int
) -> dict[str, float | int | None]:
    """Statistics and p-value of one feature: rows are cut into time blocks, and which blocks are 'live' is permuted."""
    total_times = int(time_R.max()) + 1
    tau = _slowest_time(x_R[:num_reference], time_R[:num_reference])
    block = max(math.ceil(cfg.block_taus * tau), math.ceil(total_times / _MAX_BLOCKS))
    ref_code, live_code, num_bins = reference_bins(x_R[:num_reference], x_R[num_reference:], cfg.num_bins)
    code_R = np.concatenate([ref_code, live_code])
    cell_R, num_cells = _ks_cells(x_R, cfg.num_ks_points)
    psi_seen = float(psi(_count(ref_code, num_bins), _count(live_code, num_bins), cfg.smoothing))
    ks_seen = float(_ks(_count(cell_R[:num_reference], num_cells), _count(cell_R[num_reference:], num_cells)))
    num_live_blocks = (total_times - num_times) // block
    num_blocks = num_times // block + num_live_blocks
    effective = (total_times - num_times) / tau
    verdict: dict[str, float | int | None] = {
        "psi": psi_seen,
        "ks": ks_seen,
        "p_value": None,
        "num_reference": num_reference,
        "num_live": len(x_R) - num_reference,
        "effective_live": effective,
        "block_bars": block,
    }
    enough = num_live_blocks >= cfg.min_live_blocks and effective >= cfg.min_effective_live and num_blocks > num_live_blocks
    # With few blocks no order is rare enough to convince: then nothing is said.
    if not enough or 2 / math.comb(num_blocks, num_live_blocks) > level:
        return verdict
    block_R = _block_of(time_R, num_times, total_times, block)
    live_PB = _draw_live_blocks(num_blocks, num_live_blocks, max(cfg.num_permutations, math.ceil(4 / level)), seed)
    psi_P = _permuted(block_R, code_R, num_blocks, num_bins, live_PB, lambda q, p: psi(q, p, cfg.smoothing))
    ks_P = _permuted(block_R, cell_R, num_blocks, num_cells, live_PB, _ks)
    # Row 0 is the order as it happened. Two looks at one question: Bonferroni.
    p_value = 2 * min(float(np.mean(stat_P >= stat_P[0] - 1e-12)) for stat_P in (psi_P, ks_P))
    verdict["p_value"] = min(1.0, p_value)
    return verdict


def _slowest_time(x_R: Float64Array, time_R: Int64Array) -> float:
    """Autocorrelation time of the level and of the distance from the median, mean over the rows of a time, in ranks."""
    finite = np.isfinite(x_R)
    if not finite.any():
        return 1.0
    taus = []
    for y in (x_R[finite], np.abs(x_R[finite] - np.median(x_R[finite]))):
        rank = np.searchsorted(np.sort(y), y, "left") / len(y)
        count = np.bincount(time_R[finite])
        mean = np.bincount(time_R[finite], weights=rank) / np.maximum(count, 1)
        taus.append(autocorrelation_time(mean[count > 0]))
    return max(taus)


def _block_of(time_R: Int64Array, num_times: int, total_times: int, block: int) -> Int64Array:
    """Block of every row, reference blocks first; -1 for the oldest rows of either part that fill no block."""
    num_reference_blocks = num_times // block
    num_live_blocks = (total_times - num_times) // block
    in_reference = (time_R - (num_times - num_reference_blocks * block)) // block
    in_live = (time_R - (total_times - num_live_blocks * block)) // block
    is_live = time_R >= num_times
    block_R = np.where(is_live, in_live + num_reference_blocks, in_reference)
    return np.where(np.where(is_live, in_live, in_reference) < 0, -1, block_R).astype(np.int64)


def _draw_live_blocks(num_blocks: int, num_live_blocks: int, num_permutations: int, seed: int) -> BoolArray:
    """Which blocks are live: row 0 as it happened (the last ones), then random choices of as many."""
    rank_PB = np.random.default_rng(seed).random((num_permutations, num_blocks)).argsort(axis=1).argsort(axis=1)
    seen_1B = np.arange(num_blocks)[None, ::-1]
    return np.concatenate([seen_1B, rank_PB]) < num_live_blocks


def _count(cell_R: Int64Array, num_cells: int) -> Float64Array:
    return np.bincount(cell_R, minlength=num_cells).astype(np.float64)


def _permuted(
    block_R: Int64Array, cell_R: Int64Array, num_blocks: int, num_cells: int, live_PB: BoolArray, statistic: _Statistic
) -> Float64Array:
    used = block_R >= 0
    flat = np.bincount(block_R[used] * num_cells + cell_R[used], minlength=num_blocks * num_cells)
    count_BC = flat.reshape(num_blocks, num_cells).astype(np.float64)
    live_PC = live_PB.astype(np.float64) @ count_BC
    result: Float64Array = statistic(count_BC.sum(0) - live_PC, live_PC)
    return result


def _ks_cells(x_R: Float64Array, num_points: int) -> tuple[Int64Array, int]:
    """Cell of each value on the pooled quantile grid; the last cell is for missing values."""
    finite = x_R[np.isfinite(x_R)]
    if len(finite) == 0:
        return np.zeros(len(x_R), dtype=np.int64), 1
    points = np.unique(finite)
    if len(points) > num_points:
        points = np.unique(np.quantile(finite, np.linspace(0, 1, num_points), method="inverted_cdf"))
    cell_R = np.where(np.isnan(x_R), len(points), np.searchsorted(points, x_R, "left"))
    return cell_R.astype(np.int64), len(points) + 1


def _ks(reference_C: Float64Array, live_C: Float64Array) -> Float64Array:
    """Largest distance of the distribution functions, over finite values; 0 where a side has none."""
    parts = [side[..., :-1].cumsum(-1) / np.maximum(side[..., :-1].sum(-1, keepdims=True), 1.0) for side in (reference_C, live_C)]
    both = np.minimum(reference_C[..., :-1].sum(-1), live_C[..., :-1].sum(-1)) > 0
    distance = np.abs(parts[0] - parts[1]).max(-1, initial=0.0)
    result: Float64Array = np.where(both, distance, 0.0)
    return result


def _check_frames(reference: pl.DataFrame, live: pl.DataFrame, features: tuple[str, ...]) -> None:
    if not features:
        raise ContractError("drift: expected at least one feature, found none")
    for side, frame in (("reference", reference), ("live", live)):
        if missing := sorted({"ts_ns", *features} - set(frame.columns)):
            raise ContractError(f"drift.{side}: column {missing[0]!r} is missing; compare frames of the same features")
        if frame.is_empty():
            raise ContractError(f"drift.{side}: expected rows, found none")
        infinite = [name for name in features if frame[name].cast(pl.Float64).is_infinite().any()]
        if infinite:
            raise ContractError(f"drift.{side}.{infinite[0]}: expected finite values or missing ones, found an infinity")
    last, first = int(reference["ts_ns"].cast(pl.Int64).to_numpy().max()), int(live["ts_ns"].cast(pl.Int64).to_numpy().min())
    if first <= last:
        raise ContractError(f"drift: live must begin after the reference ends, found {first} <= {last}; cut the frames by time")
