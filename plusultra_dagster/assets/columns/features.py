"""Causal features."""

import dagster as dg
import polars as pl

from plusultra_dagster.assets.columns.earlier import earlier_features, keep_state
from plusultra_dagster.assets.record import Record, dressed
from plusultra_dagster.config import Features
from plusultra_dagster.resources.analysts import with_analysts


@dg.asset(**dressed(__file__, "features", code=("features", "feedback"), configs=("features",), market="own"))
def features(
    context: dg.AssetExecutionContext, bars: pl.DataFrame, indicators: pl.DataFrame, side_tables: pl.DataFrame, config: Features
) -> dg.MaterializeResult:
    """Features of every bar; each looks back only. The catalogue is docs/features.md.

    Rows of an earlier snapshot whose history is unchanged are taken over; the result is the same to the last bit. Where the config reads
    what analysts said, all are made anew.
    """
    from plusultra_core.features.build import FeaturesConfig
    from plusultra_core.features.catalog import CATALOG
    from plusultra_core.features.extend import extend

    record, cfg = Record(context, config), config.load(FeaturesConfig)
    beside = with_analysts(side_tables, cfg)
    earlier = earlier_features(context.instance, record, bars) if beside is side_tables else None
    made = extend(earlier.previous if earlier else None, bars, indicators, beside, record.market, cfg)
    keep_state(record, made.state)
    columns = [name for name in made.features.columns if name not in ("symbol", "ts_ns", "known_ns")]
    meanings = {spec.name: f"{spec.doc} Unit: {spec.unit}." for spec in CATALOG}
    return record.table(
        "features",
        made.features,
        meanings,
        {spec.name: spec.inputs for spec in CATALOG},
        num_features=len(columns),
        coverage=coverage_table(made.features, columns),
        taken_over_from=earlier.partition.snapshot if earlier and made.num_rows_taken else "nothing",
        symbols_taken_over=made.num_symbols_taken,
        rows_taken_over=made.num_rows_taken,
        rows_computed=made.num_rows_computed,
    )


def coverage_table(frame: pl.DataFrame, columns: list[str]) -> dg.TableMetadataValue:
    """The share of rows at which each column has a number."""
    shares = frame.select(pl.col(columns).is_finite().fill_null(False).mean().fill_null(0.0)).row(0) if columns else ()
    return dg.MetadataValue.table(
        [dg.TableRecord({"feature": name, "covered": round(float(share or 0.0), 4)}) for name, share in zip(columns, shares, strict=True)]
    )
