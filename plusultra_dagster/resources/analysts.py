"""What analysts said, beside the side tables of the dump, where the config of the features asks for it."""

from typing import TYPE_CHECKING

import polars as pl

from plusultra_dagster.places import places

if TYPE_CHECKING:
    from plusultra_core.features.build import FeaturesConfig


def with_analysts(side_tables: pl.DataFrame, cfg: "FeaturesConfig") -> pl.DataFrame:
    """The side tables and, where a source of `alternative.extra` reads `analysts`, the analysts' store; otherwise the very same frame."""
    from plusultra_core.clock import now_ns
    from plusultra_core.feedback.asides import TABLE, side_rows

    if all(source.table != TABLE for source in cfg.alternative.extra.values()):
        return side_tables
    said = side_rows(places().feedback / "annotations.sqlite", now_ns())
    order = ["symbol", "ts_ns", "table", "field", "known_ns", "expires_ns", "value"]
    return pl.concat([side_tables, said.select(side_tables.columns)]).sort(order)
