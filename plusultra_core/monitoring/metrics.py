"""Verdicts as Prometheus text, written in batch: signs kept, label values few and closed."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import polars as pl
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from plusultra_core.errors import ConfigError

T = TypeVar("T")
_Series = dict[tuple[str, ...], float]

OTHER = "_other"

DRIFT_PSI = "plusultra_drift_psi"
DRIFT_KS = "plusultra_drift_ks"
DRIFT_FEATURES = "plusultra_drift_features"
DRIFT_ALARMS = "plusultra_drift_alarms"
OPERATIONS = "plusultra_operations"
BREACHES = "plusultra_operations_breaches"
STRATEGY = "plusultra_strategy_metric"


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricsConfig:
    """How much may be exported."""

    max_label_values: int
    """Values of one label; what is beyond is folded into one series named `_other`."""

    def __post_init__(self) -> None:
        if self.max_label_values < 1:
            raise ConfigError(f"max_label_values: expected >= 1, found {self.max_label_values}")


def render_metrics(
    verdicts: pl.DataFrame,
    num_alarms: int,
    summary: Mapping[str, object],
    strategies: Mapping[str, Mapping[str, float]],
    cfg: MetricsConfig,
) -> bytes:
    """Text exposition of drift verdicts, operations and strategy metrics; equal inputs, equal bytes.

    NaN     a value that is missing, NaN or infinite is left out, never exported as 0.
    """
    registry = CollectorRegistry()
    psi = dict(verdicts.select("feature", "psi").iter_rows())
    ks = dict(verdicts.select("feature", "ks").iter_rows())
    _export(registry, DRIFT_PSI, "Population stability index against the training reference", ("feature",), _fold(psi, max, cfg))
    _export(registry, DRIFT_KS, "Kolmogorov-Smirnov distance from the training reference", ("feature",), _fold(ks, max, cfg))
    counts: _Series = {
        (status,): float(verdicts.filter(pl.col("status") == status).height) for status in ("drift", "insufficient", "stable")
    }
    _export(registry, DRIFT_FEATURES, "Features by verdict", ("status",), counts)
    _export(registry, DRIFT_ALARMS, "Drift alarms firing after hysteresis", (), {(): float(num_alarms)})
    numbers: _Series = {(name,): float(value) for name, value in summary.items() if isinstance(value, int | float)}
    _export(registry, OPERATIONS, "Operations summary of the service journal", ("quantity",), numbers)
    breaches = summary.get("breaches", [])
    _export(registry, BREACHES, "Quantities out of bounds", (), {(): float(len(breaches) if isinstance(breaches, list) else 0)})
    signed: _Series = {(name, metric): float(value) for name, metrics in _kept(strategies, cfg) for metric, value in _kept(metrics, cfg)}
    _export(registry, STRATEGY, "Metric of a strategy after costs, with its sign", ("strategy", "metric"), signed)
    return bytes(generate_latest(registry))


def _fold(values: Mapping[str, float | None], fold: Callable[[list[float]], float], cfg: MetricsConfig) -> dict[tuple[str, ...], float]:
    """The largest values under their own names, the rest folded into one."""
    finite = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
    ranked = sorted(finite, key=lambda name: (-finite[name], name))
    kept: dict[tuple[str, ...], float] = {(name,): finite[name] for name in sorted(ranked[: cfg.max_label_values])}
    rest = [finite[name] for name in ranked[cfg.max_label_values :]]
    return {**kept, (OTHER,): fold(rest)} if rest else kept


def _kept(values: Mapping[str, T], cfg: MetricsConfig) -> list[tuple[str, T]]:
    return sorted(values.items(), key=lambda item: item[0])[: cfg.max_label_values]


def _export(registry: CollectorRegistry, name: str, text: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], float]) -> None:
    gauge = Gauge(name, text, labels, registry=registry)
    for key, value in values.items():
        if math.isfinite(value):
            (gauge.labels(*key) if labels else gauge).set(value)
