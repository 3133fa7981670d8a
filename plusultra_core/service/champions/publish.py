"""The champion of a class -> a served directory: the strategy that the signed decision names, with the configs it was judged under."""

from pathlib import Path

from plusultra_core import config
from plusultra_core.artifacts import Artifact
from plusultra_core.errors import ArtifactError
from plusultra_core.evaluation.registry.chain import DECISIONS
from plusultra_core.evaluation.registry.champions import Champion, find_champion
from plusultra_core.service.champions.accounts import MEAN_VARIANCE
from plusultra_core.service.desk import SIZED, DeskSettings, publish_desk
from plusultra_core.service.state import POLICY, ServiceState

_FORECASTS = "hybrid"
"""Model whose forecasts stand beside the targets of a champion that is no sizing of another."""


def publish_champion(registry: Path, artifacts: Path, asset_class: str, store: Path, windows: Path | None = None) -> Artifact:
    """Verify the decision and publish what it names, its forecasts by the newest fit; `windows` names other bars to serve.

    Raises  ContractError without a champion; ArtifactError when a link does not verify or the service would refuse the directory.
    """
    champion = find_champion(registry, artifacts, asset_class)
    settings = settings_of(champion)
    bundle = champion.supervised.path / f"fold_{_last_fold(champion)}" / model_of(champion.strategy)
    if not bundle.is_dir():
        raise ArtifactError(f"{bundle}: the champion {champion.strategy!r} has no such model; run the partition again and promote it")
    policy = champion.policy.path if champion.strategy == POLICY else None
    panel = champion.windows.path if windows is None else windows
    return publish_desk(bundle, panel, settings, store, policy, champion.strategy, champion.lineage())


def model_of(strategy: str) -> str:
    """Model of the supervised artifact whose forecasts are served with a strategy.

    Raises  ArtifactError for a strategy without one.
    """
    if strategy.startswith(f"{SIZED}_"):
        return strategy.removeprefix(f"{SIZED}_")
    if strategy in (POLICY, MEAN_VARIANCE):
        return _FORECASTS
    raise ArtifactError(f"champion: expected a strategy sized_*, {MEAN_VARIANCE} or {POLICY}, found {strategy!r}; a baseline is not served")


def settings_of(champion: Champion) -> DeskSettings:
    """The configs of the champion's trace: market, simulation, guardrails and inference as it was judged under.

    Raises  ConfigError when they are of another version.
    """
    raw = champion.trace.manifest.get("config", {})
    names = ("market", "simulation", "guardrails", "inference")
    return config.parse(DeskSettings, {name: raw.get(name) for name in names}, f"{champion.trace.path}: config")


class Follower:
    """Keeps a pointer at the champion: looks at the chain of decisions, publishes when it has changed, says why when it cannot."""

    def __init__(self, registry: Path, artifacts: Path, asset_class: str, store: Path) -> None:
        self._chain = registry / asset_class / DECISIONS
        self._publish = lambda: publish_champion(registry, artifacts, asset_class, store)
        self._seen: bytes | None = None

    def look(self, state: ServiceState) -> bool | None:
        """None when nothing was decided since the last look, else whether the champion is served now."""
        content = self._chain.read_bytes() if self._chain.exists() else b""
        if content == self._seen:
            return None
        self._seen = content
        return state.take(self._publish)


def _last_fold(champion: Champion) -> int:
    """Fold of the locked window of the champion's own trace."""
    folds = champion.supervised.manifest["files"]
    return max(int(name.split("/", 1)[0].removeprefix("fold_")) for name in folds if name.startswith("fold_"))
