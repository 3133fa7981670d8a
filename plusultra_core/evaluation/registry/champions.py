"""From the signed decision to the artifacts that earned it: scorecard, trace, windows, models."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plusultra_core.artifacts import Artifact, canonical_json, open_artifact, sha256_bytes, sha256_file
from plusultra_core.errors import ArtifactError
from plusultra_core.evaluation.registry.chain import Entry, champion_entry, class_folder, read_chain, read_key

_STORES = {"windows": "windows", "supervised": "supervised_checkpoint", "policy": "policy_checkpoint"}
_SHORT = 16


@dataclass(frozen=True, slots=True)
class Champion:
    """What a standing promotion names, every link verified by its sha256."""

    asset_class: str
    strategy: str
    decision: str
    """Signature of the record."""
    scorecard: Artifact
    trace: Artifact
    supervised: Artifact
    policy: Artifact
    windows: Artifact
    """Whose newest bars are served: of all windows that a signed decision rests on, those that end last."""

    def lineage(self) -> dict[str, str]:
        """Names and digests, from the answer back to the decision and to the dump."""
        card = json.loads((self.scorecard.path / "scorecard.json").read_text())
        parts = {name: getattr(self, name).sha256 for name in ("scorecard", "trace", "supervised", "policy", "windows")}
        facts = {"asset_class": self.asset_class, "strategy": self.strategy, "decision": self.decision, "snapshot": str(card["snapshot"])}
        return facts | parts | {"windows_of": str(self.windows.manifest.get("partition", ""))}


def find_champion(registry: Path, artifacts: Path, asset_class: str) -> Champion:
    """The champion of a class: its signed chain verified, and what the decision rests on found by content.

    The decision signs the scorecard's bytes; the scorecard names its trace, the trace its windows and models.
    Raises  ContractError when there is no champion; ArtifactError when a signature does not fit or an artifact is not there.
    """
    folder = class_folder(registry, asset_class)
    entries = read_chain(folder, read_key(registry)) if folder.is_dir() else []
    entry = champion_entry(entries, asset_class)
    cards = _scorecards(artifacts / "scorecard")
    scorecard = _card_of(entry, cards)
    card = json.loads((scorecard.path / "scorecard.json").read_text())
    if card["asset_class"] != asset_class:
        raise ArtifactError(f"{scorecard.path}: expected a scorecard of {asset_class}, found {card['asset_class']}; promote again")
    trace = _named(artifacts / "simulator_trace", _link(card, "input.simulator_trace", scorecard.path))
    parts = {name: _named(artifacts / store, _link(trace.manifest, name, trace.path)) for name, store in _STORES.items()}
    return Champion(
        asset_class=asset_class,
        strategy=entry.decision.strategy,
        decision=entry.signature,
        scorecard=scorecard,
        trace=trace,
        supervised=parts["supervised"],
        policy=parts["policy"],
        windows=_newest_windows(entries, cards, artifacts) or parts["windows"],
    )


def _newest_windows(entries: list[Entry], cards: Mapping[str, Path], artifacts: Path) -> Artifact | None:
    """Windows of the decision whose locked window ends last, promoted or not; None where its artifacts are gone."""
    found: list[tuple[str, int, str]] = []
    for place, entry in enumerate(entries):
        path = cards.get(entry.decision.evidence.get("challenger_sha256", ""))
        if path is not None:
            card = json.loads(path.read_text())
            found.append((str(card["span"]["end"]), place, str(card.get("lineage", {}).get("input.simulator_trace", ""))))
    for _, _, trace in sorted(found, reverse=True):
        try:
            manifest = _named(artifacts / "simulator_trace", trace).manifest
            return _named(artifacts / "windows", _link(manifest, "windows", artifacts))
        except ArtifactError:
            continue  # cleared away: the next newest, and at last the champion's own
    return None


def _scorecards(store: Path) -> dict[str, Path]:
    """Scorecards by the sha256 that decisions sign; one that cannot be read has none, and harms no other."""
    found = {}
    for path in sorted(store.glob("*/scorecard.json")):
        with suppress(OSError, ValueError, RecursionError):
            found[sha256_bytes(canonical_json(json.loads(path.read_text())))] = path
    return found


def scorecard_of(entry: Entry, artifacts: Path) -> Artifact:
    """The scorecard that a decision signed.

    Raises  ArtifactError when it is not among the artifacts.
    """
    return _card_of(entry, _scorecards(artifacts / "scorecard"))


def _card_of(entry: Entry, cards: Mapping[str, Path]) -> Artifact:
    sha256 = entry.decision.evidence.get("challenger_sha256", "")
    if sha256 not in cards:
        raise ArtifactError(f"champion: no scorecard with the signed sha256 {sha256[:_SHORT]} among {len(cards)}; materialise it again")
    return open_artifact(cards[sha256].parent)


def _link(holder: Mapping[str, Any], name: str, where: Path) -> str:
    found = holder.get("lineage", {}).get(name)
    if not isinstance(found, str) or len(found) < _SHORT:
        raise ArtifactError(f"{where}: its lineage names no {name.removeprefix('input.')}; run the partition again")
    return found


def _named(store: Path, sha256: str) -> Artifact:
    """The artifact of a store whose sha256 begins so, its files verified."""
    for manifest in sorted(store.glob("*/manifest.json")):
        if len(sha256) >= _SHORT and sha256_file(manifest).startswith(sha256):
            return open_artifact(manifest.parent)
    raise ArtifactError(f"{store}: no artifact with sha256 {sha256[:_SHORT]}; materialise {store.name} of the champion's partition again")
