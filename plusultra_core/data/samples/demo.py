"""The demo dump: real daily prices that ship inside installed packages, no network needed.

Twenty US stocks and five factor ETFs (closes, adjusted backward for splits and dividends) from skfolio;
S&P 500 and NASDAQ Composite bars, the VIX and WTI crude from arch. The files are read where they are
installed; neither package is imported.
"""

import gzip
import importlib.util
import io
import json
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from plusultra_core.data.samples.dump_writer import NEW_YORK, write_dump
from plusultra_core.errors import ContractError

DEMO_START = "2012-01-01"
DEMO_END = "2018-12-31"

_SECTORS = {
    "AAPL": "Information Technology", "AMD": "Information Technology", "BAC": "Financials", "BBY": "Consumer Discretionary",
    "CVX": "Energy", "GE": "Industrials", "HD": "Consumer Discretionary", "JNJ": "Health Care", "JPM": "Financials",
    "KO": "Consumer Staples", "LLY": "Health Care", "MRK": "Health Care", "MSFT": "Information Technology",
    "PEP": "Consumer Staples", "PFE": "Health Care", "PG": "Consumer Staples", "RRC": "Energy", "UNH": "Health Care",
    "WMT": "Consumer Staples", "XOM": "Energy",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Source:
    """One file of one package: which class it feeds and when its bars close, New York time."""

    package: str
    file: str
    asset_class: str
    symbol: str | None  # None: every column but Date is a symbol
    close_local: str
    adjustment: str
    exchange: str | None
    date_format: str


_SOURCES = (
    _Source("skfolio", "datasets/data/sp500_dataset.csv.gz", "equity", None, "16:00", "split+dividend", None, "%Y-%m-%d"),
    _Source("skfolio", "datasets/data/factors_dataset.csv.gz", "etf", None, "16:00", "split+dividend", None, "%Y-%m-%d"),
    _Source("arch", "data/sp500/sp500.csv.gz", "index", "^GSPC", "16:00", "none", "INDEX", "%m/%d/%Y"),
    _Source("arch", "data/nasdaq/nasdaq.csv.gz", "index", "^IXIC", "16:00", "none", "INDEX", "%m/%d/%Y"),
    _Source("arch", "data/vix/vix.csv.gz", "volatility_index", "^VIX", "16:15", "none", "CBOE", "%m/%d/%Y"),
    _Source("arch", "data/wti/wti.csv.gz", "commodity", "WTI", "16:00", "none", None, "%m/%d/%Y"),
)


def make_demo(path: Path, start: str = DEMO_START, end: str = DEMO_END) -> dict[str, int]:
    """Write the demo dump; the same bytes each time. Returns rows per table.

    Bars are stamped at the New York close in UTC (16:00, the VIX 16:15; daylight saving included); early
    closes are stamped 16:00 too. `options_implied_vol` is the VIX / 100 for ^GSPC, `benchmarks` is ^GSPC.

    Raises  ContractError when a package's file is not there or the span holds no bar.
    """
    first, last = pl.lit(start).str.to_date("%Y-%m-%d"), pl.lit(end).str.to_date("%Y-%m-%d")
    blocks = [_read(source).filter(pl.col("date").is_between(first, last)) for source in _SOURCES]
    series = pl.concat(blocks)
    if series.is_empty():
        raise ContractError(f"demo: no bar between {start} and {end}; the files span 1990 to 2022")
    index = series.filter(pl.col("symbol") == "^GSPC").sort("ts_ns")
    vix = series.filter(pl.col("symbol") == "^VIX")
    return write_dump(
        path,
        {
            "assets": _assets(series),
            "series": series.select("ts_ns", "symbol", "open", "high", "low", "close", "volume"),
            "benchmarks": index.select(
                "ts_ns", "symbol", (pl.col("close") / pl.col("close").shift(1) - 1).alias("return"), pl.col("close").alias("level")
            ),
            "options_implied_vol": vix.select("ts_ns", pl.lit("^GSPC").alias("symbol"), (pl.col("close") / 100).round(6).alias("iv_30d")),
        },
    )


def _read(source: _Source) -> pl.DataFrame:
    """One file as rows date, ts_ns, symbol, open, high, low, close, volume, and the asset's facts."""
    wide = pl.read_csv(io.BytesIO(gzip.decompress(_locate(source).read_bytes())), infer_schema=False)
    wide = wide.with_columns(pl.col("Date").str.to_date(source.date_format))
    numbers = [pl.col(name).cast(pl.Float64, strict=False) for name in wide.columns if name != "Date"]
    wide = wide.select(pl.col("Date").alias("date"), *numbers)
    if source.symbol is None:
        rows = wide.unpivot(index="date", variable_name="symbol", value_name="close")
    elif "Close" in wide.columns:
        rows = wide.rename({name: name.lower() for name in ("Open", "High", "Low", "Close", "Volume")}).drop("Adj Close")
    else:
        rows = wide.rename({wide.columns[1]: "close"})
    hour, minute = (int(part) for part in source.close_local.split(":"))
    close_local = pl.col("date").dt.combine(pl.time(hour, minute)).dt.replace_time_zone(NEW_YORK)
    bars = [pl.col(name) if name in rows.columns else pl.lit(None, pl.Float64).alias(name) for name in ("open", "high", "low", "volume")]
    return (
        rows.with_columns(bars)
        .with_columns(
            symbol=pl.col("symbol") if source.symbol is None else pl.lit(source.symbol),
            ts_ns=close_local.dt.convert_time_zone("UTC").dt.epoch("ns"),
            asset_class=pl.lit(source.asset_class),
            metadata=pl.lit(_metadata(source)),
            exchange=pl.lit(source.exchange, pl.String),
        )
        .filter(pl.col("close") > 0)
        .select("date", "ts_ns", "symbol", "open", "high", "low", "close", "volume", "asset_class", "metadata", "exchange")
    )


def _locate(source: _Source) -> Path:
    spec = importlib.util.find_spec(source.package)
    roots = list(spec.submodule_search_locations or []) if spec is not None else []
    for root in roots:
        if (found := Path(root) / source.file).is_file():
            return found
    raise ContractError(
        f"demo: {source.package}/{source.file} is not installed; install the package {source.package} as pyproject.toml asks"
    )


def _metadata(source: _Source) -> str:
    facts = {
        "asset_class": source.asset_class,
        "bar": "1d",
        "calendar": "24/5" if source.asset_class == "commodity" else "XNYS",
        "close_local": source.close_local,
        "price_adjustment": source.adjustment,
        "source": f"{source.package}: {source.file}",
        "timezone": NEW_YORK,
    }
    return json.dumps(facts, sort_keys=True)


def _assets(series: pl.DataFrame) -> pl.DataFrame:
    facts = series.select("symbol", "metadata", "exchange", "asset_class").unique().sort("symbol")
    return facts.select(
        pl.int_range(1, pl.len() + 1).alias("asset_id"),
        "symbol",
        pl.col("symbol").replace_strict(_SECTORS, default=None, return_dtype=pl.String).alias("sector"),
        pl.lit("USD").alias("currency"),
        "exchange",
        "metadata",
    )
