"""What `plusultra` says after a run, and what a refused challenger changes: nothing."""

import json
from types import SimpleNamespace

import pytest

from plusultra_core.artifacts import canonical_json, publish, sha256_bytes
from plusultra_core.evaluation import promotion
from plusultra_dagster.commands.answer import decision_line, scorecard_lines
from plusultra_dagster.partitions import Partition
from plusultra_dagster.places import Places
from plusultra_dagster.resources.registry import Registry


def artifact(at: Places, asset: str, key: str, name: str, content: object) -> object:
    return publish(at.artifacts / asset, key, lambda folder: (folder / name).write_bytes(canonical_json(content)), {"key": key})


def test_the_decision_is_one_line(home: Places) -> None:
    cell = Partition("a-1", "equity")
    assert decision_line(home, cell) is None
    artifact(home, "champion", "k", "decision.json", {"decision": {"reason": "not promoted: PSR against 0"}})
    reference = home.lake / "champion" / "equity" / "a-1.json"
    reference.parent.mkdir(parents=True)
    reference.write_text(json.dumps({"store": "champion", "key": "k"}))
    assert decision_line(home, cell) == "champion: not promoted: PSR against 0"


def test_a_refused_challenger_leaves_the_champion_as_it_was(home: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    def decide(challenger: dict[str, str], champion: dict[str, str] | None, *_: object) -> promotion.Decision:
        good = challenger["name"] != "worse"
        evidence = {
            "challenger_sha256": sha256_bytes(canonical_json(challenger)),
            "champion_sha256": champion["name"] if champion else "none",
        }
        return promotion.Decision(good, "policy", None, "promoted" if good else "not promoted: it is worse", (), evidence)

    monkeypatch.setattr(promotion, "decide", decide)
    registry, cfg = Registry(folder=str(home.registry), artifacts=str(home.artifacts)), SimpleNamespace(promotion=None, bootstrap=None)
    served = {}
    for name in ("first", "worse", "better"):
        card = artifact(home, "scorecard", name, "scorecard.json", {"name": name})
        registry.decide("equity", card, cfg)
        champion = registry.champion("equity")
        served[name] = champion["name"] if champion else None
    assert served == {"first": "first", "worse": "first", "better": "better"}
    assert registry.decide("equity", card, cfg) == registry.decide("equity", card, cfg)
    chain = [json.loads(line) for line in (home.registry / "equity" / "decisions.jsonl").read_text().splitlines()]
    assert [record["decision"]["evidence"]["champion_sha256"] for record in chain] == ["none", "first", "first"]


def test_the_terminal_says_who_won_and_counts_horizons_as_numbers() -> None:
    scores = {str(horizon): {"ic": 0.01, "skill_vs_climatology": None} for horizon in (1, 21, 5)}
    verdict = {"outcome": "undecided", "best_model": "policy", "best_baseline": "buy_and_hold"}
    span = {"start": "2020-01-01", "end": "2020-06-01", "num_bars": 100}
    card = {"asset_class": "equity", "span": span, "strategies": {}, "forecasts": {"hybrid": scores}, "verdict": verdict}
    lines = scorecard_lines(card)
    assert [line.split("horizon")[1].split(",")[0].strip() for line in lines if "horizon" in line] == ["1", "5", "21"]
    assert lines[-1].strip() == "No model can be told apart from the best baseline, buy and hold, after costs."
