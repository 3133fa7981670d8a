"""No feature, regime or view value at t changes when anything after t is cut, poisoned or appended.

One world of random panels goes through bars, features, regimes and view; the same is asked of the real dumps. Appending is
cutting read backwards: the longer world with its end cut off is the shorter one, and the two must agree.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plusultra_core import config
from plusultra_core.clock import NS_PER_DAY, NS_PER_HOUR, NS_PER_MIN
from plusultra_core.data.bars import build_bars
from plusultra_core.data.contract.frames import empty
from plusultra_core.data.snapshot import take_snapshot
from plusultra_core.data.tables import DataConfig, build_table, classes_in
from plusultra_core.errors import LookaheadError
from plusultra_core.features import build as features
from plusultra_core.leakage import LeakReport, Stretches, check_poison, check_truncation
from plusultra_core.market import ASSET_CLASSES, MarketConfig
from plusultra_core.regimes import build as regimes
from plusultra_core.regimes import kernels as regimes_kernels
from plusultra_core.regimes import markov
from plusultra_core.views import build as views
from plusultra_core.views import kernels, sources

Frames = dict[str, pl.DataFrame]
Build = Callable[[Frames], pl.DataFrame]
START_NS = 1_451_682_000_000_000_000  # 2016-01-01 21:00 UTC
CLASSES = {
    "equity": (NS_PER_DAY, {"equity": ("AAA", "BBB", "CCC", "DDD"), "etf": ("SPY", "TLT"), "volatility_index": ("^VIX",)}),
    "crypto_perpetual": (NS_PER_HOUR, {"crypto_perpetual": ("BTC-PERP", "ETH-PERP", "SOL-PERP"), "crypto": ("BTC-USD", "ETH-USD")}),
}
BUILT = ("series", "assets", "corporate_actions", "indicators", "side_tables")


@pytest.fixture(scope="module")
def markets(root: Path) -> dict[str, MarketConfig]:
    return {name: config.load(MarketConfig, root / "configs" / "markets" / f"{name}.yaml") for name in ASSET_CLASSES}


@pytest.fixture(scope="module")
def chain(root: Path, markets: dict[str, MarketConfig]) -> Callable[..., Build]:
    """From `<table>@<class>` to one frame: features and regimes of the own class, and its view."""

    def of(own: str, classes: tuple[str, ...], profile: str = "smoke") -> Build:
        folder = root / "configs" / profile
        data_cfg = config.load(DataConfig, folder / "data.yaml")
        features_cfg = config.load(features.FeaturesConfig, folder / "features.yaml")
        regimes_cfg = config.load(regimes.RegimesConfig, folder / "regimes.yaml")
        views_cfg = config.load(views.ViewsConfig, folder / "views.yaml")

        def build(frames: Frames) -> pl.DataFrame:
            bars, known, sides = {}, {}, {}
            for name in classes:
                series, assets, actions, indicators, sides[name] = (frames[f"{table}@{name}"] for table in BUILT)
                bars[name] = build_bars(series, assets, actions, markets[name], data_cfg.bars)
                known[name] = features.build(bars[name], indicators, sides[name], markets[name], features_cfg)
            states = regimes.build(bars[own], known[own], frames[f"assets@{own}"], regimes_cfg)
            view = views.build(own, bars, known, sides, markets[own], views_cfg).frame
            wide = known[own].hstack(states.select(pl.exclude("symbol", "ts_ns", "known_ns")))
            marks = {name: pl.lit("", pl.String).alias(name) for name in ("feature", "source_class")}
            return pl.concat([wide.with_columns(**marks), view], how="diagonal")

        return build

    return of


@st.composite
def worlds(draw: st.DrawFn) -> tuple[str, Frames]:
    """An own class, its context classes on clocks of their own, and side tables: gaps, NULLs, listings, delistings, late rows."""
    return world_of(
        draw(st.sampled_from(sorted(CLASSES))),
        seed=draw(st.integers(0, 10_000)),
        gap_share=draw(st.sampled_from([0.0, 0.05, 0.3])),
        null_share=draw(st.sampled_from([0.0, 0.1])),
        late_ns=draw(st.sampled_from([0, NS_PER_HOUR, 2 * NS_PER_DAY])),
        offset_ns=draw(st.sampled_from([0, 15 * NS_PER_MIN, -5 * NS_PER_HOUR])),
        listed=draw(st.sampled_from([0.0, 0.4])),
        delisted=draw(st.sampled_from([1.0, 0.7])),
    )


def world_of(
    own: str,
    seed: int,
    gap_share: float = 0.0,
    null_share: float = 0.0,
    late_ns: int = 0,
    offset_ns: int = 0,
    listed: float = 0.0,
    delisted: float = 1.0,
) -> tuple[str, Frames]:
    """The world of some numbers: the second symbol of a class is listed late, the first delisted early, odd ones are known late."""
    step_ns, classes = CLASSES[own]
    rng = np.random.default_rng(seed)
    num_times = 110 if own == "equity" else 140
    frames: Frames = {}
    for name, symbols in classes.items():
        parts = []
        for n, symbol in enumerate(symbols):
            # A finer symbol stands among coarser ones: its bars are gathered.
            bar_ns = step_ns if name == own else NS_PER_HOUR if symbol == "ETH-USD" else NS_PER_DAY
            span = num_times * step_ns if n else int(num_times * step_ns * delisted)
            place = np.arange(int(listed * num_times * step_ns) if n == 1 else 0, span, bar_ns) // bar_ns
            place = place[rng.random(place.size) >= gap_share]
            ts_ns = START_NS + place * bar_ns + (0 if name == own else offset_ns)
            parts.append(_series(rng, symbol, ts_ns, late_ns if n % 2 else 0, null_share))
        frames |= {f"series@{name}": pl.concat(parts).sort("symbol", "ts_ns")}
        frames |= _beside(rng, name, symbols, frames[f"series@{name}"], step_ns if name == own else NS_PER_DAY)
    return own, frames


def _series(rng: np.random.Generator, symbol: str, ts_ns: np.ndarray, late_ns: int, null_share: float) -> pl.DataFrame:
    close = 50 * np.exp(np.cumsum(0.02 * rng.standard_normal(ts_ns.size)))
    reach = np.exp(0.01 * np.abs(rng.standard_normal((2, ts_ns.size))))
    keys = {"symbol": pl.Series([symbol] * ts_ns.size, dtype=pl.String), "ts_ns": ts_ns, "known_ns": ts_ns + late_ns}
    rows = pl.DataFrame({**keys, "open": close / reach[0], "high": close * reach[0], "low": close / reach[0] / reach[1], "close": close})
    volume = np.exp(10 + rng.standard_normal(ts_ns.size))
    rows = rows.with_columns(volume=pl.Series(volume), vwap=pl.lit(None, pl.Float64), turnover=pl.lit(None, pl.Float64))
    bare, silent = (pl.Series(rng.random(ts_ns.size) < null_share) for _ in range(2))
    rows = rows.with_columns(pl.when(~bare).then(name).alias(name) for name in ("open", "high", "low"))
    return rows.with_columns(pl.when(~silent).then("volume").alias("volume"))


def _beside(rng: np.random.Generator, name: str, symbols: tuple[str, ...], series: pl.DataFrame, bar_ns: int) -> Frames:
    """Assets, a split and a dividend, two indicators and side tables of a class."""
    num = len(symbols)
    bars = ["1h" if bar_ns == NS_PER_HOUR or symbol == "ETH-USD" else "1d" for symbol in symbols]
    given = {"asset_id": range(num), "symbol": symbols, "sector": ["x", "y"] * num, "asset_class": [name] * num, "bar": bars}
    assets = _like(
        "assets", pl.DataFrame({key: list(values)[:num] for key, values in given.items()}).with_columns(price_adjustment=pl.lit("none"))
    )
    ts_ns = series["ts_ns"].unique().sort()
    when = [int(ts_ns[len(ts_ns) // 3]) + 1, int(ts_ns[len(ts_ns) // 2]) + 1]
    actions = {"symbol": [symbols[0]] * 2, "ts_ns": when, "known_ns": when, "action": ["split", "dividend"], "ratio": [2.0, None]}
    keys = series.select("symbol", "ts_ns", "known_ns")
    wide = keys.select(pl.lit(None, pl.String).alias("symbol"), pl.col("ts_ns").unique().sort()).with_columns(known_ns=pl.col("ts_ns"))

    def drawn(rows: pl.DataFrame, **names: str) -> pl.DataFrame:
        kept = rows.filter(pl.Series(rng.random(rows.height) > 0.2)).with_columns(
            known_ns=pl.col("known_ns") + int(rng.integers(0, 3)) * NS_PER_HOUR
        )
        labels = [pl.lit(text).alias(label) for label, text in names.items()]
        return kept.with_columns(pl.Series("value", 0.01 + 0.1 * np.abs(rng.standard_normal(kept.height))), *labels)

    indicators = pl.concat([drawn(keys, name=label) for label in ("alpha_1", "open_interest")])
    tables = [
        drawn(rows, table=table, field=label)
        for rows, table, label in (
            (keys, "funding_rates", "rate"),
            (keys, "options_implied_vol", "iv_30d"),
            (wide, "options_implied_vol", "^GSPC.iv_30d"),
            (wide, "macro_rates", "UST_3MONTH.value"),
            (wide, "macro_rates", "UST_10YEAR.value"),
            (wide.gather_every(9), "macro_calendar", "CPI.actual"),
        )
    ]
    return {
        f"assets@{name}": assets,
        f"corporate_actions@{name}": _like("corporate_actions", pl.DataFrame(actions).with_columns(amount=pl.Series([None, 0.5]))),
        f"indicators@{name}": _like("indicators", indicators).sort("symbol", "ts_ns", "name"),
        f"side_tables@{name}": _like("side_tables", pl.concat(tables)).sort("table", "symbol", "field", "ts_ns"),
    }


def _like(name: str, frame: pl.DataFrame) -> pl.DataFrame:
    """With the columns of the contract."""
    schema = empty(name).schema
    missing = [pl.lit(None, kind).alias(column) for column, kind in schema.items() if column not in frame.columns]
    return frame.with_columns(missing).select(schema.names()).cast(dict(schema))


@given(world=worlds(), seed=st.integers(0, 1_000))
@settings(
    max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_nothing_of_any_world_knows_its_future(chain: Callable[..., Build], world: tuple[str, Frames], seed: int) -> None:
    own, frames = world
    build = chain(own, tuple(CLASSES[own][1]))
    seen = check_truncation(build, frames, num_cuts=3, seed=seed)
    assert check_poison(build, frames, num_cuts=3, seed=seed).num_rows == seen.num_rows > 500
    assert seen.num_columns > 100 and len(seen.blind) < 20


@pytest.fixture(scope="module")
def plain() -> tuple[str, Frames]:
    """One world without gaps, for leaks that are planted."""
    return world_of("equity", seed=1)


def context_moved_by_one_row(honest: Callable[..., pl.DataFrame]) -> Callable[..., pl.DataFrame]:
    def series(own: sources.ClassBars, known: pl.DataFrame, momentum: str) -> pl.DataFrame:
        found = honest(own, known, momentum)
        return found.with_columns(pl.col("level").shift(-1)) if "SPY" in own.symbols else found

    return series


def row_after_the_newest_known(honest: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    def row(known_ns: np.ndarray, starts: np.ndarray, source_known_ns: np.ndarray) -> np.ndarray:
        return np.minimum(honest(known_ns, starts, source_known_ns) + 1, source_known_ns.size - 1)

    return row


def states_smoothed(honest: Callable[..., tuple[np.ndarray, np.ndarray]]) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """The filter's belief, averaged with that of the bars that follow."""

    def states(*given: object) -> tuple[np.ndarray, np.ndarray]:
        state, prob = honest(*given)
        return state, (prob + np.append(prob[1:], np.nan)) / 2

    return states


def ranks_over_all_rows(honest: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Rank among the symbols of all times, those to come among them."""

    def rank(value: np.ndarray, known_ns: np.ndarray, order: np.ndarray, starts: np.ndarray, min_count: int) -> np.ndarray:
        found = honest(value, known_ns, order, starts, min_count)
        there = np.isfinite(value)
        return np.where(np.isfinite(found), np.argsort(np.argsort(np.where(there, value, np.inf))) / max(1, there.sum()), np.nan)

    return rank


LEAKS = {
    "the context's next bar": (sources, "class_series", context_moved_by_one_row, "value: None .* ctx_etf_"),
    "the row after the newest known": (kernels, "newest_known", row_after_the_newest_known, r"(ctx|sym|side)_.* future"),
    "a smoothed state": (markov, "filtered_states", states_smoothed, "hmm_prob: "),
    "a rank over all rows": (regimes_kernels, "cross_rank", ranks_over_all_rows, "rotation_state: "),
}


@pytest.mark.parametrize("check", [check_truncation, check_poison])
@pytest.mark.parametrize("name", LEAKS)
def test_a_leak_planted_in_a_station_is_found_and_named(
    chain: Callable[..., Build], plain: tuple[str, Frames], check: Callable[..., object], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, frames = plain
    build = chain(own, tuple(CLASSES[own][1]))
    where, function, leak, says = LEAKS[name]
    monkeypatch.setattr(where, function, leak(getattr(where, function)))
    with pytest.raises(LookaheadError, match=says):
        check(build, frames, num_cuts=4, seed=1)


REAL = (("market_tiny", "equity"), ("market_2017_a", "equity"), ("crypto_2026_a", "crypto_perpetual"))
LATER = (("market_2017_b", "equity"), ("crypto_2026_b", "crypto_perpetual"))
NAMED = ("SPY", "^VIX", "^GSPC", "BTC-PERP")


@pytest.fixture
def real_world(
    real_dump: Callable[[str], Path], markets: dict[str, MarketConfig], chain: Callable[..., Build], root: Path, tmp_path: Path
) -> Callable[[str, str], tuple[Build, Frames]]:
    """The chain of a class of a real dump, and its tables."""

    def of(stem: str, own: str) -> tuple[Build, Frames]:
        cfg = config.load(DataConfig, root / "configs" / "base" / "data.yaml")
        snapshot = take_snapshot(real_dump(stem), tmp_path, cfg, markets)
        there = [name for name in (own, *markets[own].context_classes) if name in classes_in(snapshot.path, markets, cfg)]
        frames = {f"{table}@{name}": build_table(table, snapshot.path, name, markets, cfg) for name in there for table in BUILT}
        return chain(own, tuple(there), "smoke" if stem == "market_tiny" else "base"), frames

    return of


@pytest.mark.slow
@pytest.mark.parametrize("check", [check_truncation, check_poison])
@pytest.mark.parametrize(("stem", "own"), REAL)
def test_nothing_of_a_real_dump_knows_its_future_at_fifty_cuts(
    real_world: Callable[[str, str], tuple[Build, Frames]], stem: str, own: str, check: Callable[..., LeakReport]
) -> None:
    build, frames = real_world(stem, own)
    seen = check(build, frames, num_cuts=50, seed=7, max_symbols=8, keep=NAMED)
    assert len(seen.cuts_ns) > 40 or stem == "market_tiny"
    assert seen.num_rows > 1_000 and seen.num_columns > 100


@pytest.mark.slow
@pytest.mark.parametrize(("stem", "own"), LATER)
def test_nothing_of_a_later_real_dump_knows_its_future_at_fifty_cuts(
    real_world: Callable[[str, str], tuple[Build, Frames]], stem: str, own: str
) -> None:
    build, frames = real_world(stem, own)
    stretches = Stretches(num=5, num_past=700, num_future=100)
    seen = check_truncation(build, frames, num_cuts=50, seed=8, max_symbols=8, keep=NAMED, stretches=stretches)
    assert len(seen.cuts_ns) > 40 and seen.num_columns > 100
