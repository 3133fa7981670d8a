"""Which columns a column is made of, as the UI draws it."""

import re
from collections.abc import Callable, Mapping, Sequence

import dagster as dg

KEYS = ("symbol", "ts_ns", "known_ns")
_RAW = ("open", "high", "low", "close", "volume")
_FACTOR = (("assets", "price_adjustment"), ("corporate_actions", "amount"), ("corporate_actions", "ratio"), ("series", "close"))

Sources = Sequence[tuple[str, str]]
"""Pairs of asset and column."""


def lineage_of(asset: str, columns: Sequence[str], reads: Mapping[str, Sequence[str]] | None = None) -> dg.TableColumnLineage | None:
    """Sources of each column of an asset's table; None for a table whose columns are not traced.

    `reads` names, for a feature, the columns of bars and the side columns (`side:<name>`) that it reads; for a state or a view, features.
    """
    source = _SOURCES.get(asset)
    if source is None:
        return None
    told = {column: source(column, (reads or {}).get(column, ())) for column in columns}
    return dg.TableColumnLineage(
        {
            column: [dg.TableColumnDep(asset_key=dg.AssetKey(parent), column_name=name) for parent, name in dict.fromkeys(found)]
            for column, found in told.items()
            if found
        }
    )


def _same(parent: str, columns: Sequence[str]) -> list[tuple[str, str]]:
    return [(parent, column) for column in columns]


def _bars(column: str, reads: Sequence[str]) -> Sources:
    if column in (*KEYS, *_RAW):
        return _same("series", [column])
    if column.removesuffix("_adj") in _RAW:
        return [("series", column.removesuffix("_adj")), *_FACTOR]
    return {
        "adj_factor": _FACTOR,
        "gap_bars": _same("series", ["ts_ns"]),
        "has_ohl": _same("series", _RAW[:3]),
        "has_volume": _same("series", ["volume"]),
    }.get(column, ())


def _features(column: str, reads: Sequence[str]) -> Sources:
    if column in KEYS:
        return _same("bars", [column])
    if column.startswith("ind_"):
        return _same("indicators", ["name", "value", "known_ns"])
    if column.startswith("side_"):
        return _same("side_tables", ["field", "value", "known_ns"])
    found: list[tuple[str, str]] = []
    for name in reads:
        found += _same("side_tables", ["field", "value", "known_ns"]) if name.startswith("side:") else _same("bars", [name])
    return found


def _regimes(column: str, reads: Sequence[str]) -> Sources:
    if column in KEYS:
        return _same("bars", [column])
    if column == "rotation_state":
        return [*_same("features", reads), ("assets", "sector")]
    return _same("features", reads) if reads else _same("bars", ["close_adj"])


_PATHS = ("open_adj", "high_adj", "low_adj", "close_adj")


def _targets(column: str, reads: Sequence[str]) -> Sources:
    if column in KEYS:
        return _same("bars", [column])
    if re.match(r"label_end_ns_|barrier_end_ns|weight_uniqueness", column):
        return _same("bars", ["ts_ns"])
    return _same("bars", _PATHS if column.startswith(("barrier", "meta_label")) else ("close_adj",))


def _view(column: str, reads: Sequence[str]) -> Sources:
    if column == "value":
        return [*_same("bars", ["close_adj"]), *_same("features", reads), *_same("side_tables", ["value"])]
    return _same("bars", [column]) if column in KEYS else ()


_SOURCES: Mapping[str, Callable[[str, Sequence[str]], Sources]] = {
    "bars": _bars,
    "features": _features,
    "regimes": _regimes,
    "targets": _targets,
    "cross_asset_view": _view,
}
