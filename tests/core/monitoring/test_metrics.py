"""The batch exporter: signs, few labels, nothing invented."""

from pathlib import Path

import polars as pl
import pytest

from plusultra_core.errors import ConfigError
from plusultra_core.monitoring.drift import VERDICT_SCHEMA
from plusultra_core.monitoring.metrics import MetricsConfig, render_metrics


def verdicts(psi: dict[str, float | None]) -> pl.DataFrame:
    rows = [
        {"feature": name, "status": "stable", "psi": value, "ks": value, "p_value": 0.5, "q_value": 0.5}
        | {"num_reference": 10, "num_live": 5, "effective_live": 5.0, "block_bars": 1}
        for name, value in psi.items()
    ]
    return pl.DataFrame(rows, schema=VERDICT_SCHEMA)


def lines(text: bytes, start: str) -> list[str]:
    return [line for line in text.decode().splitlines() if line.startswith(start)]


def test_a_negative_sharpe_stays_negative() -> None:
    text = render_metrics(verdicts({}), 0, {}, {"policy": {"sharpe": -1.196}}, MetricsConfig(max_label_values=8))
    assert lines(text, "plusultra_strategy_metric{") == ['plusultra_strategy_metric{metric="sharpe",strategy="policy"} -1.196']


def test_label_values_are_bounded_and_the_largest_drift_is_never_folded_away() -> None:
    many = {f"feature_{i}": i / 1000 for i in range(500)}
    text = render_metrics(verdicts(many), 0, {}, {}, MetricsConfig(max_label_values=8))
    series = lines(text, "plusultra_drift_psi{")
    assert len(series) == 9
    assert 'plusultra_drift_psi{feature="feature_499"} 0.499' in series
    assert 'plusultra_drift_psi{feature="_other"} 0.491' in series


def test_what_is_missing_is_left_out() -> None:
    text = render_metrics(
        verdicts({"a": float("nan"), "b": 0.2}), 0, {"error_frac": None}, {"s": {"x": float("inf")}}, MetricsConfig(max_label_values=8)
    )
    assert lines(text, "plusultra_drift_psi{") == ['plusultra_drift_psi{feature="b"} 0.2']
    assert lines(text, "plusultra_operations{") == []
    assert lines(text, "plusultra_strategy_metric{") == []


def test_equal_inputs_give_equal_bytes_in_any_order() -> None:
    cfg = MetricsConfig(max_label_values=8)
    one = render_metrics(verdicts({"a": 0.1, "b": 0.2}), 1, {"x": 1.0}, {"p": {"m": 1.0}, "q": {"m": 2.0}}, cfg)
    two = render_metrics(verdicts({"b": 0.2, "a": 0.1}), 1, {"x": 1.0}, {"q": {"m": 2.0}, "p": {"m": 1.0}}, cfg)
    assert one == two


def test_a_bound_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max_label_values: expected >= 1, found 0"):
        MetricsConfig(max_label_values=0)
