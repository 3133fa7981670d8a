"""What a class sees of the others."""

from functools import cache

import dagster as dg
import polars as pl

from plusultra_dagster.assets.automation import VIEW
from plusultra_dagster.assets.record import Record, dressed
from plusultra_dagster.config import Views, markets
from plusultra_dagster.partitions import partition_of


@cache
def context_classes() -> dg.MultiPartitionMapping:
    """Same snapshot; from each class to the classes whose view reads it, itself among them."""
    readers: dict[str, list[str]] = {name: [name] for name in markets()}
    for own, market in markets().items():
        for name in market.context_classes:
            readers[name].append(own)
    across = dg.StaticPartitionMapping({name: sorted(set(own)) for name, own in readers.items()})
    return dg.MultiPartitionMapping(
        {
            "asset_class": dg.DimensionPartitionMapping("asset_class", across),
            "snapshot": dg.DimensionPartitionMapping("snapshot", dg.IdentityPartitionMapping()),
        }
    )


def _by_class(frames: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    return {str(partition_of(key).asset_class): frame for key, frame in sorted(frames.items())}


@dg.asset(
    **dressed(__file__, "views", code=("views",), configs=("views",), market="own", automation=VIEW),
    ins={"bars": dg.AssetIn(partition_mapping=context_classes()), "features": dg.AssetIn(partition_mapping=context_classes())},
)
def cross_asset_view(
    context: dg.AssetExecutionContext, bars: dict[str, pl.DataFrame], features: dict[str, pl.DataFrame], config: Views
) -> dg.MaterializeResult:
    """Features of this class and its context classes, aligned as of each bar with their age; a class that is missing is a recorded gap."""
    from plusultra_core.views.build import ViewsConfig, build

    record = Record(context, config)
    own = str(record.partition.asset_class)
    view = build(own, _by_class(bars), _by_class(features), record.market, config.load(ViewsConfig))
    audit = [dg.TableRecord({name: str(value) for name, value in row.items()}) for row in view.audit.head(50).to_dicts()]
    missing = dg.MetadataValue.json(list(view.missing))
    return record.table("view", view.frame, missing=missing, num_missing=len(view.missing), audit=dg.MetadataValue.table(audit))
