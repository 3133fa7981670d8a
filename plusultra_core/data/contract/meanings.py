"""What the columns of the frames mean, and in what unit they are: read by the schemas, by the pages and by the UI."""

import re
from collections.abc import Mapping

Meaning = tuple[str, str]
"""Unit (empty where there is none) and sense."""

_NS = "ns since 1970, UTC"
_QUOTE = "quote currency"

COLUMNS: Mapping[str, Meaning] = {
    "symbol": ("", "Instrument."),
    "ts_ns": (_NS, "What the row describes: the close of its bar."),
    "known_ns": (_NS, "When the row could be known; never before ts_ns, but for what is announced ahead."),
    "asset_id": ("", "Number of the asset."),
    "sector": ("", "Industry, as the dump has it now: not point in time."),
    "currency": ("ISO 4217", "Currency of prices and amounts."),
    "exchange": ("", "Where it is listed."),
    "asset_class": ("", "Class, and with it the market's facts."),
    "bar": ("", "Length of the symbol's bars: as stated, else the commonest step."),
    "price_adjustment": ("", "What the dump's prices are adjusted for already."),
    "metadata": ("JSON", "What else the dump says of the asset."),
    "open": (_QUOTE, "First price of the bar."),
    "high": (_QUOTE, "Highest price of the bar."),
    "low": (_QUOTE, "Lowest price of the bar."),
    "close": (_QUOTE, "Last price of the bar."),
    "volume": ("units of the instrument", "Traded in the bar; null where it is not known."),
    "vwap": (_QUOTE, "Volume-weighted average price of the bar."),
    "turnover": (_QUOTE, "Value traded in the bar."),
    "open_adj": ("first bar's quote currency", "Open, adjusted forward."),
    "high_adj": ("first bar's quote currency", "High, adjusted forward."),
    "low_adj": ("first bar's quote currency", "Low, adjusted forward."),
    "close_adj": ("first bar's quote currency", "Close, adjusted forward: no bar knows a later split or dividend."),
    "volume_adj": ("units at the first bar", "Volume over adj_factor."),
    "adj_factor": ("ratio", "Adjusted over raw price; 1 at the symbol's first bar."),
    "gap_bars": ("bars", "Bars of the class's calendar that are missing since the symbol's previous bar."),
    "has_ohl": ("", "Whether open, high and low are there."),
    "has_volume": ("", "Whether the volume is there."),
    "name": ("", "Name of the indicator."),
    "value": ("the series' own", "The value itself."),
    "ret_simple": ("fraction", "Simple return since the benchmark's previous row."),
    "level": ("index points or currency", "Level of the benchmark."),
    "trade_id": ("", "Number of the trade."),
    "side": ("", "Position that the trade took."),
    "size": ("units of the instrument", "Traded, never negative."),
    "price": (_QUOTE, "At which it was filled."),
    "fees": (_QUOTE, "Paid."),
    "slippage_bps": ("basis points", "Fill against the price decided on."),
    "pnl": (_QUOTE, "What it made."),
    "table": ("", "Side table of the dump."),
    "field": ("", "Column of the side table, after its key where it has one: `<key>.<column>`."),
    "expires_ns": (_NS, "Last moment at which the value may be used; null: until a newer one is known."),
    "action": ("", "Split or dividend."),
    "amount": ("currency a share", "Of a dividend, in shares as they stood then."),
    "ratio": ("new shares for one old", "Of a split."),
    "rate": ("account currency a unit", "What one unit of the currency is worth, as the snapshot's pairs say."),
    "sigma": ("log return a bar", "Causal EWMA volatility."),
    "barrier_label": ("", "-1 lower, 0 vertical, 1 upper barrier: a target, never a feature."),
    "barrier_ret": ("log return", "To where the path met its barrier: a target, never a feature."),
    "barrier_end_ns": (_NS, "Bar at which the path met its barrier."),
    "barrier_ambiguous": ("", "Whether one bar lay over both barriers."),
    "weight_uniqueness": ("share", "Part of the label that no other label overlaps."),
    "meta_side": ("", "What a plain rule of past closes would hold: 1 long, -1 short, 0 nothing."),
    "meta_label": ("", "1 where that side takes its profit, net of cost, before its stop and in time: a target, never a feature."),
    "trend_state": ("", "0 unknown, 1 down, 2 flat, 3 up; entered and left at two bands, from the past only."),
    "hmm_state": ("", "Hidden Markov state, 0 unknown, 1 calm, 2 between, 3 storm; fitted on past windows and filtered."),
    "hmm_prob": ("probability", "Filtered probability of hmm_state."),
    "feature": ("", "Name of the feature."),
    "staleness_ns": ("ns", "Age of the value at ts_ns."),
    "source_class": ("", "Class that the value comes from."),
    "fold": ("", "Walk-forward fold, from 0."),
    "split": ("", "Part of the fold that the row lies in."),
    "model": ("", "Model that said it."),
    "horizon": ("bars", "How far ahead."),
    "p_down": ("probability", "Of a move below the direction's threshold."),
    "p_flat": ("probability", "Of a move within it."),
    "p_up": ("probability", "Of a move above it."),
    "confidence": ("probability", "How sure the direction is."),
    "y": ("sigma", "What came: log return over sigma times the root of the horizon."),
    "ret_log": ("log return", "What came."),
    "direction": ("", "What came: 0 down, 1 flat, 2 up; -1 or null where it is not yet known."),
    "label_end_ns": (_NS, "Bar at which the outcome was known."),
}

FAMILIES: Mapping[str, Meaning] = {
    r"(volatility|liquidity|rotation)_state": ("", "0 unknown, 1 low, 2 mid, 3 high; fitted on the past only."),
    r"ret_log_\d+": ("log return", "To that many bars ahead: a target, never a feature."),
    r"target_\d+": ("sigma", "Log return ahead over sigma times the root of the horizon."),
    r"direction_\d+": ("", "0 down, 1 flat, 2 up; null where it is not yet known."),
    r"label_end_ns_\d+": (_NS, "ts_ns of the bar at which the label ends."),
    r"q_\d{2,3}": ("sigma", "Quantile of the forecast, the level in its name."),
    r"ind_\w+_raw": ("asinh", "The dump's own indicator, as known at known_ns."),
    r"ind_\w+": ("deviations", "The dump's own indicator against its last observations of this symbol, as known at known_ns."),
    r"side_\w+": ("deviations", "A source of the config's extra ones against its own past, as known at known_ns."),
}


def meaning_of(column: str) -> Meaning | None:
    """Unit and sense of a column of any frame; None for one that only its station knows, as a feature."""
    return COLUMNS.get(column) or next((found for pattern, found in FAMILIES.items() if re.fullmatch(pattern, column)), None)
