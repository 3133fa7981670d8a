"""The long view as arrays on a class's grid: values, their age, and where there is one."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from plusultra_core.arrays import BoolArray, Float64Array, Int64Array
from plusultra_core.clock import iso
from plusultra_core.errors import ContractError


@dataclass(frozen=True, slots=True)
class ViewPanel:
    """N symbols, T decision times, C features of the whole class, J features of each symbol; nothing is filled."""

    symbols: tuple[str, ...]
    ts_ns_T: Int64Array
    whole: tuple[str, ...]
    value_TC: Float64Array
    """NaN where missing, too old or at warm-up."""
    staleness_ns_TC: Int64Array
    """-1 where nothing was known yet."""
    known_ns_T: Int64Array
    """When what holds for the whole class was known; -1 where there is nothing."""
    own: tuple[str, ...]
    value_NTJ: Float64Array
    staleness_ns_NTJ: Int64Array
    known_ns_NT: Int64Array

    @property
    def mask_TC(self) -> BoolArray:
        """Where the whole class has a value."""
        return np.isfinite(self.value_TC)

    @property
    def mask_NTJ(self) -> BoolArray:
        """Where a symbol has a value."""
        return np.isfinite(self.value_NTJ)


def wide(view: pl.DataFrame, symbols: tuple[str, ...], ts_ns_T: Int64Array) -> ViewPanel:
    """Arrays of a long view on rising symbols and times; a cell without a row is missing.

    Raises  ContractError for a symbol or a time that is not among them, or a feature of the whole class and of a symbol.
    """
    runs = _runs(view, "feature")
    if len({name for name, _ in runs}) != len(runs):
        view = view.sort("feature", "symbol", "ts_ns", nulls_last=False)
        runs = _runs(view, "feature")
    blocks = [(name, view[rows]) for name, rows in runs]
    whole = [(name, block) for name, block in blocks if block["symbol"][0] is None]
    own = [(name, block) for name, block in blocks if block["symbol"][0] is not None]
    shape_TC, shape_NTJ = (ts_ns_T.size, len(whole)), (len(symbols), ts_ns_T.size, len(own))
    for name, block in blocks:
        if block["symbol"].null_count() not in (0, block.height):
            raise ContractError(f"cross_asset_view: {name} has rows with a symbol and rows without; expected one kind; name them apart")
    panel = ViewPanel(
        symbols=symbols,
        ts_ns_T=ts_ns_T,
        whole=tuple(name for name, _ in whole),
        value_TC=np.full(shape_TC, np.nan),
        staleness_ns_TC=np.full(shape_TC, -1, np.int64),
        known_ns_T=np.full(shape_TC[0], -1, np.int64),
        own=tuple(name for name, _ in own),
        value_NTJ=np.full(shape_NTJ, np.nan),
        staleness_ns_NTJ=np.full(shape_NTJ, -1, np.int64),
        known_ns_NT=np.full(shape_NTJ[:2], -1, np.int64),
    )
    for c, (_, block) in enumerate(whole):
        t_R = _times(block, ts_ns_T)
        _put(block, (t_R,), panel.value_TC[:, c], panel.staleness_ns_TC[:, c], panel.known_ns_T)
    for j, (_, block) in enumerate(own):
        n_R, t_R = _members(block, symbols), _times(block, ts_ns_T)
        _put(block, (n_R, t_R), panel.value_NTJ[..., j], panel.staleness_ns_NTJ[..., j], panel.known_ns_NT)
    return panel


def _runs(frame: pl.DataFrame, column: str) -> list[tuple[str, slice]]:
    """Each value of a column and the rows of the run that it stands on."""
    runs = frame[column].rle().struct.unnest()
    ends = np.cumsum(runs["len"].to_numpy()).tolist()
    return [(name, slice(end - size, end)) for name, size, end in zip(runs["value"].to_list(), runs["len"].to_list(), ends, strict=True)]


def _times(block: pl.DataFrame, ts_ns_T: Int64Array) -> Int64Array:
    ts_ns = block["ts_ns"].to_numpy()
    t_R: Int64Array = np.minimum(np.searchsorted(ts_ns_T, ts_ns), ts_ns_T.size - 1)
    off = ts_ns_T[t_R] != ts_ns
    if off.any():
        raise ContractError(
            f"cross_asset_view: {int(off.sum())} rows at times without a bar, first {iso(int(ts_ns[off][0]))}; align it to the bars"
        )
    return t_R


def _members(block: pl.DataFrame, symbols: tuple[str, ...]) -> Int64Array:
    at = {symbol: n for n, symbol in enumerate(symbols)}
    runs = _runs(block, "symbol")
    if strange := sorted({str(symbol) for symbol, _ in runs} - set(symbols)):
        raise ContractError(f"cross_asset_view: a symbol has no bars in this class, first {strange[0]}; align the view to the bars")
    return np.repeat([at[symbol] for symbol, _ in runs], [rows.stop - rows.start for _, rows in runs])


def _put(block: pl.DataFrame, place: tuple[Int64Array, ...], value: Float64Array, staleness_ns: Int64Array, known_ns: Int64Array) -> None:
    value[place] = block["value"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    staleness_ns[place] = block["staleness_ns"].fill_null(-1).to_numpy()
    known_ns[place] = np.maximum(known_ns[place], block["known_ns"].to_numpy())
