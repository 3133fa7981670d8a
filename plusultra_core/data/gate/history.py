"""Warnings on the history of each symbol: stale, holes, stuck, jumping or stray prices, units that flip, volume that is missing.

A group of whole symbols is surveyed at a time (`survey`), the surveys are put together (`gather`) and judged (`judge`),
so that a dump of any size goes through in pieces and is told of as one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from plusultra_core.clock import NS_PER_DAY, NS_PER_HOUR, bar_ns, iso
from plusultra_core.data.gate.findings import CODES, Finding, describe, plain
from plusultra_core.data.gate.histories.missing import missing_bars
from plusultra_core.data.gate.histories.splits import SplitsConfig, unrecorded_splits
from plusultra_core.errors import ConfigError
from plusultra_core.market import MarketConfig

_UNITS = (2, 3)  # powers of ten between units in use: cents and pence, thousands and thousandths
_CANDIDATES = 65_536  # volume flips looked at together, so that memory has a bound
_OPTIONAL = ("open", "high", "low", "volume")
Markets = Mapping[str, MarketConfig]


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
    splits: SplitsConfig
    """Jumps that look like splits which corporate_actions does not have."""
    wick_ratio: float
    """A low so many times below, or a high so many times above, its bar's open and close and the closes beside it is a stray print."""
    unit_tolerance_frac: float
    """A close that changes by 100 or 1,000, give or take this part, has changed its unit."""
    unit_volume_bars: int
    """Volume has changed its unit when its median over so many bars before and after does, by 100 or 1,000 within a factor of two."""
    bar_tolerance_frac: float
    """How far the commonest step between bars may lie from the bar stated in the metadata, as a part of it."""
    aligned_frac: float
    """Indicators are misaligned where fewer of their times are times of bars, and fewer of the bars' times are theirs."""

    def __post_init__(self) -> None:
        for name in ("stale_days", "long_gap_days", "long_gap_bars", "constant_bars", "unit_volume_bars"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected >= 1, found {getattr(self, name)}")
        for name in ("jump_ratio", "wick_ratio"):
            if getattr(self, name) <= 1:
                raise ConfigError(f"{name}: expected > 1, found {getattr(self, name)}")
        for name in ("unit_tolerance_frac", "bar_tolerance_frac", "aligned_frac"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected above 0 and below 1, found {getattr(self, name)}")


class Survey(NamedTuple):
    """What is to be told of the histories of some symbols: one row a symbol, and the odd rows by code."""

    symbols: pl.DataFrame
    odd: dict[str, pl.DataFrame]


def check_history(
    bars: pl.DataFrame, actions: pl.DataFrame, assets: pl.DataFrame, markets: Markets, cfg: HistoryConfig, sample_rows: int
) -> list[Finding]:
    """Every warning on the histories of a whole dump, in one go.

    `bars` has symbol, ts_ns, close and, where there are, open, high, low, volume; `actions` has symbol, ts_ns, action, ratio, amount of
    known corporate actions; `assets` has symbol, asset_class, bar and, where there is one, price_adjustment.
    """
    known = bars.join(assets.select("symbol"), on="symbol", how="semi").sort("symbol", "ts_ns", nulls_last=True)
    return judge(survey(known, actions, assets, markets, cfg), assets, cfg, sample_rows)


def survey(bars: pl.DataFrame, actions: pl.DataFrame, assets: pl.DataFrame, markets: Markets, cfg: HistoryConfig) -> Survey:
    """The histories of a group of whole symbols, sorted by symbol and ts_ns; rows without a time or a price are passed over."""
    price = pl.col("close")
    columns = ["symbol", "ts_ns", "close", *(name for name in _OPTIONAL if name in bars.columns)]
    sound = pl.all_horizontal(pl.col("symbol", "ts_ns").is_not_null(), price > 0, price.is_finite())
    starts = pl.col("symbol").ne_missing(pl.col("symbol").shift())
    ordered = bars.select(columns).filter(sound).with_columns(starts=starts)
    previous = pl.when(~pl.col("starts")).then(price.shift())
    ordered = ordered.with_columns(
        step_ns=pl.when(~pl.col("starts")).then(pl.col("ts_ns").diff()),
        change=price / previous,
    )
    runs = ordered.with_row_index("at").filter(price.ne_missing(previous)).select("symbol", "close", "ts_ns", pl.col("at").cast(pl.Int64))
    runs = runs.with_columns(bars=pl.col("at").shift(-1, fill_value=ordered.height) - pl.col("at"))
    stuck = runs.filter(pl.col("bars") >= cfg.constant_bars).select("symbol", "bars", "close", since=_iso(pl.col("ts_ns")))
    jumps = _unexplained(ordered.filter((pl.col("change") >= cfg.jump_ratio) | (pl.col("change") <= 1 / cfg.jump_ratio)), actions)
    steep = ordered.filter((pl.col("change") > 10) | (pl.col("change") < 0.1))  # every change of unit, and little else
    flips = _price_flips(_unexplained(steep.filter(_unit(cfg.unit_tolerance_frac).is_not_null()), actions), cfg)
    symbols = _by_symbol(ordered)
    raw = assets.filter(pl.col("price_adjustment") == "none") if "price_adjustment" in assets.columns else assets
    odd = {
        "missing_bars": missing_bars(ordered, symbols, assets, markets, cfg.bar_tolerance_frac),
        "constant_price": stuck,
        "price_jump": jumps.filter(_unit(cfg.unit_tolerance_frac).is_null()).select("symbol", "close", at=_iso(pl.col("ts_ns"))),
        "unrecorded_split": unrecorded_splits(ordered, actions, frozenset(raw["symbol"]), cfg.splits),
        "stray_print": _stray(ordered, cfg.wick_ratio),
        "unit_flip": pl.concat([flips, _volume_flips(ordered, actions, cfg)]),
        "zero_volume": _silent(ordered),
    }
    return Survey(symbols, {code: found for code, found in odd.items() if not found.is_empty()})


def gather(surveys: Sequence[Survey]) -> Survey:
    """Surveys of several groups as one."""
    odd: dict[str, list[pl.DataFrame]] = {}
    for one in surveys:
        for code, found in one.odd.items():
            odd.setdefault(code, []).append(found)
    symbols = pl.concat([one.symbols for one in surveys]).sort("symbol")
    return Survey(symbols, {code: pl.concat(found).sort("symbol", maintain_order=True) for code, found in odd.items()})


def without(found: Survey, symbols: Sequence[str]) -> Survey:
    """The survey as if some symbols had not been there."""
    left = ~pl.col("symbol").is_in(list(symbols))
    odd = {code: rows.filter(left) for code, rows in found.odd.items()}
    return Survey(found.symbols.filter(left), {code: rows for code, rows in odd.items() if not rows.is_empty()})


def judge(found: Survey, assets: pl.DataFrame, cfg: HistoryConfig, sample_rows: int) -> list[Finding]:
    """The warnings of a survey of all symbols of a dump."""
    symbols, odd = found
    absent = assets.select("symbol").join(symbols.select("symbol"), on="symbol", how="anti").sort("symbol")
    newest = int(symbols["last_ns"].max() or 0)  # type: ignore[arg-type]
    stale = symbols.filter(pl.col("last_ns") < newest - cfg.stale_days * NS_PER_DAY).select("symbol", last=_iso(pl.col("last_ns")))
    gap = pl.col("gap_ns")
    gaps = symbols.filter((gap > cfg.long_gap_days * NS_PER_DAY) & (gap > cfg.long_gap_bars * pl.col("spacing_ns"))).select(
        "symbol", days=(gap / NS_PER_DAY).round(2), until=_iso(pl.col("gap_end_ns"))
    )
    single = symbols.filter(pl.col("num_bars") == 1).select("symbol", at=_iso(pl.col("first_ns")))
    units = " or ".join(f"{10**k}" for k in _UNITS)
    nothing = pl.DataFrame({"symbol": []})
    told = (
        ("no_bars", "timestamp", absent, "bars for every asset"),
        ("stale_feed", "timestamp", stale, f"a last bar within {cfg.stale_days} days of the newest, {iso(newest)}"),
        ("long_gap", "timestamp", gaps, f"no hole above {cfg.long_gap_days} days and {cfg.long_gap_bars} bars"),
        ("missing_bars", "timestamp", odd.get("missing_bars", nothing), "a bar for each session of the calendar of its class"),
        ("single_bar", "timestamp", single, "more than one bar"),
        ("constant_price", "close", odd.get("constant_price", nothing), f"fewer than {cfg.constant_bars} equal closes in a row"),
        ("price_jump", "close", odd.get("price_jump", nothing), f"no {cfg.jump_ratio:g} x change without a corporate action"),
        ("unrecorded_split", "close", odd.get("unrecorded_split", nothing), "a split in corporate_actions where the price jumps like one"),
        ("stray_print", "low, high", odd.get("stray_print", nothing), f"within {cfg.wick_ratio:g} x of an open or close beside it"),
        ("unit_flip", "close", odd.get("unit_flip", nothing), f"one unit all along, found a change by {units}"),
        ("zero_volume", "volume", odd.get("zero_volume", nothing), "volume where the price moved, NULL where it is not known"),
    )
    findings = [_warn(code, "series", column, rows, expected, sample_rows) for code, column, rows, expected in told if not rows.is_empty()]
    return findings + _check_bars(symbols, assets, cfg, sample_rows)


def meetings(indicators: pl.DataFrame, bars: pl.DataFrame) -> pl.DataFrame:
    """How often the indicators of a group of whole symbols meet its bars: symbol, name, num_rows, num_bars, num_met, off_h.

    Only rows between the first and the last bar of their symbol count (`num_rows`; none: the two never meet). `num_bars` are bars
    between the first and the last of those rows, `num_met` times that both have, `off_h` the commonest distance of another row from
    the bar before it, in hours. Symbols without bars are left out.
    """
    times = bars.select("symbol", "ts_ns").drop_nulls().sort("symbol", "ts_ns")
    spans = times.group_by("symbol", maintain_order=True).agg(first_ns=pl.col("ts_ns").first(), last_ns=pl.col("ts_ns").last())
    rows = indicators.select("symbol", "name", "ts_ns").drop_nulls().sort("symbol", "ts_ns")
    rows = rows.join(spans, on="symbol", how="inner", maintain_order="left")
    placed = times.with_columns(bar_ns="ts_ns", place=pl.int_range(pl.len(), dtype=pl.Int64))
    rows = rows.join_asof(placed, on="ts_ns", by="symbol", strategy="backward", check_sortedness=False)
    inside = pl.col("ts_ns").is_between("first_ns", "last_ns")
    met, place = (pl.col("ts_ns") == pl.col("bar_ns")).filter(inside), pl.col("place").filter(inside)
    off_ns = (pl.col("ts_ns") - pl.col("bar_ns")).filter(inside & (pl.col("ts_ns") != pl.col("bar_ns")))
    counted = rows.group_by("symbol", "name").agg(
        num_rows=inside.sum().cast(pl.Int64),
        num_bars=(place.max() - place.min() + met.first().cast(pl.Int64)).fill_null(0),
        num_met=met.sum().cast(pl.Int64),
        off_h=(off_ns.mode().min() / NS_PER_HOUR).round(2),
    )
    return counted.sort("symbol", "name")


def check_indicators(met: pl.DataFrame, cfg: HistoryConfig, sample_rows: int) -> list[Finding]:
    """A warning where indicators rarely stand at times of bars: shifted by hours, or stamped by another calendar."""
    rare = pl.col("num_met") < cfg.aligned_frac * pl.min_horizontal("num_rows", pl.max_horizontal("num_bars", 1))
    found = met.filter(rare | (pl.col("num_rows") == 0)).select("symbol", "name", rows="num_rows", met="num_met", off_h="off_h")
    expected = f"{cfg.aligned_frac:.0%} of the indicator's times, or of the bars' times in its span, to be the other's"
    return [_warn("misaligned_indicators", "indicators", "timestamp", found, expected, sample_rows)] if found.height else []


def _by_symbol(ordered: pl.DataFrame) -> pl.DataFrame:
    step = pl.col("step_ns")
    symbols = ordered.group_by("symbol", maintain_order=True).agg(
        num_bars=pl.len(),
        first_ns=pl.col("ts_ns").first(),
        last_ns=pl.col("ts_ns").last(),
        gap_ns=step.max(),
        gap_end_ns=pl.col("ts_ns").get(step.arg_max(), null_on_oob=True),
        spacing_ns=step.median(),
    )
    steps = ordered.drop_nulls("step_ns").group_by("symbol", "step_ns").agg(num_steps=pl.len())
    commonest = steps.sort("symbol", "num_steps", "step_ns", descending=[False, True, False]).unique("symbol", keep="first")
    return symbols.join(commonest, on="symbol", how="left", maintain_order="left")


def _check_bars(symbols: pl.DataFrame, assets: pl.DataFrame, cfg: HistoryConfig, sample_rows: int) -> list[Finding]:
    """A warning where the metadata states another bar than the series has; a step seen once says nothing."""
    stated = assets.select("symbol", "bar").drop_nulls() if "bar" in assets.columns else pl.DataFrame()
    if stated.is_empty():
        return []
    lengths = stated.with_columns(bar_ns=pl.col("bar").replace_strict({bar: bar_ns(bar) for bar in stated["bar"].unique()}))
    off = (pl.col("step_ns") - pl.col("bar_ns")).abs() > cfg.bar_tolerance_frac * pl.col("bar_ns")
    found = symbols.join(lengths, on="symbol").filter(off & (pl.col("num_steps") > 1))
    found = found.select("symbol", "bar", commonest_h=(pl.col("step_ns") / NS_PER_HOUR).round(4)).sort("symbol")
    expected = "the bar in metadata to be the commonest step of the series"
    return [_warn("bar_mismatch", "assets", "metadata", found, expected, sample_rows)] if found.height else []


def _unit(tolerance_frac: float) -> pl.Expr:
    """Power of ten by which the close changed, where it lies within the tolerance of a change of unit."""
    tens = pl.col("change").log10()
    near = [(tens.abs() - k).abs() <= np.log10(1 + tolerance_frac) for k in _UNITS]
    return pl.when(pl.any_horizontal(near)).then(tens.round().cast(pl.Int64))


def _unexplained(jumps: pl.DataFrame, actions: pl.DataFrame) -> pl.DataFrame:
    """Those without a corporate action since the bar before."""
    if jumps.is_empty() or actions.is_empty():
        return jumps
    dated = jumps.join(actions.select("symbol", action_ns="ts_ns"), on="symbol")
    explained = dated.filter(pl.col("action_ns").is_between(pl.col("ts_ns") - pl.col("step_ns"), pl.col("ts_ns"), closed="right"))
    return jumps.join(explained, on=["symbol", "ts_ns"], how="anti")


def _price_flips(flips: pl.DataFrame, cfg: HistoryConfig) -> pl.DataFrame:
    """Changes of the unit of the prices; a way back belongs to the way there, which says until when."""
    told = flips.with_columns(power=_unit(cfg.unit_tolerance_frac))
    told = told.with_columns(turn=(pl.col("power") + pl.col("power").shift() != 0).over("symbol").fill_null(True).cum_sum())
    told = told.with_columns(place=pl.int_range(pl.len()).over("turn"), until=_iso(pl.col("ts_ns").shift(-1).over("turn")))
    there = told.filter(pl.col("place") % 2 == 0)
    return there.select("symbol", column=pl.lit("close"), at=_iso(pl.col("ts_ns")), factor=_power(pl.col("power")), until="until")


def _volume_flips(ordered: pl.DataFrame, actions: pl.DataFrame, cfg: HistoryConfig) -> pl.DataFrame:
    """Changes of the unit of the volume: a step by ten at least, and medians before and after that lie 100 or 1,000 apart."""
    schema = {"symbol": pl.String, "column": pl.String, "at": pl.String, "factor": pl.String, "until": pl.String}
    if "volume" not in ordered.columns:
        return pl.DataFrame(schema=schema)
    traded = ordered.filter(pl.col("volume") > 0)
    volume, width = traded["volume"].cast(pl.Float64).to_numpy(), cfg.unit_volume_bars
    if len(volume) < 2 * width:
        return pl.DataFrame(schema=schema)
    step = np.abs(np.diff(np.log10(volume), prepend=np.nan))
    place = np.flatnonzero(step >= 1)
    place = place[(place >= width) & (place + width <= len(volume))]
    same = traded["symbol"].gather(place - width).eq(traded["symbol"].gather(place + width - 1)).to_numpy()
    place = place[same]
    windows = np.lib.stride_tricks.sliding_window_view(volume, width)
    tens = np.empty(len(place))
    for start in range(0, len(place), _CANDIDATES):
        at = place[start : start + _CANDIDATES]
        tens[start : start + _CANDIDATES] = np.log10(np.median(windows[at], axis=1) / np.median(windows[at - width], axis=1))
    near = np.min([np.abs(np.abs(tens) - k) for k in _UNITS], axis=0) <= np.log10(2)
    power = pl.Series(np.round(tens[near]).astype(np.int64), dtype=pl.Int64)
    flips = _unexplained(traded[place[near]].with_columns(power=power), actions)
    nothing = pl.lit(None, pl.String)
    return flips.select("symbol", column=pl.lit("volume"), at=_iso(pl.col("ts_ns")), factor=_power(pl.col("power")), until=nothing)


def _stray(ordered: pl.DataFrame, ratio: float) -> pl.DataFrame:
    """Lows far below, and highs far above, the open and close of their bar and the closes beside it; a crash that stays is none."""
    close, nothing = pl.col("close"), pl.lit(None, pl.Float64)
    opened, low, high = (pl.col(name) if name in ordered.columns else nothing for name in ("open", "low", "high"))
    far = ordered.select(((low * ratio < close) | (high > ratio * close)).fill_null(False)).to_series()
    few = ordered.filter(far | far.shift(1, fill_value=False) | far.shift(-1, fill_value=False))  # with the bars beside them
    beside = (opened, close, close.shift().over("symbol"), close.shift(-1).over("symbol"))
    least, most = pl.min_horizontal(beside), pl.max_horizontal(beside)
    told = few.select("symbol", low=low, high=high, least=least, most=most, at=_iso(pl.col("ts_ns")))
    lows = told.filter((pl.col("low") > 0) & (pl.col("low") * ratio < pl.col("least"))).with_columns(column=pl.lit("low"))
    highs = told.filter(pl.col("high") > ratio * pl.col("most")).with_columns(column=pl.lit("high"))
    sides = (
        lows.select("symbol", "column", "at", price="low", nearest="least"),
        highs.select("symbol", "column", "at", price="high", nearest="most"),
    )
    return pl.concat(sides).sort("symbol", "at", maintain_order=True)


def _silent(ordered: pl.DataFrame) -> pl.DataFrame:
    """Bars without volume in which the price moved, of symbols that have volume: the volume is missing, not nought."""
    if "volume" not in ordered.columns:
        return pl.DataFrame()
    ranged = pl.col("high") > pl.col("low") if {"high", "low"} <= set(ordered.columns) else pl.lit(False)
    moved = ranged.fill_null(False) | (pl.col("change") != 1).fill_null(False)
    silent = ordered.filter((pl.col("volume") == 0) & moved)
    if silent.is_empty():
        return silent
    trading = ordered.filter(pl.col("volume") > 0).select("symbol").unique()
    return silent.join(trading, on="symbol", how="semi", maintain_order="left").select("symbol", at=_iso(pl.col("ts_ns")))


def _power(power: pl.Expr) -> pl.Expr:
    said = {sign * k: f"{'x' if sign > 0 else '/'} {10**k}" for k in _UNITS for sign in (1, -1)}
    return power.replace_strict(said, return_dtype=pl.String)


def _iso(time_ns: pl.Expr) -> pl.Expr:
    return pl.from_epoch(time_ns, time_unit="ns").dt.strftime("%Y-%m-%dT%H:%M:%SZ")


def _warn(code: str, table: str, column: str, found: pl.DataFrame, expected: str, sample_rows: int) -> Finding:
    shown = tuple({name: plain(value) for name, value in row.items()} for row in found.head(sample_rows).to_dicts())
    message = describe(f"{table}.{column}", found.height, shown, expected, f"kept as it is; {CODES[code].remedy}")
    return Finding("warning", code, table, column, message, shown, tuple(found["symbol"].unique().sort().to_list()))
