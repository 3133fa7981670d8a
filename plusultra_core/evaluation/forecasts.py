"""Judging forecasts: information coefficients, quantile scores, calibration, and skill against two baselines.

Both baselines are known before the test span: climatology (quantiles of y realised before it) and the
EWMA-volatility Gaussian (y is scaled by that volatility, so its forecast is the standard normal).
"""

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from scipy.special import ndtri

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.evaluation import bootstrap, scores

STATE_NAMES = ("unknown", "low", "mid", "high")
CLASSES = ("p_down", "p_flat", "p_up")
_QUANTILE = re.compile(r"q_([0-9]{2,4})")
_Z95 = 1.959963984540054
_CHUNK = 256  # resamples summed together: bounds the memory
_COLUMNS = ("symbol", "ts_ns", "fold", "split", "model", "horizon", *CLASSES, "y", "direction", "label_end_ns")


@dataclass(frozen=True, kw_only=True, slots=True)
class ForecastScoresConfig:
    """How forecasts are judged."""

    min_names: int
    """Names a date needs for a cross-sectional IC; with too few such dates the IC is pooled over time."""
    ece_bins: int
    """Equal-width confidence bins of the direction's calibration error."""
    min_history_rows: int
    """Realised outcomes before a test span that climatology needs; folds with fewer are left out of that comparison."""

    def __post_init__(self) -> None:
        for name, least in (("min_names", 3), ("ece_bins", 2), ("min_history_rows", 10)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}: expected >= {least}, found {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class _Rows:
    """Scored rows of one model and horizon, sorted by time; `date_B` numbers their dates from 0."""

    frame: pl.DataFrame
    y_B: Float64Array
    quantiles_BQ: Float64Array
    levels_Q: Float64Array
    date_B: Int64Array
    index_RD: Int64Array
    confidence: float


def quantile_levels(columns: list[str]) -> dict[str, float]:
    """Quantile columns and their levels, ascending: `q_05` is 0.05, `q_975` is 0.975.

    Raises  ContractError when there are fewer than three or no median.
    """
    levels = {name: float(f"0.{match[1]}") for name in columns if (match := _QUANTILE.fullmatch(name))}
    if len(levels) < 3 or 0.5 not in levels.values():
        raise ContractError(f"forecasts: expected quantile columns q_XX with a median q_50, found {sorted(levels)}")
    return dict(sorted(levels.items(), key=lambda item: item[1]))


def score_forecasts(
    forecasts: pl.DataFrame,
    regimes: pl.DataFrame,
    targets: pl.DataFrame | None,
    cfg: ForecastScoresConfig,
    bootstrap_cfg: bootstrap.BootstrapConfig,
    seed: int,
) -> tuple[dict[str, dict[str, dict[str, Any]]], list[str]]:
    """Scores by model and horizon (as text) on test rows whose outcome is known, and warnings in words.

    `targets` is the station's frame and gives climatology its train span; without it only outcomes inside
    `forecasts` that ended before a test span count.
    Raises  ContractError for missing columns, repeated keys or a probability that is none.
    """
    if missing := sorted(set(_COLUMNS) - set(forecasts.columns)):
        raise ContractError(f"forecasts: missing column {missing[0]!r}; write the columns of the forecasts table")
    levels = quantile_levels(forecasts.columns)
    test = _with_regime(forecasts.filter(pl.col("split") == "test"), regimes)
    history = _history(forecasts, targets)
    result: dict[str, dict[str, dict[str, Any]]] = {}
    warnings: list[str] = []
    for (model, horizon), part in test.group_by(["model", "horizon"], maintain_order=True):
        known = part.filter(pl.col("y").is_finite()).sort("ts_ns", "symbol")
        where = f"forecasts {model}, horizon {horizon}"
        if known.is_empty():
            warnings.append(f"{where}: no outcome is known yet, nothing was scored")
            continue
        rows = _rows(known, levels, int(str(horizon)), bootstrap_cfg, seed)
        scored, notes = _score(rows, history.filter(pl.col("horizon") == horizon), int(str(horizon)), cfg)
        scored["num_unscored"] = part.height - known.height
        result.setdefault(str(model), {})[str(horizon)] = scored
        warnings.extend(f"{where}: {note}" for note in notes)
    return {model: result[model] for model in sorted(result)}, sorted(warnings)


def _with_regime(test: pl.DataFrame, regimes: pl.DataFrame) -> pl.DataFrame:
    keys = ["model", "symbol", "ts_ns", "horizon"]
    if test.select(keys).is_duplicated().any():
        raise ContractError(f"forecasts: keys {keys} repeat in split test; write one row an anchor")
    states = regimes.select("symbol", "ts_ns", "volatility_state")
    if states.select("symbol", "ts_ns").is_duplicated().any():
        raise ContractError("regimes: keys (symbol, ts_ns) repeat; write one row a bar")
    joined = test.join(states, on=["symbol", "ts_ns"], how="left")
    return joined.with_columns(pl.col("volatility_state").fill_null(0))


def _history(forecasts: pl.DataFrame, targets: pl.DataFrame | None) -> pl.DataFrame:
    """Realised outcomes: horizon, ts_ns, label_end_ns, y; each once."""
    if targets is None:
        keys = ["symbol", "ts_ns", "horizon"]
        frame = forecasts.unique(keys, maintain_order=True).select("horizon", "ts_ns", "label_end_ns", "y")
    else:
        horizons = sorted(int(name.removeprefix("target_")) for name in targets.columns if re.fullmatch(r"target_[0-9]+", name))
        frame = pl.concat(
            targets.select(
                pl.lit(h, dtype=pl.Int32).alias("horizon"),
                "ts_ns",
                pl.col(f"label_end_ns_{h}").alias("label_end_ns"),
                pl.col(f"target_{h}").alias("y"),
            )
            for h in horizons
        )
    return frame.filter(pl.col("y").is_finite() & pl.col("label_end_ns").is_not_null())


def _rows(known: pl.DataFrame, levels: dict[str, float], horizon: int, cfg: bootstrap.BootstrapConfig, seed: int) -> _Rows:
    dates, date_B = np.unique(known["ts_ns"].to_numpy(), return_inverse=True)
    quantiles_BQ = known.select(list(levels)).to_numpy().astype(np.float64)
    if not np.isfinite(quantiles_BQ).all():
        raise ContractError(f"forecasts: {int((~np.isfinite(quantiles_BQ)).sum())} quantiles are not finite; look at the model's inputs")
    block = min(max(2.0 * horizon, 1.0), max(len(dates) / 3, 1.0))
    enough = len(dates) >= cfg.min_bars
    index_RD = bootstrap.resample_indices(len(dates), block, cfg.reps, seed) if enough else np.empty((0, len(dates)), dtype=np.int64)
    return _Rows(
        frame=known,
        y_B=known["y"].to_numpy().astype(np.float64),
        quantiles_BQ=quantiles_BQ,
        levels_Q=np.array(list(levels.values())),
        date_B=date_B.astype(np.int64),
        index_RD=index_RD,
        confidence=cfg.confidence,
    )


def _score(rows: _Rows, history: pl.DataFrame, horizon: int, cfg: ForecastScoresConfig) -> tuple[dict[str, Any], list[str]]:
    loss_BQ = scores.pinball(rows.y_B, rows.quantiles_BQ, rows.levels_Q)
    result: dict[str, Any] = {
        "num_rows": rows.frame.height,
        "num_dates": int(rows.date_B[-1]) + 1,
        "num_symbols": rows.frame["symbol"].n_unique(),
        "pinball_mean": float(loss_BQ.mean()),
        "pinball": {f"{level:.3g}": float(value) for level, value in zip(rows.levels_Q, loss_BQ.mean(axis=0), strict=True)},
        "crps": float((loss_BQ @ scores.crps_weights(rows.levels_Q)).mean()),
        "crossings": scores.crossings(rows.quantiles_BQ),
        "sharpness": float((rows.quantiles_BQ[:, -1] - rows.quantiles_BQ[:, 0]).mean()),
    }
    result.update(_information(rows, horizon, cfg))
    result.update(_calibration(rows))
    result.update(_directions(rows, cfg))
    skill, notes = _skill(rows, history, cfg)
    result.update(skill)
    if result["crossings"]:
        notes.append(f"quantiles cross or tie in {result['crossings']} of {result['num_rows']} rows")
    return result, notes


def _information(rows: _Rows, horizon: int, cfg: ForecastScoresConfig) -> dict[str, Any]:
    """IC and rank IC of the median: mean over dates of the cross-section, or pooled over time where names are few."""
    median = rows.levels_Q.tolist().index(0.5)
    frame = pl.DataFrame({"date": rows.date_B, "f": rows.quantiles_BQ[:, median], "y": rows.y_B})
    frame = frame.with_columns(pl.len().over("date").alias("names"))
    broad = frame.filter(pl.col("names") >= cfg.min_names)
    cross = broad["date"].n_unique() >= 0.5 * frame["date"].n_unique()
    lag = 2 * horizon
    result: dict[str, Any] = {"ic_method": "cross_sectional" if cross else "pooled", "newey_west_lag": lag}
    for prefix, ranked in (("ic", False), ("rank_ic", True)):
        chosen = broad if cross else frame
        if ranked:
            rank = [pl.col(name).rank("average").over("date" if cross else pl.lit(1)) for name in ("f", "y")]
            chosen = chosen.with_columns(rank)
        series_T, value = _cross_sectional(chosen) if cross else _pooled(chosen)
        error = scores.newey_west_se(series_T, lag)
        spread = float(series_T.std(ddof=1)) if series_T.size > 1 else math.nan
        result |= {prefix: _null(value), f"{prefix}_se": _null(error), f"{prefix}_num_dates": int(series_T.size)}
        known = math.isfinite(value) and math.isfinite(error)
        result[f"{prefix}_ci"] = [value - _Z95 * error, value + _Z95 * error] if known else None
        result[f"{prefix}ir"] = _null(value / spread) if spread > 1e-12 else None
    return result


def _cross_sectional(frame: pl.DataFrame) -> tuple[Float64Array, float]:
    by_date = frame.group_by("date").agg(pl.corr("f", "y").alias("ic")).sort("date")
    series_T = by_date.filter(pl.col("ic").is_finite())["ic"].to_numpy()
    return series_T, float(series_T.mean()) if series_T.size else math.nan


def _pooled(frame: pl.DataFrame) -> tuple[Float64Array, float]:
    """Correlation over all rows, and the mean product of z-scores by date, from which its error is taken."""
    z = {name: frame[name].to_numpy().astype(np.float64) for name in ("f", "y")}
    for name, value in z.items():
        spread = float(value.std())
        if not spread > 1e-12 * max(float(np.abs(value).max()), 1e-300):
            return np.empty(0), math.nan
        z[name] = (value - value.mean()) / spread
    product_B = z["f"] * z["y"]
    date_B = frame["date"].to_numpy()
    by_date = np.bincount(date_B, weights=product_B) / np.bincount(date_B)
    return by_date, float(product_B.mean())


def _calibration(rows: _Rows) -> dict[str, Any]:
    """Observed shares below each level and inside central intervals, overall and by volatility regime."""
    below_BQ = rows.y_B[:, None] <= rows.quantiles_BQ
    levels = rows.levels_Q.tolist()
    result: dict[str, Any] = {
        "levels": {f"{level:.3g}": float(share) for level, share in zip(levels, below_BQ.mean(axis=0), strict=True)},
        "level_error_max": float(np.abs(below_BQ.mean(axis=0) - rows.levels_Q).max()),
        "pit": {
            "observed": scores.pit_shares(rows.y_B, rows.quantiles_BQ).tolist(),
            "expected": np.diff([0.0, *levels, 1.0]).round(12).tolist(),
        },
    }
    state_B = rows.frame["volatility_state"].to_numpy()
    by_regime: dict[str, dict[str, float]] = {
        name: {"num_rows": int((state_B == code).sum())} for code, name in enumerate(STATE_NAMES) if (state_B == code).any()
    }
    for low, level in enumerate(levels):
        high = next((index for index, other in enumerate(levels) if math.isclose(other, 1.0 - level)), None)
        if level >= 0.5 or high is None:
            continue
        name = f"coverage_{round((1.0 - 2.0 * level) * 100)}"
        inside_B = (rows.y_B >= rows.quantiles_BQ[:, low]) & (rows.y_B <= rows.quantiles_BQ[:, high])
        result[name] = float(inside_B.mean())
        result[f"{name}_ci"] = _ratio_interval(rows, inside_B.astype(np.float64), np.ones(len(inside_B)))
        for state, values in by_regime.items():
            values[name] = float(inside_B[state_B == STATE_NAMES.index(state)].mean())
    result["coverage_by_regime"] = by_regime
    return result


def _directions(rows: _Rows, cfg: ForecastScoresConfig) -> dict[str, Any]:
    known = rows.frame.filter(pl.col("direction").is_between(0, 2))
    if known.is_empty():
        return {"num_directions": 0, "brier": None, "nll": None, "ece": None, "reliability": []}
    probability_BC = known.select(CLASSES).to_numpy().astype(np.float64)
    scores.check_probabilities(probability_BC, "forecasts")
    class_B = known["direction"].to_numpy().astype(np.int64)
    return {
        "num_directions": known.height,
        "brier": scores.brier(probability_BC, class_B),
        "nll": scores.negative_log_likelihood(probability_BC, class_B),
        "ece": scores.expected_calibration_error(probability_BC, class_B, cfg.ece_bins),
        "reliability": [list(row) for row in scores.reliability(probability_BC, class_B, cfg.ece_bins)],
    }


def _skill(rows: _Rows, history: pl.DataFrame, cfg: ForecastScoresConfig) -> tuple[dict[str, Any], list[str]]:
    """1 - CRPS / CRPS of the baseline, both on the same rows; positive is better than the baseline."""
    loss_B = scores.crps(rows.y_B, rows.quantiles_BQ, rows.levels_Q)
    normal_BQ = np.broadcast_to(ndtri(rows.levels_Q), rows.quantiles_BQ.shape)
    ewma_B = scores.crps(rows.y_B, normal_BQ, rows.levels_Q)
    climate_BQ, short = _climatology(rows, history, cfg)
    usable_B = np.isfinite(climate_BQ[:, 0]).astype(np.float64)
    climate_B = np.where(usable_B > 0, scores.crps(rows.y_B, np.nan_to_num(climate_BQ), rows.levels_Q), 0.0)
    result: dict[str, Any] = {"crps_ewma": float(ewma_B.mean()), "climatology_rows": int(usable_B.sum())}
    result["crps_climatology"] = float(climate_B.sum() / usable_B.sum()) if usable_B.any() else None
    for name, base_B, weight_B in (("climatology", climate_B, usable_B), ("ewma", ewma_B, np.ones_like(ewma_B))):
        model_B = loss_B * weight_B
        total = float(base_B.sum())
        result[f"skill_vs_{name}"] = 1.0 - float(model_B.sum()) / total if total > 0 else None
        ci = _ratio_interval(rows, model_B, base_B) if total > 0 else None
        result[f"skill_vs_{name}_ci"] = [1.0 - ci[1], 1.0 - ci[0]] if ci else None
    notes = [f"climatology has fewer than {cfg.min_history_rows} outcomes before the test span of fold {fold}" for fold in short]
    return result, notes


def _climatology(rows: _Rows, history: pl.DataFrame, cfg: ForecastScoresConfig) -> tuple[Float64Array, list[int]]:
    """Quantiles of the outcomes that had ended strictly before each fold's test span; NaN rows where they are too few."""
    fold_B = rows.frame["fold"].to_numpy()
    ts_B = rows.frame["ts_ns"].to_numpy()
    result_BQ = np.full(rows.quantiles_BQ.shape, np.nan)
    short: list[int] = []
    for fold in np.unique(fold_B).tolist():
        start_ns = int(ts_B[fold_B == fold].min())
        past = history.filter(pl.col("label_end_ns") < start_ns)["y"].to_numpy()
        if past.size < cfg.min_history_rows:
            short.append(int(fold))
            continue
        result_BQ[fold_B == fold] = np.quantile(past, rows.levels_Q)
    return result_BQ, short


def _ratio_interval(rows: _Rows, top_B: Float64Array, bottom_B: Float64Array) -> list[float] | None:
    """Interval of sum(top) / sum(bottom) when whole dates are resampled in blocks."""
    if not len(rows.index_RD):
        return None
    top_D = np.bincount(rows.date_B, weights=top_B)
    bottom_D = np.bincount(rows.date_B, weights=bottom_B)
    parts = [rows.index_RD[start : start + _CHUNK] for start in range(0, len(rows.index_RD), _CHUNK)]
    top_R, bottom_R = (np.concatenate([sum_D[part].sum(axis=1) for part in parts]) for sum_D in (top_D, bottom_D))
    with np.errstate(invalid="ignore", divide="ignore"):
        interval = bootstrap.percentile_interval(top_R / bottom_R, rows.confidence)
    return list(interval) if interval else None


def _null(value: float) -> float | None:
    return value if math.isfinite(value) else None
