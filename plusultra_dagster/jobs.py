"""What is run together, by name."""

import dagster as dg

TABLES = (
    "assets",
    "series",
    "indicators",
    "benchmarks",
    "trades",
    "side_tables",
    "corporate_actions",
    "exchange_rates",
    "bars",
    "features",
    "regimes",
    "targets",
)
TABLE_GROUPS = ("data", "features", "regimes", "targets")
DESK = ("monitoring", "feedback")

tables = dg.AssetSelection.assets(*TABLES)
ON_REQUEST = dg.AssetSelection.assets("offline_policy")
"""What no job makes: one materialises it where one wants it."""
learning = (
    dg.AssetSelection.groups("views", "windows", "training", "rl", "simulation", "evaluation", "reporting", "promotion", *DESK) - ON_REQUEST
)

take_snapshot = dg.define_asset_job(
    "take_snapshot",
    selection=dg.AssetSelection.assets("snapshot"),
    description="Pass a landed dump through the gate and keep a read-only copy of it.",
)
refresh_tables = dg.define_asset_job(
    "refresh_tables",
    selection=tables,
    description="Tables, bars, features, regimes and targets of one class of one snapshot: seconds.",
)
train = dg.define_asset_job(
    "train",
    selection=learning,
    tags={"plusultra/tier": "gpu"},
    description="From the cross-asset view to the report and the champion: minutes.",
)
full_graph = dg.define_asset_job(
    "full_graph",
    selection=tables | learning,
    tags={"plusultra/tier": "gpu"},
    description="Everything of one class of one snapshot.",
)
watch = dg.define_asset_job(
    "watch",
    selection=dg.AssetSelection.assets("drift", "operations_summary", "annotations"),
    description="Drift, alarms, the journal and what analysts said, of one class of one snapshot: seconds.",
)
all_jobs = [take_snapshot, refresh_tables, train, full_graph, watch]
