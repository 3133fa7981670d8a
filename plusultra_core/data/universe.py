"""Which symbols there were: listing lifetimes, and who was alive on a given day, as it was known then.

A universe that is drawn from the symbols alive today has been told the future: those that died are missing
from it. So the question is always asked as of a moment, and only what was known by then answers it.
"""

from dataclasses import dataclass

import polars as pl

from plusultra_core.clock import NS_PER_DAY
from plusultra_core.data.calendars import sessions
from plusultra_core.data.gate.timestamps import parse_times
from plusultra_core.errors import ConfigError
from plusultra_core.market import MarketConfig

_COLUMNS = ("symbol", "asset_class", "listed_ns", "last_ns", "delisted", "delisted_ns", "delisting_ret_simple", "reason")


@dataclass(frozen=True, kw_only=True, slots=True)
class UniverseConfig:
    """When silence means that a symbol is gone."""

    silent_sessions: int
    """A symbol without a bar for so many sessions of its calendar, up to the newest bar of its class, counts as delisted."""

    def __post_init__(self) -> None:
        if self.silent_sessions < 1:
            raise ConfigError(f"universe.silent_sessions: expected >= 1, found {self.silent_sessions}")


def lifetimes(series: pl.DataFrame, assets: pl.DataFrame, market: MarketConfig, cfg: UniverseConfig, as_of_ns: int | None) -> pl.DataFrame:
    """When each symbol of a class was listed and whether it is gone, as far as was known at `as_of_ns` (null: at the newest row).

    An asset's metadata may say `listed`, `delisted` (times) and `delisting_return` (simple, of the last close); what it
    says of a later day is not known yet. Else a symbol is listed at its first bar, and gone when it has no bar for
    `silent_sessions` sessions of the calendar (days, where it never closes) before the newest bar of the class.

    Shapes  series or bars: symbol, ts_ns, known_ns; assets: symbol, asset_class, metadata. Result, one row an asset, by
            symbol: listed_ns, last_ns (its last bar), delisted (null: nothing is known of it yet), delisted_ns (null while alive),
            delisting_ret_simple, reason (metadata, silent, trading, not yet listed, no bars).
    Looks   at rows with known_ns <= as_of_ns; silence is counted at that moment, so a verdict may change later, and one
            that was right then stays what it was.
    """
    known = series if as_of_ns is None else series.filter(pl.col("known_ns") <= as_of_ns)
    now_ns = as_of_ns if as_of_ns is not None else known["known_ns"].max()
    seen = known.group_by("symbol").agg(first_ns=pl.col("ts_ns").min(), last_ns=pl.col("ts_ns").max())
    facts = _stated(assets).join(seen, on="symbol", how="left", maintain_order="left")
    facts = facts.with_columns(silent=_silent_sessions(facts["last_ns"], market))
    past = {name: pl.when(pl.col(name) <= pl.lit(now_ns)).then(pl.col(name)) for name in ("stated_listed_ns", "stated_delisted_ns")}
    facts = facts.with_columns(**past, unborn=(pl.col("stated_listed_ns") > pl.lit(now_ns)).fill_null(False))
    gone = pl.col("silent") >= cfg.silent_sessions
    stated = pl.col("stated_delisted_ns").is_not_null()
    reason = (
        pl.when(stated)
        .then(pl.lit("metadata"))
        .when(pl.col("unborn"))
        .then(pl.lit("not yet listed"))
        .when(pl.col("last_ns").is_null())
        .then(pl.lit("no bars"))
        .when(gone)
        .then(pl.lit("silent"))
        .otherwise(pl.lit("trading"))
    )
    facts = facts.with_columns(reason=reason, listed_ns=pl.coalesce("stated_listed_ns", "first_ns"))
    dead = pl.col("reason").is_in(["metadata", "silent"])
    return facts.with_columns(
        delisted=pl.when(pl.col("reason").is_in(["no bars", "not yet listed"])).then(None).otherwise(dead),
        delisted_ns=pl.when(stated).then("stated_delisted_ns").when(dead).then("last_ns"),
        delisting_ret_simple=pl.when(stated).then("delisting_ret_simple"),
    ).select(_COLUMNS)


def universe(series: pl.DataFrame, assets: pl.DataFrame, market: MarketConfig, cfg: UniverseConfig, as_of_ns: int) -> list[str]:
    """Symbols of a class that were listed and not gone, as known at a moment: one that dies later is in, one listed later is not.

    Looks   as `lifetimes`: at rows with known_ns <= as_of_ns.
    """
    alive = (pl.col("listed_ns") <= as_of_ns) & ~pl.col("delisted")
    return lifetimes(series, assets, market, cfg, as_of_ns).filter(alive)["symbol"].to_list()


def currencies(assets: pl.DataFrame, market: MarketConfig) -> pl.DataFrame:
    """Currency of each symbol's price, and whether it is that of the account: symbol, currency (null: unsaid), foreign (null: unsaid).

    Prices and notionals of bars are in the symbol's own currency; `data/fx.py` says what that was worth.
    """
    return assets.sort("symbol").select("symbol", "currency", foreign=pl.col("currency") != market.currency)


def _stated(assets: pl.DataFrame) -> pl.DataFrame:
    """What the metadata says of a symbol's life; what cannot be read is unsaid."""
    text = {name: pl.col("metadata").str.json_path_match(f"$.{name}") for name in ("listed", "delisted", "delisting_return")}
    found = assets.sort("symbol").select("symbol", "asset_class", **text)
    found = found.with_columns(
        stated_listed_ns=_times(found["listed"], 0),  # a date without a time: the day begins, or ends, with it
        stated_delisted_ns=_times(found["delisted"], NS_PER_DAY),
        delisting_ret_simple=pl.col("delisting_return").cast(pl.Float64, strict=False),
    )
    return found.drop(list(text))


def _times(text: pl.Series, day_ns: int) -> pl.Series:
    date = text.str.contains(r"^\d{4}-\d\d-\d\d$").fill_null(False)
    days = text.str.to_date("%Y-%m-%d", strict=False).cast(pl.Int64)
    whole = parse_times(pl.select(pl.when(~date).then(text)).to_series()).ts_ns.cast(pl.Int64)
    return pl.select(pl.when(date).then(days * NS_PER_DAY + day_ns).otherwise(whole)).to_series()


def _silent_sessions(last_ns: pl.Series, market: MarketConfig) -> pl.Series:
    """Sessions that closed after each symbol's last bar, up to the newest bar of the class."""
    if last_ns.null_count() == len(last_ns):
        return pl.Series("silent", [None] * len(last_ns), dtype=pl.Int64)
    newest_ns = int(last_ns.max())  # type: ignore[arg-type]
    closes = sessions(market.calendar, int(last_ns.min()), newest_ns)["close_ns"]  # type: ignore[arg-type]
    closes = closes.filter(closes <= newest_ns)
    after = len(closes) - closes.search_sorted(last_ns.fill_null(newest_ns), side="right").cast(pl.Int64)
    return pl.select(pl.when(last_ns.is_not_null()).then(after).alias("silent")).to_series()
