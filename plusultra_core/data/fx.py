"""Exchange rates of a snapshot: what a unit of an asset's currency was worth in that of the account, as known at the time.

The pairs of the snapshot's forex class quote them: directly (EURUSD for euros in dollars), the other way round (USDJPY), or over
one currency between the two (GBPUSD and EURUSD for pounds in euros).
"""

import re
from collections.abc import Iterator, Mapping, Sequence

import polars as pl

from plusultra_core.clock import NS_PER_HOUR
from plusultra_core.data.contract.frames import empty, sort
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
            rate = _first_fresh(ways).with_columns(pl.col("rate") * part, currency=pl.lit(currency), ts_ns="known_ns")
            parts.append(rate.select(empty("exchange_rates").columns))
    return sort("exchange_rates", pl.concat(parts))


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
    schema = empty("side_tables").schema
    own = [(RATES, symbol, RATE_FIELD, since_ns, since_ns, None, rate) for symbol, rate in fixed.items() if rate is not None]
    parts = [pl.DataFrame([(RATES, None, "account", since_ns, since_ns, None, 1.0), *own], schema=schema, orient="row")]
    for symbol, currency in quoted.items():
        rows = rates.filter(pl.col("currency") == currency) if fixed[symbol] is None else rates.clear()
        named = {"table": pl.lit(RATES), "symbol": pl.lit(symbol), "field": pl.lit(RATE_FIELD), "value": pl.col("rate")}
        parts.append(rows.with_columns(**named).select(schema.names()))
    return pl.concat(parts)


def _by_symbol(forex: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    for (symbol,), rows in sorted(forex.group_by("symbol", maintain_order=True), key=lambda item: str(item[0][0])):
        yield str(symbol), rows.select("ts_ns", "known_ns", value=pl.col("close"))


def _ways(code: str, account: str, pairs: dict[tuple[str, str], pl.DataFrame], cfg: ExchangeConfig) -> Iterator[pl.DataFrame]:
    """Each way to a rate, best first: known_ns, expires_ns, rate."""
    yield from _legs(code, account, pairs, cfg)
    for between in cfg.via:
        if between in (code, account):
            continue
        for first in _legs(code, between, pairs, cfg):
            for second in _legs(between, account, pairs, cfg):
                yield _cross(first, second)


def _legs(base: str, quote: str, pairs: dict[tuple[str, str], pl.DataFrame], cfg: ExchangeConfig) -> Iterator[pl.DataFrame]:
    usable_ns = int(cfg.max_staleness_hours * NS_PER_HOUR)
    for pair, rate in (((base, quote), pl.col("value")), ((quote, base), 1.0 / pl.col("value"))):
        if pair in pairs:
            newest = pairs[pair].sort("known_ns", "ts_ns").filter(pl.col("ts_ns") >= pl.col("ts_ns").cum_max())
            rows = newest.unique("known_ns", keep="last", maintain_order=True)
            yield rows.select("known_ns", expires_ns=pl.col("known_ns") + usable_ns, rate=rate)


def _cross(first: pl.DataFrame, second: pl.DataFrame) -> pl.DataFrame:
    """The product of two rates whenever either changes; it lasts as long as the older of them."""
    times = _times([first, second])
    one, two = (times.join_asof(leg, on="known_ns", strategy="backward", check_sortedness=False) for leg in (first, second))
    expires_ns = pl.select(pl.min_horizontal(one["expires_ns"], two["expires_ns"])).to_series()
    return times.with_columns(expires_ns=expires_ns, rate=one["rate"] * two["rate"]).drop_nulls("rate")


def _first_fresh(ways: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The best way at each time at which one of them changes, or is too old and leaves it to the next."""
    left = [] if len(ways) == 1 else [way.filter(pl.col("expires_ns") < pl.col("known_ns").shift(-1).fill_null(_NEVER)) for way in ways]
    times = _times([*ways, *(way.select(known_ns=pl.col("expires_ns") + 1) for way in left)])
    found = times.with_columns(expires_ns=pl.lit(None, pl.Int64), rate=pl.lit(None, pl.Float64))
    for way in ways:
        now = times.join_asof(way, on="known_ns", strategy="backward", check_sortedness=False)
        usable = found["rate"].is_null() & (now["known_ns"] <= now["expires_ns"]).fill_null(False)
        better = {name: pl.when(usable).then(now[name]).otherwise(found[name]) for name in ("expires_ns", "rate")}
        found = times.with_columns(**better)
    return found.drop_nulls("rate")


def _times(ways: Sequence[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat([way.select("known_ns") for way in ways]).unique().sort("known_ns")
