"""What a currency was worth in that of the account: direct, inverse, crossed, of a part, and only as known then."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plusultra_core.clock import NS_PER_DAY, NS_PER_HOUR
from plusultra_core.data.contract.validation import validate
from plusultra_core.data.fx import build_rates, major, pair_of, quote_currency, rates_at, unit_rate
from plusultra_core.market import ExchangeConfig

CFG = ExchangeConfig(settlement="cash", cost_bps=2.0, max_staleness_hours=48.0, via=("USD", "EUR"), at_par=("USDT",))
START = 16_000 * NS_PER_DAY


def forex(late_ns: int = 0, **closes: list[float | None]) -> pl.DataFrame:
    """One row a day and pair; None leaves the day out."""
    rows = [
        {"symbol": symbol, "ts_ns": START + day * NS_PER_DAY, "known_ns": START + day * NS_PER_DAY + late_ns, "close": close}
        for symbol, values in closes.items()
        for day, close in enumerate(values)
        if close is not None
    ]
    return pl.DataFrame(rows, schema={"symbol": pl.String, "ts_ns": pl.Int64, "known_ns": pl.Int64, "close": pl.Float64})


def at(days: list[float], currency: str | None, rows: pl.DataFrame, account: str = "USD") -> list[Any]:
    rates = validate("exchange_rates", build_rates([currency], rows, account, CFG))
    times = pl.Series([START + int(day * NS_PER_DAY) for day in days], dtype=pl.Int64)
    return rates_at(times, currency, rates, account, CFG).to_list()


def test_a_pair_is_read_either_way_and_crossed_over_a_third_currency() -> None:
    pairs = forex(EURUSD=[1.25, 1.5], USDJPY=[100.0, 125.0], EURGBP=[0.5, 0.75])
    assert at([0, 1], "EUR", pairs) == [1.25, 1.5]
    assert at([0, 1], "JPY", pairs) == [0.01, 0.008]
    assert at([0, 1], "GBP", pairs) == [2.5, 2.0]
    assert at([0, 1], "JPY", pairs, account="EUR") == [0.008, pytest.approx(1 / 187.5)]


def test_pence_are_a_hundredth_of_pounds_whatever_they_are_called() -> None:
    pairs = forex(GBPUSD=[1.5])
    assert [at([0], name, pairs)[0] for name in ("GBP", "GBX", "GBp", "gbx")] == pytest.approx([1.5, 0.015, 0.015, 0.015])
    assert (major("ZAc"), major("ILA"), major("usd")) == (("ZAR", 0.01), ("ILS", 0.01), ("USD", 1.0))
    assert unit_rate("USX", "USD", CFG) == 0.01 and unit_rate("GBX", "GBP", CFG) == 0.01


def test_no_market_decides_the_accounts_own_currency_or_one_at_par() -> None:
    assert [unit_rate(name, "USD", CFG) for name in ("USD", None, " ", "USDT", "EUR")] == [1.0, 1.0, 1.0, 1.0, None]
    assert build_rates(["USD", None, "USDT"], forex(EURUSD=[1.0]), "USD", CFG).is_empty()
    assert at([3], None, forex()) == [1.0]


def test_a_rate_that_is_too_old_is_none_and_a_fresher_way_stands_in_for_it() -> None:
    alone = forex(EURUSD=[1.25, None, None, None, 1.5])
    assert at([0, 1, 2, 2.1, 3.9, 4], "EUR", alone) == [1.25, 1.25, 1.25, None, None, 1.5]
    beside = forex(GBPUSD=[2.0, None, None, None], EURGBP=[0.5] * 4, EURUSD=[1.25] * 4)
    assert at([0, 2, 3], "GBP", beside) == [2.0, 2.0, 2.5]


def test_a_way_that_grows_too_old_leaves_it_to_one_that_is_not_at_once() -> None:
    rows = forex(GBPUSD=[1.25], EURUSD=[1.5, 1.5], EURGBP=[1.0, 1.0])
    assert at([0, 1, 2, 2.5, 3, 3.5], "GBP", rows) == [1.25, 1.25, 1.25, 1.5, 1.5, None]


def test_a_cross_lasts_as_long_as_the_older_of_its_legs() -> None:
    legs = forex(EURGBP=[0.5, None, None, None], EURUSD=[1.25, 1.5, 1.75, 2.0])
    assert at([0, 1, 2, 2.5, 3], "GBP", legs) == [2.5, 3.0, 3.5, None, None]


def test_a_rate_counts_from_when_it_was_known() -> None:
    late = forex(late_ns=6 * NS_PER_HOUR, EURUSD=[1.25, 1.5])
    assert at([0, 0.25, 1.0, 1.24, 1.25], "EUR", late) == [None, 1.25, 1.25, 1.25, 1.5]


def test_a_currency_without_pairs_has_no_rate() -> None:
    assert at([0, 1], "NOK", forex(EURUSD=[1.25, 1.5])) == [None, None]


def test_the_second_currency_of_a_pair_is_its_price_whatever_is_stated() -> None:
    assert (pair_of("EURUSD"), pair_of("eur/jpy"), pair_of("USDJPY=X"), pair_of("EURO"), pair_of("USDUSD")) == (
        ("EUR", "USD"), ("EUR", "JPY"), ("USD", "JPY"), None, None,
    )  # fmt: skip
    assert quote_currency("EURJPY", "forex", "USD") == "JPY"
    assert quote_currency("EURJPY", "equity", "USD") == "USD" and quote_currency("DAX40", "forex", None) is None


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.integers(1, 28))
def test_no_rate_knows_what_comes(seed: int, cut: int) -> None:
    rng = np.random.default_rng(seed)
    days = {name: [float(x) if x > 0.6 else None for x in rng.uniform(0.3, 2.0, 30)] for name in ("EURUSD", "GBPUSD", "EURGBP", "USDJPY")}
    other = {name: [*values[:cut], *rng.uniform(3.0, 4.0, 30 - cut).tolist()] for name, values in days.items()}
    times = [float(day) for day in np.arange(0, cut - 0.5, 0.5)]
    for currency in ("EUR", "GBP", "JPY", "GBX"):
        assert at(times, currency, forex(**days)) == at(times, currency, forex(**other))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), hours=st.sampled_from([1.0, 5.0, 48.0]), account=st.sampled_from(["USD", "EUR"]))
def test_a_rate_is_the_first_way_that_is_fresh_at_every_hour(seed: int, hours: float, account: str) -> None:
    rng, cfg = np.random.default_rng(seed), replace(CFG, max_staleness_hours=hours)
    names = [name for name in ("EURUSD", "GBPUSD", "EURGBP", "USDJPY", "EURJPY", "USDGBP") if rng.random() < 0.7] or ["GBPUSD"]
    told: dict[tuple[str, str], list[tuple[int, int, float]]] = {}
    for name in names:
        ts_ns = START + NS_PER_HOUR * np.unique(rng.integers(0, 90, rng.integers(1, 30)))
        late_ns = NS_PER_HOUR * rng.integers(0, 5, ts_ns.size)
        told[name[:3], name[3:]] = list(
            zip((ts_ns + late_ns).tolist(), ts_ns.tolist(), rng.uniform(0.5, 2.0, ts_ns.size).tolist(), strict=True)
        )
    rows = [
        {"symbol": base + quote, "ts_ns": ts_ns, "known_ns": known_ns, "close": close}
        for (base, quote), quotes in told.items()
        for known_ns, ts_ns, close in quotes
    ]

    def quoted(base: str, quote: str, now: int) -> list[tuple[int, float] | None]:
        ways: list[tuple[int, float] | None] = []
        for pair, inverse in (((base, quote), False), ((quote, base), True)):
            if pair in told:
                known = [(ts_ns, known_ns, close) for known_ns, ts_ns, close in told[pair] if known_ns <= now]
                _, known_ns, close = max(known, default=(0, 0, 0.0))
                ways.append((known_ns + int(hours * NS_PER_HOUR), 1.0 / close if inverse else close) if known else None)
        return ways

    def rate(code: str, now: int) -> float | None:
        ways = quoted(code, account, now)
        for between in (name for name in cfg.via if name not in (code, account)):
            for one in quoted(code, between, now):
                for two in quoted(between, account, now):
                    ways.append(None if one is None or two is None else (min(one[0], two[0]), one[1] * two[1]))
        return next((way[1] for way in ways if way is not None and now <= way[0]), None)

    found = validate("exchange_rates", build_rates(["GBP", "JPY"], pl.DataFrame(rows), account, cfg))
    times = pl.Series(START + NS_PER_HOUR * np.arange(-1, 160) // 1)
    for currency in ("GBP", "JPY"):
        assert rates_at(times, currency, found, account, cfg).to_list() == [rate(currency, now) for now in times.to_list()]


def test_pounds_in_a_real_dump_are_what_its_pair_says(real_dump: Any, tmp_path: Path, data_cfg: Any, markets: Any) -> None:
    from plusultra_core.data.snapshot import take_snapshot
    from plusultra_core.data.tables import build_table

    taken = take_snapshot(real_dump("market_2017_a"), tmp_path, data_cfg, markets)
    rates = validate("exchange_rates", build_table("exchange_rates", taken.path, "forex", markets, data_cfg))
    assert rates["currency"].unique().to_list() == ["GBP"]
    series = build_table("series", taken.path, "forex", markets, data_cfg).filter(pl.col("symbol") == "GBPUSD")
    assert rates_at(series["known_ns"], "GBP", rates, "USD", markets["forex"].exchange).to_list() == series["close"].to_list()
    assert build_table("exchange_rates", taken.path, "equity", markets, data_cfg).is_empty()
