"""How the live door is doing: one summary from the rows of the service's journal."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from plusultra_core.clock import NS_PER_MIN
from plusultra_core.errors import ArtifactError, ConfigError

_REQUESTS = (
    "SELECT request_id, received_ns, status, duration_us, num_symbols FROM requests WHERE received_ns >= ? AND received_ns < ? ORDER BY id"
)
_PREDICTIONS = "SELECT symbol, ts_ns, created_ns, reason FROM predictions WHERE created_ns >= ? AND created_ns < ? ORDER BY id"
_REQUESTS_SCHEMA = {"request_id": pl.String, "received_ns": pl.Int64, "status": pl.Int64, "duration_us": pl.Int64, "num_symbols": pl.Int64}
_PREDICTIONS_SCHEMA = {"symbol": pl.String, "ts_ns": pl.Int64, "created_ns": pl.Int64, "reason": pl.String}


@dataclass(frozen=True, kw_only=True, slots=True)
class HealthConfig:
    """What is healthy."""

    window_min: int
    """Minutes of the journal that a summary covers."""
    min_requests: int
    """With fewer requests no share and no percentile is judged."""
    max_error_frac: float
    """Share of answers 5xx."""
    max_p99_ms: float
    max_staleness_bars: float
    """Age of the newest bar served, in bars; weekends count."""
    max_guarded_frac: float
    """Share of predictions whose target the guardrails changed."""

    def __post_init__(self) -> None:
        for name in ("window_min", "min_requests"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected >= 1, found {getattr(self, name)}")
        for name in ("max_error_frac", "max_guarded_frac"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}: expected in [0, 1], found {getattr(self, name)}")
        for name in ("max_p99_ms", "max_staleness_bars"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name}: expected > 0, found {getattr(self, name)}")


def read_journal(path: Path, now_ns: int, cfg: HealthConfig) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Requests and predictions of the last `window_min` minutes, read without a lock on the writer.

    Raises  ArtifactError when the file is missing or no journal.
    """
    since_ns = now_ns - cfg.window_min * NS_PER_MIN
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            connection.execute("PRAGMA trusted_schema = OFF")
            requests = connection.execute(_REQUESTS, (since_ns, now_ns)).fetchall()
            predictions = connection.execute(_PREDICTIONS, (since_ns, now_ns)).fetchall()
    except sqlite3.Error as error:
        raise ArtifactError(f"{path}: no service journal ({error}); name the file that the service writes") from error
    return (
        pl.DataFrame(requests, schema=_REQUESTS_SCHEMA, orient="row"),
        pl.DataFrame(predictions, schema=_PREDICTIONS_SCHEMA, orient="row"),
    )


def summarise(journal: Path, now_ns: int, bar_ns: int, cfg: HealthConfig) -> dict[str, object]:
    """The summary of a journal's last window; no request and no breach where the service never served.

    Raises  ArtifactError when the file is no journal.
    """
    if not journal.exists():
        return {"num_requests": 0, "num_predictions": 0, "breaches": []}
    requests, predictions = read_journal(journal, now_ns, cfg)
    return build_summary(requests, predictions, now_ns, bar_ns, cfg)


def build_summary(requests: pl.DataFrame, predictions: pl.DataFrame, now_ns: int, bar_ns: int, cfg: HealthConfig) -> dict[str, object]:
    """Numbers of the window and the names of those out of bounds; the same rows and clock give the same summary.

    Units   latency in ms (percentiles are observed values, never interpolated); staleness in bars.
    NaN     None where there is nothing to count.
    """
    latency = requests["duration_us"] / 1000
    answered = len(requests)
    reasons = predictions.group_by("reason").len().sort("reason")
    guarded = predictions.filter(pl.col("reason") != "none").height
    newest_ns = _scalar(predictions["ts_ns"].max())
    summary: dict[str, object] = {
        "num_requests": answered,
        "num_predictions": len(predictions),
        "error_frac": requests.filter(pl.col("status") >= 500).height / answered if answered else None,
        "refused_frac": requests.filter(pl.col("status").is_between(400, 499)).height / answered if answered else None,
        "latency_p50_ms": _scalar(latency.quantile(0.5, "higher")),
        "latency_p90_ms": _scalar(latency.quantile(0.9, "higher")),
        "latency_p99_ms": _scalar(latency.quantile(0.99, "higher")),
        "staleness_bars": None if newest_ns is None else (now_ns - newest_ns) / bar_ns,
        "guarded_frac": guarded / len(predictions) if len(predictions) else None,
        "guardrail_reasons": dict(reasons.iter_rows()),
    }
    return {**summary, "breaches": _breaches(summary, cfg)}


def _breaches(summary: Mapping[str, object], cfg: HealthConfig) -> list[str]:
    limits = {
        "error_frac": cfg.max_error_frac,
        "latency_p99_ms": cfg.max_p99_ms,
        "staleness_bars": cfg.max_staleness_bars,
        "guarded_frac": cfg.max_guarded_frac,
    }
    judged = {name: summary[name] for name in limits if _enough(name, summary, cfg)}
    return sorted(name for name, value in judged.items() if isinstance(value, int | float) and value > limits[name])


def _enough(name: str, summary: Mapping[str, object], cfg: HealthConfig) -> bool:
    count = summary["num_predictions" if name == "guarded_frac" else "num_requests"]
    return name == "staleness_bars" or (isinstance(count, int) and count >= cfg.min_requests)


def _scalar(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
