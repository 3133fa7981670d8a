"""What is compared: the newest bars, and the bars that requests were answered on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from plusultra_core.config import load
from plusultra_core.errors import ArtifactError
from plusultra_core.monitoring.drift import MonitoringConfig
from plusultra_core.monitoring.watch import answered_rows, compare
from plusultra_core.service.journal import PredictionRow, open_journal, write_predictions

NUM = 400


@pytest.fixture(scope="module")
def cfg(root: Path) -> MonitoringConfig:
    return replace(load(MonitoringConfig, root / "configs/base/monitoring.yaml"), num_permutations=199)


@pytest.fixture
def features() -> pl.DataFrame:
    """Two symbols whose feature `x` moves from bar 300 on for B alone; `y` never does."""
    rng = np.random.default_rng(5)
    frames = []
    for symbol, shift in (("A", 0.0), ("B", 4.0)):
        x = rng.standard_normal(NUM)
        x[300:] += shift
        frames.append(pl.DataFrame({"symbol": [symbol] * NUM, "ts_ns": np.arange(NUM), "x": x, "y": rng.standard_normal(NUM)}))
    return pl.concat(frames)


def ask(path: Path, asked: list[tuple[str, int]]) -> Path:
    journal = open_journal(path)
    rows = [
        PredictionRow(f"{i:032x}", f"{i:032x}", 10**6, symbol, ts_ns, "none", "c" * 64, "d" * 64, "e" * 64, "{}")
        for i, (symbol, ts_ns) in enumerate(asked)
    ]
    write_predictions(journal, rows)
    journal.close()
    return path


def test_without_a_journal_the_newest_bars_alone_are_compared(features: pl.DataFrame, tmp_path: Path, cfg: MonitoringConfig) -> None:
    assert list(compare(features, ("x", "y"), (0, 299), 300, tmp_path / "none.sqlite", cfg)) == ["newest"]


def test_a_bar_counts_once_however_often_it_is_asked_for_and_never_from_the_training_span(features: pl.DataFrame, tmp_path: Path) -> None:
    asked = [("A", 310), ("A", 310), ("A", 299), ("B", 311), ("C", 312), ("B", 9_999)]
    rows = answered_rows(features, ask(tmp_path / "journal.sqlite", asked), 299)
    assert sorted(rows.select("symbol", "ts_ns").rows()) == [("A", 310), ("B", 311)]


def test_drift_on_requests_is_that_of_what_was_asked_for(features: pl.DataFrame, tmp_path: Path, cfg: MonitoringConfig) -> None:
    """Only A is asked for: B moves, and the requests do not."""
    journal = ask(tmp_path / "journal.sqlite", [("A", t) for t in range(300, NUM)])
    reference = features.filter(pl.col("symbol") == "A")
    found = compare(features, ("x", "y"), (0, 299), 300, journal, cfg)
    assert dict(found["newest"].select("feature", "status").iter_rows()) == {"x": "drift", "y": "stable"}
    assert dict(found["requests"].select("feature", "status").iter_rows()) == {"x": "stable", "y": "stable"}
    assert found["requests"]["num_live"].unique().to_list() == [NUM - 300]
    assert len(reference) == NUM


def test_who_asks_for_one_symbol_alone_moves_nothing(features: pl.DataFrame, tmp_path: Path, cfg: MonitoringConfig) -> None:
    """Symbols differ from each other and none of them moves: asking for one of them is no drift of the world."""
    apart = features.with_columns(z=pl.col("y") + pl.when(pl.col("symbol") == "B").then(6.0).otherwise(0.0))
    journal = ask(tmp_path / "journal.sqlite", [("B", t) for t in range(300, NUM)])
    found = compare(apart, ("z",), (0, 299), 300, journal, cfg)
    assert found["requests"]["status"].to_list() == ["stable"]
    assert found["requests"]["num_reference"].to_list() == [300]


def test_a_handful_of_requests_is_no_verdict(features: pl.DataFrame, tmp_path: Path, cfg: MonitoringConfig) -> None:
    found = compare(features, ("x",), (0, 299), 300, ask(tmp_path / "journal.sqlite", [("B", 301), ("B", 302)]), cfg)
    assert found["requests"]["status"].to_list() == ["insufficient"]


def test_a_file_that_is_no_journal_is_refused(features: pl.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").write_text("no database, but long enough to be looked at" * 40)
    with pytest.raises(ArtifactError, match="no service journal"):
        answered_rows(features, tmp_path / "journal.sqlite", 0)
