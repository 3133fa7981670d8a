"""What the UI shows of the policy's seeds, and when it warns of the choice among them."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from plusultra_core.artifacts import Artifact
from plusultra_dagster.assets import summary
from plusultra_dagster.assets.judgement.reporting import since_previous
from plusultra_dagster.checks.seeds import seeds

SPREAD = {"served": 2.0, "mean": 1.0, "median": 1.5, "std": 0.5, "least": -0.5, "most": 2.0}
RUN = {"seed": 9, "is_served": True, "valid_reward": 0.04, "update": 20, "sharpe": 2.0, "total_return": 0.1, "max_drawdown": 0.05,
       "turnover_year": 3.0}  # fmt: skip
CARD: dict[str, Any] = {
    "bar": "1d",
    "span": {"start": "2016-12-05T00:00:00Z", "end": "2016-12-31T00:00:00Z", "num_bars": 3},
    "strategies": {},
    "forecasts": {},
    "series": {"locked": {"ret": {}}},
    "verdict": {"outcome": "unknown", "best_model": None},
    "warnings": [],
    "policy": {
        "seeds": {
            "sharpe": SPREAD,
            "valid_reward": SPREAD,
            "num_above_best_baseline": 2,
            "rank_correlation": None,
            "sharpe_gap": 2.5,
            "runs": [RUN, {**RUN, "seed": 8, "is_served": False}],
        }
    },
}


@pytest.mark.parametrize(("mean", "std", "passed"), [(0.041, 0.001, True), (0.001, 0.002, False), (0.0, 0.0, True), (0.01, 0.01, True)])
def test_a_choice_among_noise_is_warned_of(mean: float, std: float, passed: bool, tmp_path: Path) -> None:
    metrics = {"seed": 9, "seeds.mean": mean, "seeds.std": std, "seeds": [{"seed": 8}, {"seed": 9}]}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    found = seeds(Artifact(tmp_path, "0" * 64, {}))
    assert isinstance(found, dg.AssetCheckResult)
    assert found.passed is passed and found.severity == dg.AssetCheckSeverity.WARN
    assert {name: value.value for name, value in found.metadata.items()} == {"seeds": 2, "served": 9, "mean": mean, "deviation": std}


def test_the_spread_is_plotted_and_every_seed_stands_in_a_table() -> None:
    found = summary.scorecard(CARD)
    table = found["seeds of the policy"]
    assert isinstance(table, dg.TableMetadataValue)
    assert [(row.data["seed"], row.data["is_served"]) for row in table.records] == [("9", "True"), ("8", "False")]
    assert found["policy.seeds.sharpe.median"] == 1.5 and found["policy.seeds.valid_reward.std"] == 0.5
    assert found["policy.seeds.num_above_best_baseline"] == 2.0 and "policy.seeds.rank_correlation" not in found
    none = summary.scorecard({**CARD, "policy": {"seeds": None}})
    assert none["seeds of the policy"] == "nothing" and not [name for name in none if name.startswith("policy.seeds.")]


def _told(instance: dg.DagsterInstance, **metadata: Any) -> dict[str, Any] | None:
    event = dg.AssetMaterialization("snapshot", partition="dump-b", metadata=metadata)
    instance.report_runless_asset_event(event)
    return since_previous(instance, "dump-b")


def test_the_report_reads_what_the_snapshot_said_of_the_one_before() -> None:
    with dg.instance_for_test() as instance:
        assert since_previous(instance, "dump-b") is None
        assert _told(instance, rows=3) is None
        assert _told(instance, previous="none: first of its universe") == {"previous": None, "by_table": []}
        assert _told(instance, previous="dump-a", **{"since previous": "nothing"}) == {"previous": "dump-a", "by_table": []}
        row = {"table": "series", "new": "1", "late": "0", "revised": "2", "gone": "0"}
        table = dg.MetadataValue.table([dg.TableRecord(row)])
        assert _told(instance, previous="dump-a", **{"since previous": table}) == {"previous": "dump-a", "by_table": [row]}
