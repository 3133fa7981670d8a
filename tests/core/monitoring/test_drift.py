"""Drift: silent in a world that does not move, loud in one that does, and honest when it cannot tell."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.signal import lfilter
from scipy.stats import false_discovery_control, ks_2samp

from plusultra_core.arrays import Float64Array
from plusultra_core.config import load
from plusultra_core.errors import ContractError
from plusultra_core.monitoring import drift
from plusultra_core.monitoring.drift import Alarm, MonitoringConfig, build_drift, step_alarm

NAMES = tuple(f"feature_{i}" for i in range(10))


@pytest.fixture(scope="module")
def cfg(root: Path) -> MonitoringConfig:
    return replace(load(MonitoringConfig, root / "configs/base/monitoring.yaml"), num_permutations=299)


def ar1(rho: float, num_times: int, rng: np.random.Generator, num_features: int = len(NAMES)) -> Float64Array:
    noise = rng.standard_normal((num_times + 500, num_features))
    return np.asarray(lfilter([np.sqrt(1 - rho**2)], [1, -rho], noise, axis=0)[500:])


def frames(x_TF: Float64Array, num_reference: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    table = pl.DataFrame({"ts_ns": np.arange(len(x_TF)), **{name: x_TF[:, i] for i, name in enumerate(NAMES[: x_TF.shape[1]])}})
    return table[:num_reference], table[num_reference:]


def test_a_persistent_world_that_does_not_move_stays_silent_at_the_declared_rate(cfg: MonitoringConfig) -> None:
    rng = np.random.default_rng(3)
    worlds, false_alarms, p_values = 40, 0, []
    for _ in range(worlds):
        verdict = build_drift(*frames(ar1(0.95, 4000, rng), 3000), NAMES, replace(cfg, min_psi=0.0))
        false_alarms += int((verdict["status"] == "drift").any())
        p_values += verdict["p_value"].drop_nulls().to_list()
    # Under a complete null BH calls anything in a share fdr of worlds; 40 worlds at 0.05: 7 or more has probability 0.3 %.
    assert false_alarms <= 6
    assert len(p_values) > 300
    assert float(np.mean(np.array(p_values) <= 0.05)) < 0.1
    # The folklore level on the same data would have called drift most of the time.


def test_a_shift_of_one_feature_is_found_and_the_others_are_left_alone(cfg: MonitoringConfig) -> None:
    rng = np.random.default_rng(4)
    found, others = 0, 0
    for _ in range(20):
        x = ar1(0.9, 4500, rng)
        x[3000:, 3] += 1.5
        verdict = build_drift(*frames(x, 3000), NAMES, cfg).filter(pl.col("status") == "drift")["feature"].to_list()
        found += "feature_3" in verdict
        others += len(set(verdict) - {"feature_3"})
    assert found >= 18
    assert others <= 5


def test_a_change_of_scale_without_a_change_of_level_is_found(cfg: MonitoringConfig) -> None:
    x = ar1(0.5, 2500, np.random.default_rng(5))
    x[2000:, 0] *= 2.5
    assert build_drift(*frames(x, 2000), NAMES, cfg).filter(feature="feature_0")["status"].item() == "drift"


def test_bins_are_those_of_the_reference_so_that_ten_sigma_is_not_zero() -> None:
    rng = np.random.default_rng(6)
    reference, live = rng.standard_normal(2000), rng.standard_normal(500) + 10
    ref, liv, size = drift.reference_bins(reference, live, 10)
    counts = [np.bincount(code, minlength=size) * 1.0 for code in (ref, liv)]
    assert drift.psi(*counts, 0.5) > 5
    same, _, _ = drift.reference_bins(reference, reference, 10)
    assert np.array_equal(same, ref)
    assert drift.psi(counts[0], counts[0], 0.5) == 0.0


def test_psi_agrees_with_its_sum() -> None:
    p, q = np.array([10.0, 30.0, 60.0]), np.array([25.0, 25.0, 50.0])
    slow = sum((a / 100 - b / 100) * np.log((a / 100) / (b / 100)) for a, b in zip(q, p, strict=True))
    assert drift.psi(p, q, 1e-12) == pytest.approx(slow, abs=1e-9)


def test_ks_agrees_with_scipy_when_the_grid_holds_every_value(cfg: MonitoringConfig) -> None:
    rng = np.random.default_rng(7)
    x = np.round(rng.standard_normal(700), 1)
    verdict = build_drift(*frames(x[:, None], 500), NAMES[:1], replace(cfg, num_ks_points=5000))
    assert verdict["ks"].item() == pytest.approx(ks_2samp(x[:500], x[500:]).statistic, abs=1e-12)


def test_benjamini_hochberg_agrees_with_scipy_and_leaves_out_what_is_missing() -> None:
    p = np.array([0.001, 0.2, 0.03, 0.03, 0.9])
    assert drift.benjamini_hochberg(p) == pytest.approx(false_discovery_control(p))
    with_gap = drift.benjamini_hochberg(np.array([0.001, np.nan, 0.2, 0.03, 0.03, 0.9]))
    assert np.isnan(with_gap[1])
    assert with_gap[[0, 2, 3, 4, 5]] == pytest.approx(false_discovery_control(p))


@pytest.mark.parametrize(("rho", "low", "high"), [(0.0, 0.8, 1.3), (0.5, 2.4, 3.6), (0.9, 14.0, 24.0)])
def test_the_autocorrelation_time_is_that_of_theory(rho: float, low: float, high: float) -> None:
    assert low < drift.autocorrelation_time(ar1(rho, 20_000, np.random.default_rng(8), 1)[:, 0]) < high


def test_too_little_live_data_says_so_instead_of_saying_stable(cfg: MonitoringConfig) -> None:
    verdict = build_drift(*frames(ar1(0.99, 2100, np.random.default_rng(9)), 2000), NAMES, cfg)
    assert set(verdict["status"]) == {"insufficient"}
    assert verdict["p_value"].null_count() == len(NAMES)


def test_a_feature_that_dies_drifts(cfg: MonitoringConfig) -> None:
    x = ar1(0.0, 1500, np.random.default_rng(10))
    x[1000:, 0] = np.nan
    assert build_drift(*frames(x, 1000), NAMES, cfg).filter(feature="feature_0")["status"].item() == "drift"


def test_a_constant_and_a_state_are_judged_by_their_values(cfg: MonitoringConfig) -> None:
    rng = np.random.default_rng(11)
    x = np.column_stack([np.zeros(1500), rng.integers(1, 4, 1500), np.zeros(1500)]).astype(np.float64)
    x[1000:, 2] = 1.0
    status = build_drift(*frames(x, 1000), NAMES[:3], cfg).sort("feature")["status"].to_list()
    assert status == ["stable", "stable", "drift"]


def test_symbols_of_one_time_are_permuted_together(cfg: MonitoringConfig) -> None:
    """Thirty copies of one series are not thirty samples: the p-value must not shrink."""
    x = ar1(0.0, 400, np.random.default_rng(12), 1)
    x[300:] += 0.25
    one = build_drift(*frames(x, 300), NAMES[:1], cfg)["p_value"].item()
    copies = pl.concat([pl.concat(frames(x, 300))] * 30).sort("ts_ns")
    many = build_drift(copies.filter(pl.col("ts_ns") < 300), copies.filter(pl.col("ts_ns") >= 300), NAMES[:1], cfg)["p_value"].item()
    assert many == pytest.approx(one, abs=0.1)


def test_equal_inputs_give_equal_verdicts(cfg: MonitoringConfig) -> None:
    both = frames(ar1(0.5, 800, np.random.default_rng(13)), 600)
    assert build_drift(*both, NAMES, cfg).equals(build_drift(*both, NAMES, cfg))


def test_the_alarm_waits_before_it_rings_and_before_it_stops(cfg: MonitoringConfig) -> None:
    cfg = replace(cfg, raise_after=2, clear_after=3)
    alarm, levels = Alarm("silent", 0), []
    for status in ("drift", "stable", "drift", "insufficient", "drift", "stable", "drift", "stable", "stable", "stable"):
        alarm = step_alarm(alarm, status, cfg)
        levels.append(alarm.level)
    assert levels == ["silent"] * 4 + ["firing"] * 5 + ["silent"]


def test_overlapping_spans_infinities_and_missing_columns_are_refused(cfg: MonitoringConfig) -> None:
    reference, live = frames(ar1(0.0, 300, np.random.default_rng(14)), 200)
    with pytest.raises(ContractError, match="live must begin after the reference ends"):
        build_drift(reference, reference, NAMES, cfg)
    with pytest.raises(ContractError, match=r"drift.live: column 'feature_3' is missing"):
        build_drift(reference, live.drop("feature_3"), NAMES, cfg)
    with pytest.raises(ContractError, match=r"drift.live.feature_1: expected finite values or missing ones"):
        build_drift(reference, live.with_columns(feature_1=pl.lit(float("inf"))), NAMES, cfg)
