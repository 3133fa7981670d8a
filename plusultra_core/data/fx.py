"""Exchange rates of a snapshot: what a unit of an asset's currency was worth in that of the account, as known at the time.

The pairs of the snapshot's forex class quote them: directly (EURUSD for euros in dollars), the other way round (USDJPY), or over
one currency between the two (GBPUSD and EURUSD for pounds in euros).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from plusultra_core.arrays import BoolArray, Float64Array, Int64Array
from plusultra_core.clock import NS_PER_HOUR
from plusultra_core.data.contract.frames import empty
from plusultra_core.data.side_tables import as_of
from plusultra_core.market import ExchangeConfig

RATES, RATE_FIELD = "exchange_rates", "rate"
"""Where `side_tables` say what a symbol's money was worth."""
_PAIR = re.compile(r"([A-Z]{3})[/_.-]?([A-Z]{3})(=X)?")
_NEVER = 2**63 - 1
_MINOR = {
    "GBX": ("GBP", 0.01),
    "GBp": ("GBP", 0.01),
    "GBPp": ("GBP", 0.01),
    "ZAc": ("ZAR", 0.01),
    "ZAX": ("ZAR", 0.01),
    "ILA": ("ILS", 0.01),
    "ILa": ("ILS", 0.01),
    "USX": ("USD", 0.01),
    "USc": ("USD", 0.01),
    "EUX": ("EUR", 0.01),
}
"""Parts of a currency in which exchanges quote shares; a lower-case letter is what tells pence from pounds."""


class _Quotes(NamedTuple):
    """Closes of one pair, by when they were known."""

    known_ns: Int64Array
    value: Float64Array


class _Way(NamedTuple):
    """A rate, from when it is known, and until when it may be used."""

    known_ns: Int64Array
    expires_ns: Int64Array
    rate: Float64Array


def major(currency: str) -> tuple[str, float]:
    """The currency that a name stands for, and what one of it is worth in that: GBX is a hundredth of GBP."""
    code = currency.strip()
    return _MINOR.get(code, _MINOR.get(code.upper(), (code.upper(), 1.0)))


def pair_of(symbol: str) -> tuple[str, str] | None:
    """Base and quote currency of a forex symbol (EURUSD, EUR/USD, EURUSD=X); None where it is none."""
    found = _PAIR.fullmatch(symbol.strip().upper())
    return (found[1], found[2]) if found and found[1] != found[2] else None


def quote_currency(symbol: str, asset_class: str, currency: str | None) -> str | None:
    """Currency of an asset's price: a forex pair's is its second one, whatever is stated; else what the dump states."""
    pair = pair_of(symbol) if asset_class == "forex" else None
    return currency if pair is None else pair[1]


def unit_rate(currency: str | None, account: str, cfg: ExchangeConfig) -> float | None:
    """What a unit is worth where no market decides it: the account's own currency, a part of it, one at par; null where one does.

    An asset that does not say its currency is taken to be quoted in the account's.
    """
    if currency is None or not currency.strip():
        return 1.0
    code, part = major(currency)
    return part if code in (account, *cfg.at_par) else None


def build_rates(currencies: Sequence[str | None], forex: pl.DataFrame, account: str, cfg: ExchangeConfig) -> pl.DataFrame:
    """Every rate that the assets of a class need: one row a time at which something of it became known.

    A pair counts for `cfg.max_staleness_hours`; of a direct, an inverse and a crossed rate the first that is fresh counts.
    Currencies that no market decides have no rows, nor have those for which the snapshot has no pairs.

    Shapes  currencies: those of the assets, as they stand there; forex: frame `series` of the forex class.
            Result: frame `exchange_rates`.
    Units   rate: account currency for one unit of `currency` (a minor unit is a part of its major one).
    Looks   back: a row is made of closes known by its known_ns.
    """
    pairs = {pair: rows for symbol, rows in _by_symbol(forex) if (pair := pair_of(symbol)) is not None}
    parts = [empty("exchange_rates")]
    for currency in sorted({name for name in currencies if name is not None and unit_rate(name, account, cfg) is None}):
        code, part = major(currency)
        ways = list(_ways(code, account, pairs, cfg))
        if ways:
            found = _first_fresh(ways)
            known_ns = pl.Series("known_ns", found.known_ns)
            rates = {"expires_ns": pl.Series(found.expires_ns), "rate": pl.Series(found.rate * part)}
            named = pl.Series("currency", [currency], dtype=pl.String).new_from_index(0, len(known_ns))
            parts.append(pl.DataFrame({"currency": named, "ts_ns": known_ns, "known_ns": known_ns, **rates}))
    return pl.concat(parts)  # by currency, and each as it became known


def rates_at(times_ns: pl.Series, currency: str | None, rates: pl.DataFrame, account: str, cfg: ExchangeConfig) -> pl.Series:
    """The rate of one currency known at each time; null where there is none, or where it is too old.

    Looks   back: rates.known_ns <= time.
    """
    fixed = unit_rate(currency, account, cfg)
    if fixed is not None:
        return pl.Series("rate", [fixed], dtype=pl.Float64).new_from_index(0, len(times_ns))
    rows = rates.filter(pl.col("currency") == currency).rename({"rate": "value"})
    return as_of(pl.DataFrame({"known_ns": times_ns}), rows, by_symbol=False)["value"].alias("rate")


def rates_beside(quoted: Mapping[str, str | None], rates: pl.DataFrame, account: str, cfg: ExchangeConfig, since_ns: int) -> pl.DataFrame:
    """The rates of `exchange_rates` as rows of `side_tables`, by symbol: for whoever compares amounts of money across symbols.

    Every symbol has rows, those in the account's own money one that lasts; none where that is all of them. A row without symbol
    says from `since_ns` on, the first bar, that there are several currencies: so a rate that is not known yet is not taken for 1.
    """
    fixed = {symbol: unit_rate(currency, account, cfg) for symbol, currency in quoted.items()}
    if all(rate == 1.0 for rate in fixed.values()):
        return empty("side_tables")
    told = rates.select("ts_ns", "known_ns", "expires_ns", value="rate")
    runs = rates["currency"].rle().struct.unnest()
    spans = dict(zip(runs["value"], zip((runs["len"].cum_sum() - runs["len"]).to_list(), runs["len"].to_list(), strict=True), strict=True))
    lasting = [1.0, *(rate for rate in fixed.values() if rate is not None)]
    since = pl.Series([since_ns], dtype=pl.Int64).new_from_index(0, len(lasting))
    alone = pl.DataFrame({"ts_ns": since, "known_ns": since, "expires_ns": [None] * len(lasting), "value": lasting}, told.schema)
    place = iter(range(1, len(lasting)))
    parts = [alone.head(1)]
    for symbol, currency in quoted.items():
        parts.append(told.slice(*spans.get(currency, (0, 0))) if fixed[symbol] is None else alone.slice(next(place), 1))
    rows = pl.concat(parts)
    names = pl.Series("symbol", [None, *quoted], dtype=pl.String).gather(np.repeat(np.arange(len(parts)), [part.height for part in parts]))
    field = pl.concat([pl.Series("field", ["account"]), pl.Series("field", [RATE_FIELD]).new_from_index(0, rows.height - 1)])
    return pl.DataFrame([pl.Series("table", [RATES]).new_from_index(0, rows.height), names, field, *rows.get_columns()])


def _by_symbol(forex: pl.DataFrame) -> Iterator[tuple[str, _Quotes]]:
    """Closes of each symbol as they became known; one that is known after a newer one says nothing any more."""
    forex = forex if forex["symbol"].is_sorted() else forex.sort("symbol")
    columns = [forex[name].to_numpy() for name in ("known_ns", "ts_ns", "close")]
    runs = forex["symbol"].rle().struct.unnest()
    ends = runs["len"].cum_sum().to_list()
    for symbol, start, end in zip(runs["value"], [0, *ends], ends, strict=False):
        known_ns, ts_ns, value = (column[start:end] for column in columns)
        if (known_ns[1:] <= known_ns[:-1]).any() or (ts_ns[1:] < ts_ns[:-1]).any():
            order = np.lexsort((ts_ns, known_ns))
            known_ns, ts_ns, value = known_ns[order], ts_ns[order], value[order]
            newest = ts_ns >= np.maximum.accumulate(ts_ns)
            known_ns, value = known_ns[newest], value[newest]
            last = np.append(known_ns[1:] != known_ns[:-1], True)
            known_ns, value = known_ns[last], value[last]
        yield str(symbol), _Quotes(known_ns, value)


def _ways(code: str, account: str, pairs: Mapping[tuple[str, str], _Quotes], cfg: ExchangeConfig) -> Iterator[_Way]:
    """Each way to a rate, best first."""
    yield from _legs(code, account, pairs, cfg)
    for between in cfg.via:
        if between in (code, account):
            continue
        for first in _legs(code, between, pairs, cfg):
            for second in _legs(between, account, pairs, cfg):
                yield _cross(first, second)


def _legs(base: str, quote: str, pairs: Mapping[tuple[str, str], _Quotes], cfg: ExchangeConfig) -> Iterator[_Way]:
    usable_ns = int(cfg.max_staleness_hours * NS_PER_HOUR)
    if (base, quote) in pairs:
        known_ns, value = pairs[base, quote]
        yield _Way(known_ns, known_ns + usable_ns, value)
    if (quote, base) in pairs:
        known_ns, value = pairs[quote, base]
        yield _Way(known_ns, known_ns + usable_ns, 1.0 / value)


def _cross(first: _Way, second: _Way) -> _Way:
    """The product of two rates whenever either changes; it lasts as long as the older of them."""
    times = _union([first.known_ns, second.known_ns])
    one, two = (np.searchsorted(leg.known_ns, times, side="right") - 1 for leg in (first, second))
    both = (one >= 0) & (two >= 0)
    times, one, two = times[both], one[both], two[both]
    return _Way(times, np.minimum(first.expires_ns[one], second.expires_ns[two]), first.rate[one] * second.rate[two])


def _first_fresh(ways: Sequence[_Way]) -> _Way:
    """The best way at each time at which one of them changes, or is too old and leaves it to the next."""
    changes = [way.known_ns for way in ways]
    if len(ways) > 1:
        changes += [way.expires_ns[way.expires_ns < np.append(way.known_ns[1:], _NEVER)] + 1 for way in ways]
    times = _union(changes)
    expires_ns, rate = np.zeros(times.size, np.int64), np.full(times.size, np.nan)
    for way in ways:
        place = np.searchsorted(way.known_ns, times, side="right") - 1
        usable = np.isnan(rate) & (place >= 0) & (times <= way.expires_ns[np.maximum(place, 0)])
        expires_ns[usable], rate[usable] = way.expires_ns[place[usable]], way.rate[place[usable]]
    there = ~np.isnan(rate)
    return _Way(times[there], expires_ns[there], rate[there])


def _union(times: Sequence[Int64Array]) -> Int64Array:
    """Times of several rising runs, each once."""
    found: Int64Array = np.sort(np.concatenate(times), kind="stable")  # which finds the runs
    first: BoolArray = np.append(True, found[1:] != found[:-1])
    return found[first]
