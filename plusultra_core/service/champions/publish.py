"""The champion of a class -> a served directory: the strategy that the signed decision names, with the configs it was judged under."""

from pathlib import Path

from plusultra_core import config
from plusultra_core.artifacts import MANIFEST, Artifact, open_artifact, write_atomic
from plusultra_core.errors import ArtifactError
from plusultra_core.evaluation.registry.chain import DECISIONS, class_folder, read_chain, read_key
from plusultra_core.evaluation.registry.champions import Champion, find_champion
from plusultra_core.service.champions.accounts import MEAN_VARIANCE
from plusultra_core.service.desk import SIZED, DeskSettings, publish_desk
from plusultra_core.service.state import BUNDLE, PANEL, POLICY, ServiceState

_FORECASTS = "hybrid"
"""Model whose forecasts stand beside the targets of a champion that is no sizing of another."""
_MAX_PAUSE = 64


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
    panel = champion.windows if windows is None else open_artifact(windows)
    served = publish_desk(bundle, panel.path, settings, store, policy, champion.strategy, champion.lineage())
    _check_copies(served, champion, bundle, panel)
    return served


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
    """Keeps a pointer at the champion: looks at the chain of decisions, publishes when it has changed, says why when it cannot.

    A chain that is cut short, or that stood there before, verifies. So the newest decision that was ever followed is kept in the store, and
    a chain without it is refused. What was refused is tried again after 1, 2, 4, ... 64 looks: what it lacked may have come back.
    """

    def __init__(self, registry: Path, artifacts: Path, asset_class: str, store: Path) -> None:
        self._registry, self._artifacts, self._class, self._store = registry, artifacts, asset_class, store
        self._folder = class_folder(registry, asset_class)
        self._seen: bytes | None = None
        self._looks_left, self._pause = 0, 1

    def look(self, state: ServiceState) -> bool | None:
        """None when nothing was decided since the last look, else whether the champion is served now."""
        try:
            content = (self._folder / DECISIONS).read_bytes()
        except OSError:
            content = b""  # what is wrong with it is said when it is read to be verified
        if content == self._seen:
            self._looks_left -= 1
            if self._looks_left != 0:
                return None
        else:
            self._seen, self._pause = content, 1
        taken = state.take(self._publish)
        self._looks_left = -1 if taken else self._pause
        self._pause = min(2 * self._pause, _MAX_PAUSE)
        return taken

    def _publish(self) -> Artifact:
        head = self._store / f"{self._class}.head"
        before = head.read_text() if head.exists() else ""
        entries = read_chain(self._folder, read_key(self._registry)) if self._folder.is_dir() else []
        if before and before not in [entry.signature for entry in entries]:
            told = f"{self._folder / DECISIONS}: the decision {before[:16]} was followed and stands there no more"
            raise ArtifactError(f"{told}; restore the chain, or remove {head} to follow an older one")
        if entries:
            write_atomic(head, entries[-1].signature.encode())
        return publish_champion(self._registry, self._artifacts, self._class, self._store)


def _check_copies(served: Artifact, champion: Champion, bundle: Path, panel: Artifact) -> None:
    """Raises  ArtifactError where a served file is not the one that was verified: swapped while it was copied, or put there before."""
    prefix = f"{bundle.relative_to(champion.supervised.path).as_posix()}/"
    files = champion.supervised.manifest["files"].items()
    wanted = {f"{BUNDLE}/{name.removeprefix(prefix)}": told["sha256"] for name, told in files if name.startswith(prefix)}
    parts = [(PANEL, panel), *([(POLICY, champion.policy)] if champion.strategy == POLICY else [])]
    for part, artifact in parts:
        wanted |= {
            f"{part}/{name}": told["sha256"] for name, told in artifact.manifest["files"].items() if part == PANEL or "/" not in name
        }
        wanted[f"{part}/{MANIFEST}"] = artifact.sha256
    found = {name: told["sha256"] for name, told in served.manifest["files"].items()}
    for name in sorted(set(found) | set(wanted)):
        if found.get(name) != wanted.get(name):
            raise ArtifactError(f"{served.path}/{name}: not the file that the decision rests on; remove {served.path} and look again")


def _last_fold(champion: Champion) -> int:
    """Fold of the locked window of the champion's own trace."""
    folds = champion.supervised.manifest["files"]
    return max(int(name.split("/", 1)[0].removeprefix("fold_")) for name in folds if name.startswith("fold_"))
