"""Forecasts: calibrated, causal, the same whatever process makes them, in one canonical table."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from plusultra_core import config
from plusultra_core.artifacts import Artifact
from plusultra_core.errors import ArtifactError, JobError
from plusultra_core.inference import predict as station
from plusultra_core.inference.predict import confidence, latest, predict, quantile_column, run_forecast
from plusultra_core.job import Job, run_job
from plusultra_core.models.bundle import Bundle, Scaler, save_bundle
from plusultra_core.models.forecaster import ForecasterConfig, InputShape, build_forecaster
from plusultra_core.models.hybrid import HybridConfig
from plusultra_core.models.linear import LinearConfig
from plusultra_core.windows.panel import Panel, anchors_in, publish_panel, replace

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
HYBRID = HybridConfig(
    width=8,
    num_blocks=1,
    num_heads=2,
    feedforward_factor=2,
    patch_bars=4,
    kernel_bars=2,
    dilations=(1,),
    ssm_states=2,
    state_embedding=True,
    dropout=0.3,
)
LINEAR = LinearConfig(width=4, trend_bars=4, lags=3)


def make_bundle(panel: Panel, kind: str, fold: int = 0, seed: int = 0) -> Bundle:
    cfg = ForecasterConfig(
        kind=kind,
        hybrid=HYBRID if kind == "hybrid" else None,
        linear=LINEAR if kind == "linear" else None,
        quantile_levels=LEVELS,
        num_classes=3,
    )
    shape = InputShape(
        num_features=len(panel.features), lookback=panel.lookback, num_states=panel.num_states, num_horizons=len(panel.horizons)
    )
    scaler = panel.folds[fold]
    return Bundle(
        kind="supervised",
        config={"forecaster": config.to_dict(cfg)},
        shape=shape,
        features=panel.features,
        tokens=panel.tokens,
        symbols=panel.symbols,
        horizons=panel.horizons,
        scaler=Scaler(center=tuple(map(float, scaler.center_F)), scale=tuple(map(float, scaler.scale_F)), clip=5.0),
        temperature=(2.0, 1.0),
        lineage={},
        tensors=dict(build_forecaster(cfg, shape, seed).state_dict()),
    )


class Quiet:
    def report(self, message: str, **numbers: float) -> None:
        pass


@pytest.fixture
def forecast(tmp_path: Path) -> Callable[..., Artifact]:
    """Publish untrained bundles for every fold and model, and forecast."""

    def do(panel: Panel, place: str = "a", seed: int = 0) -> Artifact:
        from plusultra_core import artifacts

        base = tmp_path / place
        windows = publish_panel(panel, base, "windows", {}).path

        def fill(directory: Path) -> None:
            for fold in panel.folds:
                for kind in ("hybrid", "linear"):
                    save_bundle(directory / f"fold_{fold.index}" / kind, make_bundle(panel, kind, fold.index, seed))

        supervised = artifacts.publish(base, "supervised", fill, {}).path
        job = Job("forecast", "forecast", {}, {"windows": windows, "supervised": supervised}, base, base / "work", {})
        return run_job(job, {"forecast": run_forecast}, Quiet())

    return do


def test_forecasts_of_another_batch_differ_by_the_last_bits_alone(planted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of a matrix product are taken in another order where a batch has another size: equal bytes need equal batches."""
    panel = planted().panel
    bundle = make_bundle(panel, "hybrid")
    n, t = anchors_in(panel, panel.folds[0].test)
    whole = predict(bundle, panel, n, t)
    monkeypatch.setattr(station, "windows_at_once", lambda cfg, shape: 7)
    parts = predict(bundle, panel, n, t)
    assert all(np.allclose(a, b, rtol=0.0, atol=1e-6) for a, b in zip(whole, parts, strict=True))


def test_forecasts_read_nothing_after_their_bar(planted) -> None:
    panel = planted().panel
    n, t = np.arange(4), np.full(4, 120)
    future = {}
    for name in ("x_NTF", "state_NTS", "tradable_NT", "y_NTK", "close_NT", "sigma_NT"):
        array = getattr(panel, name).copy()
        array[:, 121:] = 0
        future[name] = array
    for kind in ("hybrid", "linear"):
        bundle = make_bundle(panel, kind)
        before, after = predict(bundle, panel, n, t), predict(bundle, replace(panel, **future), n, t)
        assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_quantiles_never_cross_and_probabilities_add_up(planted) -> None:
    panel = planted().panel
    n, t = anchors_in(panel, (0, len(panel.ts_ns_T)))
    forecasts = predict(make_bundle(panel, "hybrid"), panel, n, t)
    assert (np.diff(forecasts.quantiles_BKQ, axis=-1) > 0).all()
    assert np.allclose(forecasts.probability_BKC.sum(axis=-1), 1, atol=1e-5)
    assert ((forecasts.confidence_BK >= 0) & (forecasts.confidence_BK <= 1)).all()


def test_dropout_is_off(planted) -> None:
    panel = planted().panel
    bundle = make_bundle(panel, "hybrid")
    n, t = np.arange(4), np.full(4, 100)
    assert np.array_equal(predict(bundle, panel, n, t).h_BD, predict(bundle, panel, n, t).h_BD)


def test_the_temperature_of_each_horizon_divides_its_scores(planted) -> None:
    panel = planted().panel
    bundle = make_bundle(panel, "hybrid")
    cold = dataclasses.replace(bundle, temperature=(1.0, 1.0))
    n, t = np.arange(4), np.full(4, 100)
    warm, plain = predict(bundle, panel, n, t).probability_BKC, predict(cold, panel, n, t).probability_BKC
    expected = torch.from_numpy(np.log(plain[:, 0]) / 2).softmax(-1).numpy()
    assert np.allclose(warm[:, 0], expected, atol=1e-5)
    assert np.allclose(warm[:, 1], plain[:, 1], atol=1e-6)


def test_confidence_is_zero_for_a_uniform_and_one_for_a_certain_forecast() -> None:
    result = confidence(np.array([[1 / 3, 1 / 3, 1 / 3], [0, 0, 1], [0.2, 0.2, 0.6]], np.float32))
    assert result[:2] == pytest.approx([0, 1], abs=1e-6)
    assert 0 < result[2] < 1


@pytest.mark.parametrize(
    "change", [{"features": ("a",) * 6}, {"tokens": ("x", "y")}, {"horizons": (1, 5)}, {"lookback": 9}, {"num_states": (4, 5)}]
)
def test_a_panel_of_another_shape_is_refused(planted, change: dict[str, Any]) -> None:
    panel = planted().panel
    with pytest.raises(ArtifactError, match=f"predict: {next(iter(change))} of the bundle"):
        predict(make_bundle(panel, "linear"), dataclasses.replace(panel, **change), np.arange(1), np.array([100]))


def test_latest_is_the_newest_anchor_of_every_asset(planted) -> None:
    panel = planted().panel
    anchor = panel.anchor_NT.copy()
    anchor[1, -5:] = False
    anchor[3] = False
    n, t, forecasts = latest(make_bundle(panel, "hybrid"), replace(panel, anchor_NT=anchor))
    last = len(panel.ts_ns_T) - 1
    assert n.tolist() == [0, 1, 2]
    assert t.tolist() == [last, last - 5, last]
    assert forecasts.quantiles_BKQ.shape == (3, 2, 7)


def test_no_windows_give_an_empty_forecast(planted) -> None:
    panel = planted().panel
    empty = np.empty(0, np.int64)
    assert predict(make_bundle(panel, "hybrid"), panel, empty, empty).quantiles_BKQ.shape == (0, 2, 7)


def test_the_table_has_a_row_for_every_test_anchor_model_and_horizon(planted, forecast) -> None:
    panel = planted().panel
    table = pq.read_table(forecast(panel).path / "forecasts.parquet")
    anchors = sum(int(panel.anchor_NT[:, slice(*fold.test)].sum()) for fold in panel.folds)
    assert table.num_rows == anchors * 2 * len(panel.horizons)
    keys = list(zip(*(table[name].to_pylist() for name in ("model", "symbol", "ts_ns", "horizon")), strict=True))
    assert keys == sorted(set(keys))
    assert table.schema.names == [
        "symbol", "ts_ns", "known_ns", "fold", "split", "model", "horizon", *(quantile_column(level) for level in LEVELS),
        "p_down", "p_flat", "p_up", "confidence", "sigma", "y", "ret_log", "direction", "label_end_ns",
    ]  # fmt: skip
    assert not table.schema.metadata
    assert [str(table.schema.field(name).type) for name in ("ts_ns", "fold", "q_05", "direction")] == ["int64", "int32", "double", "int8"]


def test_rows_hold_the_labels_of_the_panel_and_null_where_unknown(planted, forecast) -> None:
    panel = planted().panel
    rows = pq.read_table(forecast(panel).path / "forecasts.parquet").to_pylist()
    index = {int(ts): t for t, ts in enumerate(panel.ts_ns_T)}
    for row in rows[:: max(1, len(rows) // 200)] + rows[-4:]:
        n, t, k = panel.symbols.index(row["symbol"]), index[row["ts_ns"]], panel.horizons.index(row["horizon"])
        fold = panel.folds[row["fold"]]
        assert fold.test[0] <= t < fold.test[1]
        assert row["sigma"] == panel.sigma_NT[n, t]
        assert np.array_equal(row["y"], float(panel.y_NTK[n, t, k]), equal_nan=True)
        end = panel.label_end_NTK[n, t, k]
        assert row["label_end_ns"] == (None if end < 0 else panel.ts_ns_T[end])
        assert row["direction"] == (None if end < 0 else panel.direction_NTK[n, t, k])
    assert any(row["label_end_ns"] is None for row in rows)


def test_the_same_forecast_twice_gives_the_same_bytes_and_other_weights_do_not(planted, forecast) -> None:
    panel = planted().panel
    one, two, other = forecast(panel), forecast(panel, "b"), forecast(panel, "c", seed=1)
    assert one.sha256 == two.sha256
    assert one.manifest["files"] != other.manifest["files"]


def test_shuffled_predictions_move_the_scores(planted, forecast) -> None:
    """Scores come from the forecasts, not from the targets."""
    import json

    panel = planted().panel
    one, other = (json.loads((forecast(panel, place, seed).path / "metrics.json").read_bytes()) for place, seed in (("a", 0), ("b", 1)))
    assert set(one) == set(other)
    assert all(abs(one[name] - other[name]) > 1e-6 for name in one)


def test_a_job_without_its_inputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="input 'windows' is missing"):
        run_forecast(Job("forecast", "k", {}, {}, tmp_path, tmp_path / "w", {}), Quiet())
