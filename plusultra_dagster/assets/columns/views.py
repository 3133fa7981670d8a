"""What a class sees of the others."""

from functools import cache

import dagster as dg
import polars as pl

from plusultra_dagster.assets.automation import VIEW
from plusultra_dagster.assets.record import Record, dressed
from plusultra_dagster.config import Views, markets
from plusultra_dagster.partitions import across_context, partition_of

INPUTS = ("bars", "features", "side_tables")


@cache
def _across() -> dg.MultiPartitionMapping:
    return across_context({name: market.context_classes for name, market in markets().items()})


def _by_class(frames: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    return {str(partition_of(key).asset_class): frame for key, frame in sorted(frames.items())}


@dg.asset(
    **dressed(__file__, "views", code=("views",), configs=("views",), market="own", automation=VIEW),
    ins={name: dg.AssetIn(partition_mapping=_across()) for name in INPUTS},
)
def cross_asset_view(
    context: dg.AssetExecutionContext,
    bars: dict[str, pl.DataFrame],
    features: dict[str, pl.DataFrame],
    side_tables: dict[str, pl.DataFrame],
    config: Views,
) -> dg.MaterializeResult:
    """Features of this class and its context classes, aligned as of each bar with their age; a class that is missing is a recorded gap."""
    from plusultra_core.views.build import ViewsConfig, build

    record = Record(context, config)
    own = str(record.partition.asset_class)
    frames = (_by_class(given) for given in (bars, features, side_tables))
    cfg = config.load(ViewsConfig)
    view = build(own, *frames, record.market, cfg)
    audit = [dg.TableRecord({name: str(value) for name, value in row.items()}) for row in view.audit.head(50).to_dicts()]
    missing = dg.MetadataValue.json(list(view.missing))
    return record.table(
        "view",
        view.frame,
        reads={"value": (cfg.momentum,)},
        missing=missing,
        num_missing=len(view.missing),
        audit=dg.MetadataValue.table(audit),
    )
