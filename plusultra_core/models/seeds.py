"""The other trainings of a policy, beside the one that is served: `seeds/seeds.json`, and `seeds/<seed>/`, a bundle each.

The root of a policy's directory stays the bundle that is served. A seed's bundle holds its actor and critic alone: forecaster,
scaler and whatever else a policy needs are the root's, and are refused where they are said otherwise.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from plusultra_core import config
from plusultra_core.artifacts import canonical_json, write_atomic
from plusultra_core.errors import ArtifactError, ConfigError
from plusultra_core.models.bundle import HEADER, WEIGHTS, Bundle, load_bundle, save_bundle
from plusultra_core.models.policy import ACTOR

FOLDER, INDEX, SCHEMA = "seeds", "seeds.json", 1
MOST_SEEDS = 64
INDEX_BYTES = 1 << 16
_OWN = "reward_scale"
"""What of a bundle's config is of the training and not of the policy's kind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedRecord:
    """What is to be known of one training before it is judged."""

    seed: int
    valid_reward: float
    """Of the kept update, on the validation span: what the served seed was chosen by."""
    update: int
    """The one that was kept."""
    is_flat: bool
    """Whether that is the policy that never trades."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1 << 63 or self.update < 0 or not math.isfinite(self.valid_reward):
            raise ConfigError(f"expected a seed and an update >= 0 and a finite valid_reward, found {self.seed}, {self.update}, "
                              f"{self.valid_reward}")  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Seeds:
    """All trainings of a policy in the order in which they were run, the served one among them."""

    schema: int
    served: int
    seeds: tuple[SeedRecord, ...]

    def __post_init__(self) -> None:
        names = [record.seed for record in self.seeds]
        if self.schema != SCHEMA:
            raise ConfigError(f"expected schema {SCHEMA}, found {self.schema}")
        if not 1 <= len(names) <= MOST_SEEDS:
            raise ConfigError(f"expected 1 to {MOST_SEEDS} seeds, found {len(names)}")
        if len(set(names)) != len(names):
            raise ConfigError(f"seed {next(name for name in names if names.count(name) > 1)} stands twice")
        if self.served not in names:
            raise ConfigError(f"the served seed {self.served} is none of {names}")

    @property
    def others(self) -> tuple[int, ...]:
        """Seeds that are not served."""
        return tuple(record.seed for record in self.seeds if record.seed != self.served)


def save_seeds(directory: Path, seeds: Seeds, bundles: Mapping[int, Bundle]) -> None:
    """Write the index and the bundles of all seeds that are not served beside the root's; equal ones give equal bytes.

    Raises  ArtifactError when bundles and index name other seeds.
    """
    if sorted(bundles) != sorted(seeds.others):
        raise ArtifactError(f"{directory / FOLDER}: expected bundles of the seeds {sorted(seeds.others)}, found {sorted(bundles)}")
    for seed, bundle in bundles.items():
        own = {name: tensor for name, tensor in bundle.tensors.items() if name.startswith(ACTOR)}
        save_bundle(directory / FOLDER / str(seed), replace(bundle, tensors=own))
    write_atomic(directory / FOLDER / INDEX, canonical_json(config.to_dict(seeds)))


def open_seeds(directory: Path) -> Seeds | None:
    """The trainings of a policy's directory; None where it has no folder `seeds`, as of a policy that was made before there were any.

    Raises  ArtifactError for anything in the folder that the index does not name, or names otherwise than the house writes it: another
    schema, a seed that stands twice or has no folder, more than MOST_SEEDS, a link, a file that is none of a bundle's.
    """
    folder = directory / FOLDER
    if not folder.is_symlink() and not folder.exists():
        return None
    entries = _entries(folder)
    if INDEX not in entries:
        raise ArtifactError(f"{folder}: expected {INDEX}, found none; train the policy again")
    seeds = _read_index(folder / INDEX)
    found, expected = sorted(set(entries) - {INDEX}), sorted(map(str, seeds.others))
    if found != expected:
        raise ArtifactError(f"{folder}: expected the folders {expected}, found {[name[:40] for name in found]}; train the policy again")
    for name in found:
        if sorted(_entries(folder / name)) != sorted((HEADER, WEIGHTS)):
            raise ArtifactError(f"{folder / name}: expected {HEADER} and {WEIGHTS} alone; train the policy again")
    return seeds


def load_seed(directory: Path, seed: int, root: Bundle) -> Bundle:
    """The bundle of a seed that is not served, whole: its own actor and critic, all else the root's.

    Raises  ArtifactError when it holds other tensors, or says of anything but its own training what the root does not say.
    """
    where = directory / FOLDER / str(seed)
    own = load_bundle(where)
    if foreign := sorted(name for name in own.tensors if not name.startswith(ACTOR)):
        raise ArtifactError(f"{where}: expected tensors of {ACTOR}* alone, found {foreign[0][:80]}; train the policy again")
    expected = replace(root, tensors=own.tensors, config={**root.config, _OWN: own.config.get(_OWN)})
    if differs := [name for name in Bundle.__slots__ if name != "tensors" and getattr(own, name) != getattr(expected, name)]:
        raise ArtifactError(f"{where}: {differs[0]} is not that of the served policy; train the policy again")
    shared = {name: tensor for name, tensor in root.tensors.items() if not name.startswith(ACTOR)}
    return replace(own, tensors={**shared, **own.tensors})


def _read_index(path: Path) -> Seeds:
    try:
        size = path.stat().st_size
        if size > INDEX_BYTES:
            raise ArtifactError(f"{path}: expected at most {INDEX_BYTES} bytes, found {size}; train the policy again")
        return config.parse(Seeds, json.loads(path.read_bytes()), str(path))
    except (OSError, ValueError, RecursionError, OverflowError) as error:
        raise ArtifactError(f"{path}: cannot be read ({str(error)[:200]}); train the policy again") from error
    except ConfigError as error:
        raise ArtifactError(f"{str(error)[:400]}; train the policy again") from error


def _entries(folder: Path) -> list[str]:
    """Names in a folder that is a folder, of files that are files and folders that are folders.

    Raises  ArtifactError for a link, and for more than a policy may have: the rest is not read.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise ArtifactError(f"{folder}: expected a folder, found a link or a file; train the policy again")
    names: list[str] = []
    with os.scandir(folder) as found:
        for entry in found:
            if entry.is_symlink() or not (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)):
                raise ArtifactError(f"{folder / entry.name}: expected a file or a folder, found a link; train the policy again")
            if len(names) > MOST_SEEDS:
                raise ArtifactError(f"{folder}: expected at most {MOST_SEEDS} seeds, found more; train the policy again")
            names.append(entry.name)
    return names
