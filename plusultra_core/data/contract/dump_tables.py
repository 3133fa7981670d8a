"""What the tables of a dump mean: every column with its type, unit and sense, and a question one would ask of each table."""

from collections.abc import Mapping
from dataclasses import dataclass, field

_TIME = ("DATETIME", "UTC", "what the row describes: the close of its bar, or the moment of the event")
_KNOWN = ("DATETIME", "UTC", "when the row could be known; without it, its time plus the lag of data.yaml")
_SYMBOL = ("TEXT", "", "instrument; any printable text up to 128 characters, as in `assets`")
_METADATA = ("JSON", "", "anything else, a JSON object; not read")

Meaning = tuple[str, str, str]
"""SQL type, unit, sense."""


@dataclass(frozen=True, slots=True)
class DumpTable:
    """One table of the input contract."""

    what: str
    columns: Mapping[str, Meaning]
    query: str
    """A question in SQL that a person asks of such a table."""
    notes: tuple[str, ...] = field(default=())


DUMP: Mapping[str, DumpTable] = {
    "assets": DumpTable(
        "What is traded, one row an instrument. Required.",
        {
            "asset_id": ("INTEGER", "", "number of the asset; where the column is missing, assets are numbered by symbol"),
            "symbol": ("TEXT", "", "name of the instrument, unique; any printable text up to 128 characters"),
            "sector": ("TEXT", "", "industry; taken as it is now, so it is not point in time"),
            "currency": ("TEXT", "ISO 4217", "currency of the prices"),
            "exchange": ("TEXT", "", "where it is listed; rules in configs/markets may take the class from it"),
            "asset_class": (
                "TEXT",
                "",
                "equity, etf, index, forex, crypto, crypto_perpetual, commodity, volatility_index or other, where metadata says none",
            ),
            "metadata": (
                "JSON",
                "",
                "an object; read are `asset_class`, `bar` (1m .. 1w), `price_adjustment` (none, split, split+dividend), "
                "`listed`, `delisted` (times) and `delisting_return` (simple)",
            ),
        },
        "SELECT json_extract(metadata, '$.asset_class') AS asset_class, count(*) AS assets FROM assets GROUP BY 1 ORDER BY 1",
        ("A class that is stated nowhere falls to the rules of configs/markets, else to `other`, with a warning.",),
    ),
    "series": DumpTable(
        "Bars: prices and volumes. Required.",
        {
            "timestamp": _TIME,
            "symbol": _SYMBOL,
            "open": ("REAL", "quote currency", "first price of the bar"),
            "high": ("REAL", "quote currency", "highest price of the bar, not below `low`"),
            "low": ("REAL", "quote currency", "lowest price of the bar"),
            "close": ("REAL", "quote currency", "last price of the bar; the only price that must be there"),
            "volume": ("REAL", "units of the instrument", "traded in the bar; NULL where it is not known, never 0 for unknown"),
            "vwap": ("REAL", "quote currency", "volume-weighted average price of the bar"),
            "turnover": ("REAL", "quote currency", "value traded in the bar"),
            "known_at": _KNOWN,
        },
        "SELECT symbol, count(*) AS bars, min(timestamp) AS first, max(timestamp) AS last FROM series GROUP BY symbol ORDER BY symbol",
        ("A symbol may have closes only. Engineered columns beside these are left alone, with one warning that lists them.",),
    ),
    "indicators": DumpTable(
        "Named values beside the bars, in long form: spreads, chain statistics, anything of one symbol.",
        {
            "timestamp": _TIME,
            "symbol": _SYMBOL,
            "name": ("TEXT", "", "name of the indicator"),
            "value": ("REAL", "the indicator's own", "its value"),
            "metadata": _METADATA,
            "known_at": _KNOWN,
        },
        "SELECT symbol, name, count(*) AS rows, avg(value) AS mean FROM indicators GROUP BY symbol, name ORDER BY symbol, name LIMIT 20",
    ),
    "regimes": DumpTable(
        "Labels of whoever wrote the dump. Kept in the snapshot; regimes are fitted anew, causally.",
        {
            "timestamp": _TIME,
            "symbol": _SYMBOL,
            "name": ("TEXT", "", "name of the regime"),
            "value": ("TEXT", "", "its label"),
        },
        "SELECT name, value, count(*) AS rows FROM regimes GROUP BY name, value ORDER BY name, value",
    ),
    "benchmarks": DumpTable(
        "What a strategy may be compared with; the symbol need not be an asset.",
        {
            "timestamp": _TIME,
            "symbol": _SYMBOL,
            "return": ("REAL", "fraction", "simple return since the benchmark's previous row"),
            "level": ("REAL", "index points or currency", "its level"),
            "known_at": _KNOWN,
        },
        "SELECT symbol, count(*) AS rows, min(level) AS least, max(level) AS most FROM benchmarks GROUP BY symbol ORDER BY symbol",
    ),
    "cross_asset_views": DumpTable(
        "Views of whoever wrote the dump, in long form. Kept in the snapshot; views are built anew, and can be exported in this shape.",
        {
            "timestamp": _TIME,
            "feature": ("TEXT", "", "name of the feature"),
            "value": ("REAL", "the feature's own", "its value"),
            "universe": ("TEXT", "", "what it was computed over"),
            "metadata": _METADATA,
        },
        "SELECT feature, count(*) AS rows FROM cross_asset_views GROUP BY feature ORDER BY feature",
    ),
    "trades": DumpTable(
        "Trades that were made.",
        {
            "trade_id": ("INTEGER", "", "number of the trade"),
            "timestamp": _TIME,
            "symbol": _SYMBOL,
            "side": ("TEXT", "", "long, short or flat: the position that the trade took"),
            "size": ("REAL", "units of the instrument", "traded, never negative"),
            "price": ("REAL", "quote currency", "at which it was filled"),
            "fees": ("REAL", "quote currency", "paid"),
            "slippage_bp": ("REAL", "basis points", "fill against the price decided on"),
            "pnl": ("REAL", "quote currency", "what it made"),
            "metadata": _METADATA,
        },
        "SELECT symbol, side, count(*) AS trades, sum(pnl) AS pnl FROM trades GROUP BY symbol, side ORDER BY symbol, side",
    ),
    "trade_annotations": DumpTable(
        "What analysts said of trades. Kept in the snapshot; the desk's own annotations live in its store.",
        {
            "annotation_id": ("INTEGER", "", "number of the annotation"),
            "trade_id": ("INTEGER", "", "the trade that it is about"),
            "symbol": _SYMBOL,
            "trade_timestamp": ("DATETIME", "UTC", "time of that trade"),
            "decision": ("TEXT", "", "approve, reject, flag, hold or escalate"),
            "rationale": ("TEXT", "", "why"),
            "confidence": ("REAL", "fraction", "from 0 to 1"),
            "tags": ("TEXT", "", "words, separated by commas"),
            "author": ("TEXT", "", "who"),
            "created_at": ("DATETIME", "UTC", "when it was written"),
            "metadata": _METADATA,
            "context_window_start": ("DATETIME", "UTC", "first moment that the analyst looked at"),
            "context_window_end": ("DATETIME", "UTC", "last moment that the analyst looked at"),
        },
        "SELECT decision, count(*) AS annotations FROM trade_annotations GROUP BY decision ORDER BY decision",
    ),
    "corporate_actions": DumpTable(
        "Splits and dividends, stamped when they take effect: before the open of the ex-date.",
        {
            "timestamp": ("DATETIME", "UTC", "when it takes effect"),
            "symbol": _SYMBOL,
            "action": ("TEXT", "", "split or dividend"),
            "amount": ("REAL", "currency a share", "of a dividend, before any later split"),
            "ratio": ("REAL", "new shares for one old", "of a split: 7 for seven to one, 0.1 for one to ten"),
            "currency": ("TEXT", "ISO 4217", "of the dividend; the asset's where it is missing"),
            "known_at": _KNOWN,
        },
        "SELECT symbol, action, count(*) AS actions FROM corporate_actions GROUP BY symbol, action ORDER BY symbol, action",
        (
            "Symbols whose `price_adjustment` says that prices are adjusted already are not adjusted again.",
            "Several dividends of one moment, a regular and a special one, are one row with their sum.",
        ),
    ),
    "macro_calendar": DumpTable(
        "Releases of figures that concern the whole market.",
        {
            "timestamp": ("DATETIME", "UTC", "when the figure was released"),
            "event": ("TEXT", "", "name of the figure"),
            "actual": ("REAL", "the figure's own", "as released"),
            "previous": ("REAL", "the figure's own", "what it was before, as then known"),
            "known_at": _KNOWN,
        },
        "SELECT event, count(*) AS releases, max(timestamp) AS last FROM macro_calendar GROUP BY event ORDER BY event",
    ),
    "macro_rates": DumpTable(
        "Interest rates.",
        {
            "timestamp": _TIME,
            "name": ("TEXT", "", "name of the rate"),
            "value": ("REAL", "percent a year", "its level"),
            "known_at": _KNOWN,
        },
        "SELECT name, count(*) AS rows, min(value) AS least, max(value) AS most FROM macro_rates GROUP BY name ORDER BY name",
    ),
    "funding_rates": DumpTable(
        "Funding of perpetual contracts, each row one payment; `funding_rates_8h` has the same shape.",
        {
            "timestamp": ("DATETIME", "UTC", "when it is paid"),
            "symbol": _SYMBOL,
            "rate": ("REAL", "fraction of notional", "longs pay shorts where it is above 0"),
            "interval_hours": ("REAL", "hours", "that the payment covers"),
            "known_at": _KNOWN,
        },
        "SELECT symbol, count(*) AS payments, sum(rate) AS paid_by_longs FROM funding_rates GROUP BY symbol ORDER BY symbol",
    ),
    "options_implied_vol": DumpTable(
        "Implied volatility of options; of an index it goes to every class as well.",
        {
            "timestamp": _TIME,
            "symbol": _SYMBOL,
            "iv_30d": ("REAL", "fraction a year", "implied by options of thirty days"),
            "known_at": _KNOWN,
        },
        "SELECT symbol, avg(iv_30d) AS mean FROM options_implied_vol GROUP BY symbol ORDER BY symbol",
    ),
    "sentiment": DumpTable(
        "Scores of news and posts; every column declared as a number is read.",
        {"timestamp": _TIME, "symbol": _SYMBOL, "known_at": _KNOWN},
        "SELECT symbol, count(*) AS rows FROM sentiment GROUP BY symbol ORDER BY symbol",
    ),
    "on_chain": DumpTable(
        "Statistics of a chain; every column declared as a number is read.",
        {"timestamp": _TIME, "symbol": _SYMBOL, "known_at": _KNOWN},
        "SELECT symbol, count(*) AS rows FROM on_chain GROUP BY symbol ORDER BY symbol",
    ),
    "fundamentals": DumpTable(
        "Figures of companies; every column declared as a number is read. Write `known_at`: a period's end is not when it was filed.",
        {"timestamp": ("DATETIME", "UTC", "end of the period"), "symbol": _SYMBOL, "known_at": _KNOWN},
        "SELECT symbol, count(*) AS rows, max(known_at) AS last_filed FROM fundamentals GROUP BY symbol ORDER BY symbol",
        ("A restated figure is another row with the same timestamp and a later `known_at`: both are kept.",),
    ),
}
