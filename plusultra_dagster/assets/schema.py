"""Columns of a table as the UI shows them: type, what may stand there (from the contract), what it means."""

import re
from collections.abc import Mapping

import dagster as dg
import polars as pl

_MEANINGS = {
    "symbol": "Instrument.",
    "ts_ns": "What the row describes: the close of its bar, ns since 1970, UTC.",
    "known_ns": "When the row could be known, ns since 1970, UTC; never before ts_ns.",
    "close_adj": "Close, adjusted forward: no bar knows a later split or dividend.",
    "adj_factor": "Adjusted over raw price; 1 at the symbol's first bar.",
    "gap_bars": "Bars of the class's calendar that are missing since the symbol's previous bar.",
    "has_ohl": "Whether open, high and low are there.",
    "has_volume": "Whether the volume is there.",
    "expires_ns": "Last moment at which the value may be used, ns since 1970, UTC; null: until a newer one is known.",
    "sigma": "Causal EWMA volatility of log returns, a bar.",
    "staleness_ns": "Age of the value at ts_ns.",
    "source_class": "Class that the value comes from.",
    "weight_uniqueness": "Share of the label that no other label overlaps.",
    "trend_state": "0 unknown, 1 down, 2 flat, 3 up; entered and left at two bands, from the past only.",
    "hmm_state": "Hidden Markov state, 0 unknown, 1 calm, 2 between, 3 storm; fitted on past windows and filtered.",
    "hmm_prob": "Filtered probability of hmm_state.",
    "meta_side": "What a plain rule of past closes would hold: 1 long, -1 short, 0 nothing.",
    "meta_label": "1 where that side takes its profit, net of cost, before its stop and in time: a target, never a feature.",
}
_FAMILIES = {
    r"(volatility|liquidity|rotation)_state": "0 unknown, 1 low, 2 mid, 3 high; fitted on the past only.",
    r"ret_log_\d+": "Log return to that many bars ahead: a target, never a feature.",
    r"target_\d+": "Log return ahead over sigma times the root of the horizon.",
    r"direction_\d+": "0 down, 1 flat, 2 up; null where it is not yet known.",
    r"ind_\w+_raw": "asinh of the dump's own indicator, as known at known_ns.",
    r"ind_\w+": "The dump's own indicator, in deviations from its last observations of this symbol, as known at known_ns.",
    r"side_\w+": "A source of the config's extra ones, in deviations from its own past, as known at known_ns.",
    r"label_end_ns_\d+": "ts_ns of the bar at which the label ends.",
}


def schema_of(contract: str | None, frame: pl.DataFrame, meanings: Mapping[str, str]) -> dg.TableSchema:
    """Columns of a frame; `meanings` go before what is said here."""
    from plusultra_core.data.contract import FRAMES

    spec = FRAMES.get(contract) if contract else None
    columns = []
    for name, kind in frame.schema.items():
        rule = None
        if spec is not None:
            rule = spec.columns.get(name) or next((col for text, col in spec.patterns.items() if re.fullmatch(text, name)), None)
        constraints = dg.TableColumnConstraints(nullable=rule is None or rule.nullable, other=_limits(rule))
        columns.append(dg.TableColumn(name, str(kind), meanings.get(name) or _meaning(name), constraints))
    return dg.TableSchema(columns)


def _limits(rule: object) -> list[str]:
    """What values may be, of one column of a contract."""
    signs = {"above": ">", "least": ">=", "most": "<="}
    found = [f"{sign} {getattr(rule, name):g}" for name, sign in signs.items() if getattr(rule, name, None) is not None]
    options = getattr(rule, "options", ())
    return [*found, *([f"one of {', '.join(map(str, options))}"] if options else [])]


def _meaning(name: str) -> str | None:
    return _MEANINGS.get(name) or next((text for pattern, text in _FAMILIES.items() if re.fullmatch(pattern, name)), None)
