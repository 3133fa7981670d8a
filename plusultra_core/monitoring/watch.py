"""What the desk compares: the newest bars, and the bars that requests were answered on, each with the training reference."""

import sqlite3
from contextlib import closing
from pathlib import Path

import polars as pl

from plusultra_core.errors import ArtifactError
from plusultra_core.monitoring.drift import MonitoringConfig, build_drift

NEWEST = "newest"
REQUESTS = "requests"
_ANSWERED = "SELECT DISTINCT symbol, ts_ns FROM predictions WHERE ts_ns > ?"


def compare(
    features: pl.DataFrame, names: tuple[str, ...], train: tuple[int, int], newest_ns: int, journal: Path, cfg: MonitoringConfig
) -> dict[str, pl.DataFrame]:
    """Verdicts by source: `newest` from `newest_ns` on, `requests` on the bars that the service answered on since the training span,
    with the reference of the same symbols.

    `train` is the first and the last time of the reference. Without a journal, or an answer on a bar of these features, the second is
    left out.
    Looks   back only: no live row is of the training span.
    Raises  ContractError as `build_drift`; ArtifactError when the journal is none.
    """
    reference = features.filter(pl.col("ts_ns").is_between(*train))
    found = {NEWEST: build_drift(reference, features.filter(pl.col("ts_ns") >= newest_ns), names, cfg)}
    if len(asked := answered_rows(features, journal, train[1])):
        same = reference.filter(pl.col("symbol").is_in(asked["symbol"].unique().implode()))  # who asks for one symbol moves nothing
        found[REQUESTS] = build_drift(same, asked, names, cfg)
    return found


def answered_rows(features: pl.DataFrame, journal: Path, after_ns: int) -> pl.DataFrame:
    """Rows of the features that a prediction was given on, once each, later than `after_ns`.

    Raises  ArtifactError when the file is no journal.
    """
    if not journal.exists():
        return features.clear()
    try:
        with closing(sqlite3.connect(f"{journal.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            connection.execute("PRAGMA trusted_schema = OFF")
            rows = connection.execute(_ANSWERED, (after_ns,)).fetchall()
    except sqlite3.DatabaseError as error:
        raise ArtifactError(f"{journal}: no service journal ({error}); name another file") from error
    asked = pl.DataFrame(rows, schema={"symbol": pl.String, "ts_ns": pl.Int64}, orient="row")
    return features.join(asked, on=["symbol", "ts_ns"], how="semi")
