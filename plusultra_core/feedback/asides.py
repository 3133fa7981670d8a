"""What analysts said as a side table: known from when it was said, joined to bars as any other table beside them."""

import sqlite3
from contextlib import closing
from pathlib import Path

import polars as pl

from plusultra_core.errors import ArtifactError

TABLE = "analysts"
"""Name by which `alternative.extra` of features.yaml means it; its fields are `verdict` and `confidence`."""
_READ = """
SELECT symbol, trade_ns, decision, confidence, created_ns FROM trade_annotations
WHERE symbol IS NOT NULL AND created_ns <= ? ORDER BY annotation_id
"""
_VERDICTS = {"approve": 1.0, "flag": 0.0, "hold": 0.0, "reject": -1.0, "escalate": -1.0}
_SCHEMA = {"symbol": pl.String, "ts_ns": pl.Int64, "decision": pl.String, "confidence": pl.Float64, "known_ns": pl.Int64}


def side_rows(path: Path, as_of_ns: int) -> pl.DataFrame:
    """Annotations of the store at `path` that name a symbol, in the columns of `side_tables`; none where there is no store.

    `verdict` is 1 for an approve, -1 for a veto (reject, escalate), 0 for a flag or a hold; `confidence` where it was said. Of several
    that were said of one symbol at one instant the last one stands.
    Looks   a row describes its trade (`ts_ns`) and is known from when it was written down (`known_ns`), whatever trade it is about.
    Raises  ArtifactError when the file is no store.
    """
    rows = _read(path, as_of_ns) if path.exists() else []
    said = pl.DataFrame(rows, schema=_SCHEMA, orient="row").unique(["symbol", "known_ns"], keep="last", maintain_order=True)
    said = said.with_columns(verdict=pl.col("decision").replace_strict(_VERDICTS, return_dtype=pl.Float64))
    long = said.unpivot(["verdict", "confidence"], index=["symbol", "ts_ns", "known_ns"], variable_name="field").drop_nulls("value")
    long = long.with_columns(table=pl.lit(TABLE), expires_ns=pl.lit(None, pl.Int64))
    return long.select("table", "symbol", "field", "ts_ns", "known_ns", "expires_ns", "value").sort("symbol", "known_ns", "field")


def _read(path: Path, as_of_ns: int) -> list[tuple[object, ...]]:
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            connection.execute("PRAGMA trusted_schema = OFF")
            return connection.execute(_READ, (as_of_ns,)).fetchall()
    except sqlite3.DatabaseError as error:
        raise ArtifactError(f"{path}: no annotation store ({error}); name another file") from error
