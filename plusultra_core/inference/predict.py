"""Bundle + panel -> forecasts. The one way by which backtest, policy and service forecast."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from plusultra_core import artifacts
from plusultra_core.arrays import Float32Array, Float64Array, Int64Array
from plusultra_core.errors import ArtifactError, JobError
from plusultra_core.job import Job, Progress
from plusultra_core.models.bundle import Bundle, forecaster_config, load_bundle, load_forecaster
from plusultra_core.models.forecaster import windows_at_once
from plusultra_core.models.heads import level_digits
from plusultra_core.models.policy import FORECASTER
from plusultra_core.windows.panel import Fold, Panel, anchors_in, load_panel
from plusultra_core.windows.tensors import input_tensors

FILE = "forecasts.parquet"


class Forecasts(NamedTuple):
    """Forecasts of B windows. Shapes  quantiles (B, K, Q), probability (B, K, C), confidence (B, K), h (B, D).

    Quantiles in units of sigma * sqrt(horizon). Confidence is 1 - entropy / log(C) of the calibrated probabilities.
    """

    quantiles_BKQ: Float32Array
    probability_BKC: Float32Array
    confidence_BK: Float32Array
    h_BD: Float32Array


def predict(bundle: Bundle, panel: Panel, n_B: Int64Array, t_B: Int64Array, device: str = "cpu") -> Forecasts:
    """Forecast from the windows that end at (n, t). The same windows give the same bytes; asked for with others, the same to 1e-6.

    Looks   back only: a window of the bundle's lookback.
    Raises  ArtifactError when the panel is not what the bundle was trained on.
    """
    check_fit(bundle, panel)
    model = load_forecaster(bundle, FORECASTER if bundle.kind == "policy" else "").to(device)
    inputs = input_tensors(panel, bundle.scaler.center, bundle.scaler.scale, bundle.scaler.clip, device)
    temperature_K1 = torch.tensor(bundle.temperature, device=device)[:, None]
    n, t = torch.from_numpy(n_B).to(device), torch.from_numpy(t_B).to(device)
    parts: list[tuple[Float32Array, Float32Array, Float32Array]] = []
    batch = windows_at_once(model.cfg, model.shape)
    with torch.inference_mode():
        for first in range(0, max(1, len(n)), batch):
            forecast = model(*inputs.gather(n[first : first + batch], t[first : first + batch]))
            probability_BKC = (forecast.logits_BKC / temperature_K1).softmax(dim=-1)
            parts.append((forecast.quantiles_BKQ.cpu().numpy(), probability_BKC.cpu().numpy(), forecast.h_BD.float().cpu().numpy()))
    quantiles_BKQ, probability_BKC, h_BD = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Forecasts(quantiles_BKQ, probability_BKC, confidence(probability_BKC), h_BD)


def confidence(probability_BKC: Float32Array) -> Float32Array:
    """1 - entropy / log(number of classes): 0 for a uniform forecast, 1 for a certain one. Shapes  (..., C) -> (...)."""
    p = probability_BKC.astype(np.float64)
    entropy = -(p * np.log(np.maximum(p, 1e-300))).sum(axis=-1)
    certain: Float32Array = np.clip(1 - entropy / np.log(p.shape[-1]), 0, 1).astype(np.float32)
    return certain


def check_fit(bundle: Bundle, panel: Panel) -> None:
    """Raises  ArtifactError when features, tokens, horizons or lookback of panel and bundle differ."""
    pairs = {
        "features": (bundle.features, panel.features),
        "tokens": (bundle.tokens, panel.tokens),
        "num_states": (bundle.shape.num_states, panel.num_states),
        "horizons": (bundle.horizons, panel.horizons),
        "lookback": (bundle.shape.lookback, panel.lookback),
    }
    for name, (expected, found) in pairs.items():
        if expected != found:
            raise ArtifactError(f"predict: {name} of the bundle are {expected}, of the panel {found}; use the windows it was trained on")


def latest(bundle: Bundle, panel: Panel, device: str = "cpu") -> tuple[Int64Array, Int64Array, Forecasts]:
    """Forecasts from the newest anchor of every asset that has one: assets (B,), times (B,), forecasts."""
    n_B = np.nonzero(panel.anchor_NT.any(axis=1))[0].astype(np.int64)
    t_B = panel.anchor_NT.shape[1] - 1 - np.argmax(panel.anchor_NT[n_B, ::-1], axis=1).astype(np.int64)
    return n_B, t_B, predict(bundle, panel, n_B, t_B, device)


def run_forecast(job: Job, progress: Progress) -> Mapping[str, object]:
    """Forecast the test span of every fold with every model of a supervised artifact; publishes forecasts.parquet."""
    for name in ("windows", "supervised"):
        if name not in job.inputs:
            raise JobError(f"{job.task}: input {name!r} is missing; name the directory of its artifact")
    panel = load_panel(job.inputs["windows"])
    supervised = artifacts.open_artifact(job.inputs["supervised"])
    columns: list[dict[str, Any]] = []
    metrics: dict[str, float] = {}
    for name in sorted(path.rsplit("/", 1)[0] for path in supervised.manifest["files"] if path.endswith("/bundle.json")):
        bundle = load_bundle(supervised.path / name)
        fold = _fold(panel, name)
        n_B, t_B = anchors_in(panel, fold.test)
        forecasts = predict(bundle, panel, n_B, t_B)
        columns.append(_columns(name.rsplit("/", 1)[1], bundle, panel, fold, n_B, t_B, forecasts))
        scores = _scores(bundle, panel, n_B, t_B, forecasts)
        metrics |= {f"{name.replace('/', '.')}.{key}": value for key, value in scores.items()}
        progress.report(name, rows=float(len(n_B)), **scores)
    lineage = {**job.lineage, **{name: artifacts.open_artifact(path, verify=False).sha256 for name, path in job.inputs.items()}}

    def fill(directory: Path) -> None:
        _write_parquet(directory / FILE, columns)
        artifacts.write_atomic(directory / "metrics.json", artifacts.canonical_json(metrics))

    artifacts.publish(job.store, job.key, fill, {"task": job.task, "lineage": lineage})
    return {"metrics": metrics, "history": []}


def _fold(panel: Panel, name: str) -> Fold:
    index = int(name.split("/", 1)[0].removeprefix("fold_"))
    for fold in panel.folds:
        if fold.index == index:
            return fold
    raise ArtifactError(f"{name}: the panel has no fold {index}; use the windows it was trained on")


def _scores(bundle: Bundle, panel: Panel, n_B: Int64Array, t_B: Int64Array, forecasts: Forecasts) -> dict[str, float]:
    """Pooled IC of the median per horizon, for the log; the judges score from the table."""
    median = forecaster_config(bundle).quantile_levels.index(0.5)
    scores = {}
    for k, horizon in enumerate(panel.horizons):
        y_B: Float64Array = panel.y_NTK[n_B, t_B, k].astype(np.float64)
        q_B: Float64Array = forecasts.quantiles_BKQ[:, k, median].astype(np.float64)
        known = np.isfinite(y_B)
        if known.sum() > 2 and y_B[known].std() > 0 and q_B[known].std() > 0:
            scores[f"ic_h{horizon}"] = float(np.corrcoef(q_B[known], y_B[known])[0, 1])
    return scores


def _columns(
    model: str, bundle: Bundle, panel: Panel, fold: Fold, n_B: Int64Array, t_B: Int64Array, forecasts: Forecasts
) -> dict[str, Any]:
    """Columns of the forecasts table for one bundle; rows by asset, time, horizon."""
    num_horizons = len(panel.horizons)
    n_R, t_R = np.repeat(n_B, num_horizons), np.repeat(t_B, num_horizons)
    k_R = np.tile(np.arange(num_horizons), len(n_B))
    end_R = panel.label_end_NTK[n_R, t_R, k_R]
    direction_R = panel.direction_NTK[n_R, t_R, k_R]
    columns: dict[str, Any] = {
        "symbol": np.array(panel.symbols, dtype=object)[n_R],
        "ts_ns": panel.ts_ns_T[t_R],
        "known_ns": panel.known_ns_NT[n_R, t_R],
        "fold": np.full(len(n_R), fold.index, np.int32),
        "split": np.full(len(n_R), "test", dtype=object),
        "model": np.full(len(n_R), model, dtype=object),
        "horizon": np.array(panel.horizons, np.int32)[k_R],
    }
    for q, level in enumerate(forecaster_config(bundle).quantile_levels):
        columns[quantile_column(level)] = forecasts.quantiles_BKQ[:, :, q].reshape(-1).astype(np.float64)
    for c, name in enumerate(("p_down", "p_flat", "p_up")):
        columns[name] = forecasts.probability_BKC[:, :, c].reshape(-1).astype(np.float64)
    columns |= {
        "confidence": forecasts.confidence_BK.reshape(-1).astype(np.float64),
        "sigma": panel.sigma_NT[n_R, t_R],
        "y": panel.y_NTK[n_R, t_R, k_R].astype(np.float64),
        "ret_log": panel.ret_NTK[n_R, t_R, k_R].astype(np.float64),
        "direction": np.ma.masked_array(direction_R, mask=direction_R < 0),
        "label_end_ns": np.ma.masked_array(panel.ts_ns_T[np.maximum(end_R, 0)], mask=end_R < 0),
    }
    return columns


def quantile_column(level: float) -> str:
    """Column of a quantile level: 0.05 -> q_05, 0.975 -> q_975."""
    return f"q_{level_digits(level)}"


def _write_parquet(path: Path, parts: list[dict[str, Any]]) -> None:
    """One sorted table, no pandas metadata, fixed compression: equal rows, equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = [
        pa.table(
            {
                name: pa.array(values.data, mask=np.ma.getmaskarray(values)) if isinstance(values, np.ma.MaskedArray) else pa.array(values)
                for name, values in part.items()
            }
        )
        for part in parts
    ]
    table = pa.concat_tables(tables).sort_by([(name, "ascending") for name in ("model", "symbol", "ts_ns", "horizon")])
    pq.write_table(table, path, compression="zstd", compression_level=3, version="2.6")
