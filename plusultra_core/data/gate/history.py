"""Warnings on the history of each symbol: stale, holes, stuck or jumping prices, one bar or none."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from plusultra_core.clock import NS_PER_DAY, bar_ns, iso
from plusultra_core.data.gate.findings import Finding, describe, plain
from plusultra_core.errors import ConfigError
from plusultra_core.market import MarketConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryConfig:
    """When the history of a symbol is worth a warning."""

    stale_days: int
    """A symbol that ends so long before the newest bar of the dump is stale."""
    long_gap_days: int
    """A hole between bars counts as long beyond this and beyond `long_gap_bars`."""
    long_gap_bars: int
    """Length of a long hole in the symbol's own bars."""
    constant_bars: int
    """So many equal closes in a row are suspicious."""
    jump_ratio: float
    """Change of the close from bar to bar that wants a corporate action."""

    def __post_init__(self) -> None:
        for name in ("stale_days", "long_gap_days", "long_gap_bars", "constant_bars"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected >= 1, found {getattr(self, name)}")
        if self.jump_ratio <= 1:
            raise ConfigError(f"jump_ratio: expected > 1, found {self.jump_ratio}")


def check_frequency(assets: pl.DataFrame, markets: Mapping[str, MarketConfig]) -> list[Finding]:
    """A warning for each class with symbols whose bars are coarser than the class's grid: they are left out of bars."""
    findings = []
    for (asset_class,), members in assets.sort("symbol").group_by("asset_class", maintain_order=True):
        market = markets.get(str(asset_class))
        if market is None:
            continue
        coarse = tuple(s for s, bar in members.select("symbol", "bar").iter_rows() if bar is not None and bar_ns(bar) > bar_ns(market.bar))
        if coarse:
            message = (
                f"assets.bar: {', '.join(coarse)} have bars coarser than {market.bar}, the grid of {asset_class}; they are left out of bars"
            )
            findings.append(Finding("warning", "coarse_bars", "assets", "metadata", message, (), coarse))
    return findings


def check_history(bars: pl.DataFrame, actions: pl.DataFrame, assets: pl.DataFrame, cfg: HistoryConfig, sample_rows: int) -> list[Finding]:
    """Warnings on the history of each symbol: stale, holes, stuck or jumping prices, one bar or none.

    `bars` has symbol, ts_ns, close; `actions` has symbol, ts_ns of known corporate actions.
    """
    absent = assets.select("symbol").join(bars.select("symbol"), on="symbol", how="anti").sort("symbol")
    known = bars.join(assets.select("symbol"), on="symbol", how="semi")
    told = [("no_bars", absent, "bars for every asset"), *_history(known, actions, cfg)]
    return [finding for code, found, expected in told for finding in _warn(found, code, expected, sample_rows)]


def _history(bars: pl.DataFrame, actions: pl.DataFrame, cfg: HistoryConfig) -> list[tuple[str, pl.DataFrame, str]]:
    ordered = bars.select("symbol", "ts_ns", "close").drop_nulls().sort("symbol", "ts_ns")
    if ordered.is_empty():
        return []
    previous = pl.col("close").shift().over("symbol")
    ordered = ordered.with_columns(
        step_ns=pl.col("ts_ns").diff().over("symbol"),
        change=pl.max_horizontal(pl.col("close") / previous, previous / pl.col("close")),
        run=(pl.col("close") != previous).fill_null(True).cum_sum(),
    )
    symbols = ordered.group_by("symbol", maintain_order=True).agg(
        rows=pl.len(),
        first_ns=pl.col("ts_ns").min(),
        last_ns=pl.col("ts_ns").max(),
        gap_ns=pl.col("step_ns").max(),
        spacing_ns=pl.col("step_ns").median(),
    )
    runs = ordered.group_by("symbol", "run", maintain_order=True).agg(
        bars=pl.len(), close=pl.col("close").first(), ts_ns=pl.col("ts_ns").first()
    )
    stuck = runs.filter(pl.col("bars") >= cfg.constant_bars)
    newest = int(symbols["last_ns"].max())  # type: ignore[arg-type]
    stale = symbols.filter(pl.col("last_ns") < newest - cfg.stale_days * NS_PER_DAY)
    long_gap = (pl.col("gap_ns") > cfg.long_gap_days * NS_PER_DAY) & (pl.col("gap_ns") > cfg.long_gap_bars * pl.col("spacing_ns"))
    gaps = symbols.filter(long_gap).select("symbol", days=(pl.col("gap_ns") / NS_PER_DAY).round(2))
    jumps = ordered.filter(pl.col("change") >= cfg.jump_ratio)
    if jumps.height and actions.height:
        dated = jumps.join(actions.select("symbol", action_ns="ts_ns"), on="symbol")
        explained = dated.filter(pl.col("action_ns").is_between(pl.col("ts_ns") - pl.col("step_ns"), pl.col("ts_ns"), closed="right"))
        jumps = jumps.join(explained, on=["symbol", "ts_ns"], how="anti")
    return [
        (
            "stale_feed",
            stale.select("symbol", last=_iso("last_ns")),
            f"a last bar within {cfg.stale_days} days of the newest, {iso(newest)}",
        ),
        ("long_gap", gaps, f"no hole above {cfg.long_gap_days} days and {cfg.long_gap_bars} bars"),
        (
            "constant_price",
            stuck.select("symbol", "bars", "close", since=_iso("ts_ns")),
            f"fewer than {cfg.constant_bars} equal closes in a row",
        ),
        ("single_bar", symbols.filter(pl.col("rows") == 1).select("symbol", at=_iso("first_ns")), "more than one bar"),
        ("price_jump", jumps.select("symbol", "close", at=_iso("ts_ns")), f"no {cfg.jump_ratio:g} x change without a corporate action"),
    ]


def _iso(column: str) -> pl.Expr:
    return pl.from_epoch(column, time_unit="ns").dt.strftime("%Y-%m-%dT%H:%M:%SZ")


def _warn(found: pl.DataFrame, code: str, expected: str, sample_rows: int) -> list[Finding]:
    if found.is_empty():
        return []
    shown = tuple({name: plain(value) for name, value in row.items()} for row in found.head(sample_rows).to_dicts())
    message = describe("series.close" if "price" in code else "series.timestamp", found.height, shown, expected, "kept as it is")
    symbols = tuple(found["symbol"].unique().sort().to_list())
    return [Finding("warning", code, "series", "close" if "price" in code else "timestamp", message, shown, symbols)]
