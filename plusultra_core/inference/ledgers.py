"""The ledgers of all strategies as tables: account, positions, orders with their shortfall, and every bar in which an order lived."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.guardrails.limits import GUARD_REASONS
from plusultra_core.inference.strategies import Setting
from plusultra_core.simulation.ledger import Columns, Ledger
from plusultra_core.simulation.market import last_close
from plusultra_core.simulation.records import PROXIES, REASONS, STATUSES
from plusultra_core.windows.panel import Panel

EXECUTIONS = "executions"
_BARS = ("open", "high", "low", "close", "volume", "half_spread_bps", "adv_ccy", "sigma", "funding", "dividend")
Tables = dict[str, list[Columns]]
"""By name the parts of a table, one a strategy, in the order of their names."""


def ledger_tables(ledgers: Mapping[str, Ledger], panel: Panel, setting: Setting) -> Tables:
    """Every ledger in words: strategies and symbols by name, codes as what they mean.

    Units   money in account currency; costs are positive when they lose.
    NaN     null in orders and executions: prices of what did not trade, of an arrival that never came, times of fills that were none. In
            positions a target that was not asked for is NaN.
    """
    tables: Tables = {"account": [], "orders": [], "positions": [], "currencies": [], EXECUTIONS: []}
    symbols = np.array(panel.symbols, dtype=object)
    for strategy in sorted(ledgers):
        ledger = ledgers[strategy]
        lived = _priced(ledger.executions(), setting)
        account, orders, positions = ledger.account(), _with_shortfall(ledger.orders(), lived, setting), ledger.positions()
        parts = {
            "account": {"fold": _fold_of(panel, ledger), **account},
            "orders": _in_words(orders, symbols),
            "positions": _named(positions, symbols, {"guard": GUARD_REASONS}),
            "currencies": ledger.currencies(panel.currencies),
            EXECUTIONS: _executions(lived, symbols, setting),
        }
        for name, columns in parts.items():
            length = len(next(iter(columns.values())))
            tables[name].append({"strategy": np.full(length, strategy, dtype=object), **columns})
    return tables


def market_table(setting: Setting, panel: Panel, span: tuple[int, int]) -> Columns:
    """The bars that the kernel met in a span, by symbol and time: prices, volume, spread and what of them is assumed.

    NaN     null: an open that the bar has not, a depth that nobody quoted.
    """
    market, (start, end) = setting.market, span
    slot, row = np.nonzero(market.tradable[start:end].T)
    at: Any = (start + row, slot)
    depth = market.depth[at]
    return {
        "symbol": np.array(panel.symbols, dtype=object)[slot],
        "ts_ns": market.ts_ns[at[0]],
        **{name: getattr(market, name)[at] for name in _BARS},
        "depth": np.where(np.isfinite(depth), depth, np.nan),
        "proxy": flags(market.proxy[at]),
    }


def write_ledger(directory: Path, tables: Tables) -> dict[str, list[str]]:
    """Write `<table>.parquet`, one row group a strategy, and executions, the largest, as `executions/strategy=<name>/part.parquet`.

    Equal tables give equal bytes. Returns the columns of each table.
    """
    for name, parts in tables.items():
        if name == EXECUTIONS:
            for strategy, columns in zip((part["strategy"][0] for part in tables["account"]), parts, strict=True):
                path = directory / EXECUTIONS / f"strategy={strategy}" / "part.parquet"
                path.parent.mkdir(parents=True)
                write_groups(path, [{key: value for key, value in columns.items() if key != "strategy"}])
        else:
            write_groups(directory / f"{name}.parquet", parts, missing_null=name == "orders")
    return {name: list(parts[0]) for name, parts in tables.items()}


def write_groups(path: Path, parts: Iterable[Mapping[str, Any]], missing_null: bool = True) -> None:
    """One table, a row group a part, fixed compression, no metadata of the writer's moment: equal columns, equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    groups = [pa.table({name: _array(values, missing_null) for name, values in part.items()}) for part in parts]
    with pq.ParquetWriter(path, groups[0].schema, compression="zstd", compression_level=3, version="2.6") as writer:
        for group in groups:
            writer.write_table(group, row_group_size=max(len(group), 1))


def arrival_price(setting: Setting, arrival_ns: Int64Array, decision: Int64Array, slot: Int64Array) -> tuple[Int64Array, Float64Array]:
    """Bar in which an order meets the market, and the price of the market then: the line from open to close, as the kernel quotes it.

    Shapes  all (R,). A bar without an open is met at its close; where there is no bar, the last close stands.
    """
    market = setting.market
    bar = np.maximum(np.searchsorted(market.ts_ns, arrival_ns, side="left"), decision + 1)
    here = np.minimum(bar, market.ts_ns.size - 1)
    after = market.ts_ns[here]
    start = np.maximum(market.ts_ns[here - 1], after - setting.bar_ns)
    first, last = market.open[here, slot], market.close[here, slot]
    late = np.maximum(arrival_ns - start, 0) / (after - start)
    line = np.where(np.isnan(first), last, first + (last - first) * late)
    return bar, np.where(np.isnan(line), last_close(market)[here - 1, slot], line)


def _priced(lived: Columns, setting: Setting) -> Columns:
    """The bars of orders with the prices of decision and arrival, and what each fill lost to waiting.

    delay: from the decision to the arrival; waiting: from the arrival to the price that the fill met before its own costs.
    """
    closes, slot, fill, bar = last_close(setting.market), lived["slot"], lived["fill"], lived["bar"]
    given = given_back(setting)
    decision = lived["decision_bar"]
    decided, start = closes[decision, slot], given[decision, slot]
    met, arrived = arrival_price(setting, lived["arrival_ns"], decision, slot)
    there = given[np.minimum(met, bar), slot]
    filled = fill != 0
    before, now = closes[bar - 1, slot], given[bar, slot] - given[bar - 1, slot]
    return {
        **lived,
        "decision_price": decided,
        "arrival_bar": met,
        "arrival_price": arrived,
        "delay": np.where(filled, fill * (arrived - decided - (there - start)), 0.0),
        "waiting": np.where(filled, lived["latency_drift"] + fill * (before - arrived - (given[bar - 1, slot] - there)), 0.0),
        "reference": np.where(filled, before + now + lived["latency_drift"] / np.where(filled, fill, 1.0), np.nan),
        "translated": given[bar, slot] - start,
    }


def given_back(setting: Setting) -> Float64Array:
    """What the exchange rate alone has made of a unit since the first bar, where only results are exchanged and it is given back.

    Shapes  result (T, N), account currency; zero where money is exchanged at once, and at home.
    """
    market = setting.market
    total: Float64Array = np.cumsum(np.where(market.margined, market.translation, 0.0), axis=0)
    return total


def _with_shortfall(orders: Columns, lived: Columns, setting: Setting) -> Columns:
    """Orders with what they lost against the price of their decision: delay, waiting, and what was not filled.

    With spread, impact and fees it is the implementation shortfall: a paper account that trades everything at the decision's price,
    less the real one, both marked at the close of the order's last bar. Where only results are exchanged, what the rate alone made of a
    unit from the decision to the order's end (`translated`) and of what was filled until then (`translation`) is in neither account.
    Source: Perold 1988, The Implementation Shortfall.
    """
    name = lived["order_id"]
    first = np.flatnonzero(np.concatenate(([True], name[1:] != name[:-1]))) if name.size else np.zeros(0, np.int64)
    last = np.concatenate((first[1:], [name.size])).astype(np.int64) - 1 if name.size else first
    slot, decision = lived["slot"][first], lived["decision_bar"][first]
    decided, ended = lived["decision_price"][first], lived["mark"][last]
    missed = np.sign(lived["qty"][first]) * (orders["qty_ordered"] - orders["qty_filled"])
    moved = lived["translated"]
    worth = orders["qty_ordered"] * np.nan_to_num(decided)
    reached = lived["arrival_bar"][first] <= lived["bar"][last]
    return {
        **orders,
        "decision_price": decided,
        "arrival_price": np.where(reached, lived["arrival_price"][first], np.nan),
        "end_ns": setting.market.ts_ns[lived["bar"][last]],
        "end_price": ended,
        "adv_frac": worth / setting.market.adv_ccy[decision, slot],
        "delay": np.add.reduceat(lived["delay"], first) if name.size else np.zeros(0),
        "waiting": np.add.reduceat(lived["waiting"], first) if name.size else np.zeros(0),
        "opportunity": np.where(missed != 0, missed * np.nan_to_num(ended - decided - moved[last]), 0.0),
        "translated": moved[last],
        "translation": np.add.reduceat(lived["fill"] * moved, first) if name.size else np.zeros(0),
    }


def _executions(lived: Columns, symbols: NDArray[Any], setting: Setting) -> Columns:
    """The bars of orders as a person reads them."""
    volume = setting.market.volume[lived["bar"], lived["slot"]]
    filled = np.abs(lived["fill"])
    kept = {name: lived[name] for name in ("price", "reference", "mark", "delay", "waiting", "spread", "impact", "latency_drift", "fees")}
    return _named(
        {
            "order_id": lived["order_id"],
            "slot": lived["slot"],
            "ts_ns": setting.market.ts_ns[lived["bar"]],
            "side": _sides(lived["qty"]),
            "qty_left": np.abs(lived["qty"]),
            "qty_filled": filled,
            "participation": np.where(volume > 0, filled / np.where(volume > 0, volume, 1.0), np.nan),
            "status": lived["status"],
            "reason": lived["reason"],
            **kept,
            "proxy": flags(lived["proxy"]),
        },
        symbols,
        {"status": STATUSES, "reason": REASONS},
    )


def flags(bits: NDArray[Any]) -> NDArray[Any]:
    """What of each bar came from the market's config, by name: `open,volume`; empty where all came from the dump."""
    kinds, place = np.unique(bits, return_inverse=True)
    words = [",".join(sorted(name for bit, name in PROXIES.items() if int(kind) & bit)) for kind in kinds]
    return np.array(words, dtype=object)[place] if len(kinds) else np.zeros(0, dtype=object)


def _in_words(orders: Columns, symbols: NDArray[Any]) -> Columns:
    filled = orders["fill_ns"] >= 0
    side = _sides(orders["side"])
    return _named(
        {**orders, "fill_ns": np.ma.masked_array(orders["fill_ns"], mask=~filled), "side": side},
        symbols,
        {"status": STATUSES, "reason": REASONS, "guard": GUARD_REASONS},
    )


def _named(columns: Columns, symbols: NDArray[Any], words: Mapping[str, Mapping[int, str]]) -> Columns:
    named: Columns = {("symbol" if name == "slot" else name): values for name, values in columns.items()}
    named["symbol"] = symbols[columns["slot"]]
    for name, meanings in words.items():
        lookup = np.array([meanings.get(code, "") for code in range(max(meanings) + 1)], dtype=object)
        named[name] = lookup[columns[name]]
    return named


def _sides(signed: NDArray[Any]) -> NDArray[Any]:
    return np.where(signed > 0, "buy", "sell").astype(object)


def _array(values: Any, missing_null: bool) -> Any:
    """As Arrow takes it: text typed even where there is none, what is masked as null, and missing numbers where they are to be."""
    import pyarrow as pa

    if isinstance(values, np.ma.MaskedArray):
        return pa.array(np.ma.getdata(values), mask=np.ma.getmaskarray(values))
    if values.dtype == object:
        return pa.array(values, type=pa.string())
    return pa.array(values, from_pandas=missing_null) if values.dtype.kind == "f" else pa.array(values)


def _fold_of(panel: Panel, ledger: Ledger) -> Any:
    """Fold in whose test span the decision behind each row was taken; the opening row belongs to the first."""
    bars = np.concatenate(([ledger.start], ledger.start + np.arange(len(ledger.ts_ns) - 1)))
    starts = np.array([fold.test[0] for fold in panel.folds])
    index = np.array([fold.index for fold in panel.folds], dtype=np.int32)
    return index[np.searchsorted(starts, bars, side="right") - 1]
