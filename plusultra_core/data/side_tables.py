"""Alternative data of any shape as one long frame, and what of it was known at a given moment.

A row keeps its vintages: what was first said of a period and what was said later stand side by side with the
same `ts_ns` and another `known_ns`. Which of them counts is decided by the join, never by the table.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from plusultra_core.clock import NS_PER_HOUR
from plusultra_core.data.contract.frames import empty
from plusultra_core.data.gate.schema import TableShape
from plusultra_core.errors import ConfigError

SERIES = ("table", "symbol", "field")
"""What makes one series of a side table; its rows differ in `ts_ns` (periods) and `known_ns` (vintages)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SideTableConfig:
    """One table of alternative data, whatever its shape."""

    table: str
    time_column: str
    """What the row describes; with `lag_s` also when it was known."""
    known_at_column: str
    """When the row was known; where the dump has no such column, its time plus `lag_s`."""
    lag_s: int
    max_staleness_hours: float | None
    """A value is used for so long after it was known and no longer; null: until a newer one is known."""
    symbol_column: str | None
    """null: the table is about the market as a whole."""
    key_columns: tuple[str, ...]
    """Columns whose values prefix the field, `<key>.<key>.<value column>`."""
    value_columns: tuple[str, ...]
    """Columns that are read; none named: every other column that is declared as a number."""
    market_wide: bool
    """Rows with a symbol also go to every class, without symbol and as field `<symbol>.<field>`; symbols outside assets are allowed."""

    def __post_init__(self) -> None:
        if self.lag_s < 0:
            raise ConfigError(f"{self.table}.lag_s: expected >= 0, found {self.lag_s}")
        if self.max_staleness_hours is not None and self.max_staleness_hours <= 0:
            raise ConfigError(f"{self.table}.max_staleness_hours: expected > 0 or null, found {self.max_staleness_hours}")
        if self.market_wide and self.symbol_column is None:
            raise ConfigError(f"{self.table}.market_wide: expected a symbol_column, found null; without one every row is market-wide")
        named = [name for name in (self.time_column, self.symbol_column, *self.key_columns, *self.value_columns) if name is not None]
        if len(set(named)) < len(named):
            raise ConfigError(f"{self.table}: expected each column in one role, found {named}")

    def shape(self) -> TableShape:
        """What the gate expects of the table."""
        keys = tuple(column for column in (self.time_column, self.symbol_column, *self.key_columns) if column is not None)
        return TableShape(
            table=self.table,
            required=keys,
            optional=(*self.value_columns, self.known_at_column),
            any_number=not self.value_columns,
            null_symbol_allowed=True,
            time=self.time_column,
            known_at=self.known_at_column,
            known_ahead="warning",
            symbol=self.symbol_column,
            keys=(*keys, self.known_at_column),
            finite=self.value_columns,
            orphans_allowed=self.market_wide,
        )


def lengthen(frame: pl.DataFrame, values: Sequence[str], symbols: Sequence[str] | None, cfg: SideTableConfig) -> pl.DataFrame:
    """Rows of one side table as the long frame `side_tables`: one row for each value that is there.

    `symbols` are those whose own rows stay, none named: all.

    Shapes  frame: the table's own columns (those of `cfg` and `values`) with ts_ns and known_ns.
    Looks   at each row by itself: no vintage is dropped, none is preferred.
    NaN     a null value gives no row.
    """
    symbol = pl.col(cfg.symbol_column).cast(pl.String) if cfg.symbol_column else pl.lit(None, pl.String)
    prefix = [pl.col(column).cast(pl.String) for column in cfg.key_columns]
    usable_ns = None if cfg.max_staleness_hours is None else int(cfg.max_staleness_hours * NS_PER_HOUR)
    columns = {"table": pl.lit(cfg.table), "symbol": symbol, "ts_ns": pl.col("ts_ns"), "known_ns": pl.col("known_ns")}
    columns["expires_ns"] = pl.lit(None, pl.Int64) if usable_ns is None else pl.col("known_ns") + usable_ns
    fields = [
        frame.lazy().select(**columns, field=pl.concat_str(*prefix, pl.lit(name), separator="."), value=pl.col(name).cast(pl.Float64))
        for name in values
    ]
    if not fields:
        return empty("side_tables")
    long = pl.concat(fields).drop_nulls("value").select(empty("side_tables").columns)
    own = long if symbols is None else long.filter(pl.col("symbol").is_null() | pl.col("symbol").is_in(list(symbols)))
    if not cfg.market_wide:
        return own.collect()
    wide = long.filter(pl.col("symbol").is_not_null())
    return pl.concat([own, wide.with_columns(field=pl.format("{}.{}", "symbol", "field"), symbol=pl.lit(None, pl.String))]).collect()


def as_of(keys: pl.DataFrame, rows: pl.DataFrame, by_symbol: bool, max_staleness_ns: int | None = None) -> pl.DataFrame:
    """The value that counted at each key: of the rows known by then the newest period, and of that its newest vintage.

    So a revision of the newest period replaces it from the moment it is known, and a revision of an older
    period, however late, never displaces a newer period. A value is too old once its own `known_ns` lies more
    than `max_staleness_ns` back, or past `expires_ns` where rows have one; an older row never stands in for it.

    Shapes  keys: known_ns, and symbol with `by_symbol`; rows: one series (or one a symbol) with ts_ns, known_ns, value.
            Result: the rows of keys in their order: value, source_ts_ns, source_known_ns, staleness_ns.
    Looks   back: rows.known_ns <= keys.known_ns.
    NaN     null where nothing is known yet; where it is too old value is null and the rest says what it was.
    """
    by = ["symbol"] if by_symbol else []
    newest = pl.col("ts_ns").cum_max()
    expires = pl.col("expires_ns") if "expires_ns" in rows.columns else pl.lit(None, pl.Int64).alias("expires_ns")
    right = (
        rows.drop_nulls("value")
        .sort(*by, "known_ns", "ts_ns")
        .filter(pl.col("ts_ns") >= (newest.over(by) if by else newest))
        .unique([*by, "known_ns"], keep="last", maintain_order=True)
        .select(*by, "known_ns", "value", expires, source_ts_ns="ts_ns", source_known_ns="known_ns")
    )
    left = keys.select(*by, "known_ns")
    if not _rises(left):
        left = left.with_row_index("_row").sort(*by, "known_ns")
    joined = left.join_asof(right, on="known_ns", by=by or None, strategy="backward", check_sortedness=False)
    joined = joined.sort("_row") if "_row" in joined.columns else joined
    staleness = pl.col("known_ns") - pl.col("source_known_ns")
    fresh = pl.col("expires_ns").is_null() | (pl.col("known_ns") <= pl.col("expires_ns"))
    if max_staleness_ns is not None:
        fresh &= staleness <= max_staleness_ns
    return joined.select(pl.when(fresh).then("value"), "source_ts_ns", "source_known_ns", staleness_ns=staleness)


def _rises(keys: pl.DataFrame) -> bool:
    """Whether rows lie sorted by symbol (where there is one) and known_ns, as bars do."""
    steps = keys["known_ns"].diff()
    if "symbol" not in keys.columns:
        return not (steps < 0).any()
    symbol = keys["symbol"]
    return symbol.is_sorted() and not ((steps < 0) & (symbol == symbol.shift())).any()


def value_at(keys: pl.DataFrame, side: pl.DataFrame, table: str, field: str, max_staleness_ns: int | None = None) -> pl.Series:
    """One field of a side table at each key: the symbol's own value, else the one of the market as a whole.

    Looks   back, as `as_of`.
    """
    rows = side.filter((pl.col("table") == table) & (pl.col("field") == field))
    own = as_of(keys, rows.filter(pl.col("symbol").is_not_null()), True, max_staleness_ns)["value"]
    wide = as_of(keys, rows.filter(pl.col("symbol").is_null()), False, max_staleness_ns)["value"]
    return pl.select(pl.coalesce(own, wide).alias(field)).to_series()


def vintage(side: pl.DataFrame, as_of_ns: int | None) -> pl.DataFrame:
    """Side tables as they stood at a moment: of each period the newest row known by then; null: the newest of all.

    Looks   at rows with known_ns <= as_of_ns.
    """
    known = side if as_of_ns is None else side.filter(pl.col("known_ns") <= as_of_ns)
    return known.filter(pl.col("known_ns") == pl.col("known_ns").max().over(*SERIES, "ts_ns"))
