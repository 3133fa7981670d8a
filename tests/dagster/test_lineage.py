"""Columns are traced to columns that are there."""

import dagster as dg
import pytest

from plusultra_core.data.contract.frames import FRAMES
from plusultra_core.features.catalog import CATALOG
from plusultra_dagster.assets.lineage import lineage_of

READS = {spec.name: spec.inputs for spec in CATALOG}
FEATURES = ["symbol", "ts_ns", "known_ns", *READS, "ind_spread", "ind_spread_raw", "side_news"]
TARGETS = [*FRAMES["targets"].columns, "ret_log_5", "target_5", "direction_5", "label_end_ns_5"]
COLUMNS = {
    "bars": list(FRAMES["bars"].columns),
    "features": FEATURES,
    "regimes": list(FRAMES["regimes"].columns),
    "targets": TARGETS,
    "cross_asset_view": list(FRAMES["view"].columns),
}
UNTRACED = {
    "cross_asset_view": {"feature", "staleness_ns", "source_class"},
    "features": {name for name, inputs in READS.items() if not inputs},
}


@pytest.mark.parametrize("asset", COLUMNS)
def test_every_column_has_sources_and_they_exist(asset: str) -> None:
    lineage = lineage_of(asset, COLUMNS[asset], READS)
    assert lineage is not None
    assert set(COLUMNS[asset]) - set(lineage.deps_by_column) == UNTRACED.get(asset, set())
    for deps in lineage.deps_by_column.values():
        for dep in deps:
            parent = dep.asset_key.to_user_string()
            known = set(FEATURES) if parent == "features" else set(FRAMES[parent].columns)
            assert dep.column_name in known, (asset, dep)


def test_a_feature_leads_to_the_bars_and_tables_it_reads() -> None:
    lineage = lineage_of("features", ["rsi", "carry_momentum"], READS)
    assert lineage is not None
    assert lineage.deps_by_column["rsi"] == [dg.TableColumnDep(asset_key=dg.AssetKey("bars"), column_name="close_adj")]
    parents = {dep.asset_key.to_user_string() for dep in lineage.deps_by_column["carry_momentum"]}
    assert parents == {"bars", "side_tables"}


def test_tables_of_the_dump_are_not_traced() -> None:
    assert lineage_of("series", ["close"]) is None
