"""Judgements as a side table: known from when they were said, whatever trade they are about."""

from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

from plusultra_core.artifacts import sha256_bytes
from plusultra_core.config import load
from plusultra_core.data.contract.frames import FRAMES
from plusultra_core.data.contract.validation import validate
from plusultra_core.errors import ArtifactError
from plusultra_core.feedback.annotations import Annotation, FeedbackConfig, append, open_store
from plusultra_core.feedback.asides import side_rows

DAY_NS = 86_400 * 10**9
START_NS = 1_500_000_000 * 10**9


def say(path: Path, root: Path, *said: tuple[str | None, str, int]) -> Path:
    """(symbol, decision, day on which it is said of the first day's trade)."""
    cfg = load(FeedbackConfig, root / "configs/smoke/feedback.yaml")
    with closing(open_store(path, cfg)) as store:
        for number, (symbol, decision, day) in enumerate(said):
            row = Annotation(
                client_key=f"{number}-{sha256_bytes(str(said).encode())[:8]}",
                trade_id=f"policy:{number}",
                symbol=symbol,
                trade_ns=START_NS,
                decision=decision,  # type: ignore[arg-type]
                rationale="because",
                confidence=0.5 if decision == "flag" else None,
                tags=(),
                author="ana",
                created_ns=START_NS + day * DAY_NS + 1,
                metadata=None,
                context_window_start_ns=None,
                context_window_end_ns=None,
            )
            append(store, row, cfg)
    return path


def test_rows_are_those_of_a_side_table_known_from_when_they_were_said(tmp_path: Path, root: Path) -> None:
    path = say(
        tmp_path / "a.sqlite", root, ("A", "approve", 3), ("A", "reject", 3), ("B", "flag", 4), (None, "reject", 5), ("B", "hold", 9)
    )
    rows = side_rows(path, START_NS + 8 * DAY_NS)
    assert rows.columns == list(FRAMES["side_tables"].columns)
    found = rows.select(
        "symbol", "field", "value", (pl.col("known_ns") - START_NS) // DAY_NS, (pl.col("ts_ns") - START_NS) // DAY_NS
    ).rows()
    assert found == [("A", "verdict", -1.0, 3, 0), ("B", "confidence", 0.5, 4, 0), ("B", "verdict", 0.0, 4, 0)]
    validate("side_tables", rows)


def test_no_store_is_no_row_and_another_file_is_refused(tmp_path: Path) -> None:
    none = side_rows(tmp_path / "none.sqlite", 2**62)
    assert none.is_empty()
    assert none.columns == list(FRAMES["side_tables"].columns)
    (tmp_path / "other").write_text("no database at all, whatever its name says" * 40)
    with pytest.raises(ArtifactError, match="no annotation store"):
        side_rows(tmp_path / "other", 2**62)
