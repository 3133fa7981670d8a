"""The operations summary: counts that a person can redo, from the journal that the service really writes."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from plusultra_core.clock import NS_PER_DAY, NS_PER_MIN
from plusultra_core.config import load
from plusultra_core.errors import ArtifactError
from plusultra_core.monitoring.drift import MonitoringConfig
from plusultra_core.monitoring.health import HealthConfig, build_summary, read_journal
from plusultra_core.service.journal import PredictionRow, RequestRow, open_journal, write_predictions, write_request

NOW_NS = 1_000 * NS_PER_DAY


@pytest.fixture(scope="module")
def cfg(root: Path) -> HealthConfig:
    return replace(load(MonitoringConfig, root / "configs/base/monitoring.yaml").health, min_requests=5)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Ten requests of 1-10 ms, one of them 500 and one 401; three predictions; one request of yesterday."""
    path = tmp_path / "journal.sqlite"
    connection = open_journal(path)
    for i in range(10):
        status = {3: 500, 4: 401}.get(i, 200)
        write_request(connection, RequestRow(f"{i:032x}", NOW_NS - (i + 1) * NS_PER_MIN, "desk", status, (i + 1) * 1000, 1))
    write_request(connection, RequestRow("f" * 32, NOW_NS - NS_PER_DAY, "desk", 500, 9_000_000, 1))
    rows = [
        PredictionRow(
            f"{i:032x}", f"{i:032x}", NOW_NS - NS_PER_MIN, "A", NOW_NS - age * NS_PER_DAY, reason, "c" * 64, "d" * 64, "e" * 64, "{}"
        )
        for i, (age, reason) in enumerate([(2, "none"), (3, "max_weight"), (9, "max_weight")])
    ]
    write_predictions(connection, rows)
    connection.close()
    return path


def test_the_summary_counts_the_window_and_nothing_else(journal: Path, cfg: HealthConfig) -> None:
    summary = build_summary(*read_journal(journal, NOW_NS, cfg), NOW_NS, NS_PER_DAY, cfg)
    assert summary == {
        "num_requests": 10,
        "num_predictions": 3,
        "error_frac": 0.1,
        "refused_frac": 0.1,
        "latency_p50_ms": 6.0,
        "latency_p90_ms": 10.0,
        "latency_p99_ms": 10.0,
        "staleness_bars": 2.0,
        "guarded_frac": 2 / 3,
        "guardrail_reasons": {"max_weight": 2, "none": 1},
        "breaches": ["error_frac"],
    }


def test_what_is_out_of_bounds_is_named(journal: Path, cfg: HealthConfig) -> None:
    tight = replace(cfg, max_p99_ms=9.0, max_staleness_bars=1.5, max_guarded_frac=0.1, min_requests=1)
    summary = build_summary(*read_journal(journal, NOW_NS, tight), NOW_NS, NS_PER_DAY, tight)
    assert summary["breaches"] == ["error_frac", "guarded_frac", "latency_p99_ms", "staleness_bars"]


def test_few_requests_are_not_judged_and_stale_bars_are(journal: Path, cfg: HealthConfig) -> None:
    strict = replace(cfg, min_requests=11, max_staleness_bars=1.0)
    summary = build_summary(*read_journal(journal, NOW_NS, strict), NOW_NS, NS_PER_DAY, strict)
    assert summary["breaches"] == ["staleness_bars"]


def test_an_empty_window_gives_nothing_instead_of_zeros(journal: Path, cfg: HealthConfig) -> None:
    late_ns = NOW_NS + 30 * NS_PER_DAY
    requests, predictions = read_journal(journal, late_ns, cfg)
    assert isinstance(requests, pl.DataFrame)
    summary = build_summary(requests, predictions, late_ns, NS_PER_DAY, cfg)
    assert (summary["num_requests"], summary["error_frac"], summary["latency_p99_ms"], summary["staleness_bars"]) == (0, None, None, None)
    assert summary["breaches"] == []


def test_the_journal_is_read_while_it_is_written(journal: Path, cfg: HealthConfig) -> None:
    writer = open_journal(journal)
    writer.execute("BEGIN IMMEDIATE")
    assert len(read_journal(journal, NOW_NS, cfg)[0]) == 10
    writer.execute("ROLLBACK")
    writer.close()


def test_a_missing_file_is_refused_and_not_made(tmp_path: Path, cfg: HealthConfig) -> None:
    with pytest.raises(ArtifactError, match="no service journal"):
        read_journal(tmp_path / "none.sqlite", NOW_NS, cfg)
    assert not (tmp_path / "none.sqlite").exists()
