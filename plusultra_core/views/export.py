"""The view as the table `cross_asset_views` of a dump: timestamp, feature, value, universe, metadata."""

from pathlib import Path

import polars as pl

from plusultra_core.data.samples.dump_writer import write_dump
from plusultra_core.errors import ConfigError

TABLE = "cross_asset_views"


def cross_asset_views(view: pl.DataFrame, universe: str) -> pl.DataFrame:
    """Rows of the table, one a (timestamp, feature), `ts_ns` in place of timestamp as the dump's writer wants it.

    Shapes  ts_ns, feature, value, universe, metadata. A row of one symbol is the feature `<feature>:<symbol>`. Rows
            without a value are left out.
    Units   metadata is JSON: known_at (UTC), staleness_s, source_class, and symbol where there is one.
    """
    symbol = pl.col("symbol")
    known = pl.col("known_ns").cast(pl.Datetime("ns")).dt.strftime("%Y-%m-%dT%H:%M:%S%.fZ")
    age = (pl.col("staleness_ns") / 1e9).round(3)
    facts = [
        _json("known_at", known, text=True),
        _json("staleness_s", age, text=False),
        _json("source_class", pl.col("source_class"), text=True),
    ]
    named = pl.when(symbol.is_not_null()).then(_json("symbol", symbol, text=True))
    rows = view.filter(pl.col("value").is_not_null() & pl.col("value").is_finite()).select(
        "ts_ns",
        pl.when(symbol.is_null()).then("feature").otherwise(pl.concat_str("feature", symbol, separator=":")).alias("feature"),
        "value",
        pl.lit(universe).alias("universe"),
        (pl.lit("{") + pl.concat_str(*facts, named, separator=", ", ignore_nulls=True) + pl.lit("}")).alias("metadata"),
    )
    return rows.sort("ts_ns", "feature")


def write(path: Path, view: pl.DataFrame, universe: str) -> int:
    """Write the table as Parquet or as a SQLite file with that one table, by the name's end. Returns its rows.

    Raises  ConfigError for another ending.
    """
    frame = cross_asset_views(view, universe)
    if path.suffix == ".parquet":
        stamp = pl.col("ts_ns").cast(pl.Datetime("ns")).dt.replace_time_zone("UTC").alias("timestamp")
        frame.select(stamp, pl.exclude("ts_ns")).write_parquet(path, compression="zstd", compression_level=3, row_group_size=131_072)
    elif path.suffix in (".sqlite", ".db"):
        write_dump(path, {TABLE: frame})
    else:
        raise ConfigError(f"{path.name}: expected a name that ends in .parquet, .sqlite or .db; rename it")
    return frame.height


def _json(name: str, value: pl.Expr, text: bool) -> pl.Expr:
    escaped = value.str.replace_all("\\", "\\\\", literal=True).str.replace_all('"', '\\"', literal=True) if text else value
    shown = pl.concat_str(pl.lit('"'), escaped, pl.lit('"')) if text else value.cast(pl.String)
    return pl.concat_str(pl.lit(f'"{name}": '), shown.fill_null("null"))
