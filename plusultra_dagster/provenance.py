"""What a materialisation depends on, as one digest: the code, the configs, the versions of what it read.

An asset states its recipe once, in its definition's metadata. The body of the asset digests it into
`plusultra/provenance`; the planner of `plusultra run` does the same sum beforehand and leaves out what
would come out equal.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
from dagster._core.definitions.data_version import extract_data_version_from_entry
from dagster._core.event_api import PartitionKeyFilter

from plusultra_core import config as core_config
from plusultra_dagster.config import Station, digest_of, markets
from plusultra_dagster.partitions import Partition
from plusultra_dagster.places import CHECKOUT

PROVENANCE = "plusultra/provenance"
RECIPE = "plusultra/recipe"
_CORE = CHECKOUT / "plusultra_core"
_IMPORT = re.compile(r"^[ \t]*from (plusultra_core[\w.]*) import (?:\(([^)]*)\)|([^\n(#]+))", re.MULTILINE)

# Blocking checks of each asset: what a trainer asks for before it reads, and what checks/ makes.
GATES: dict[str, tuple[str, ...]] = {
    "assets": ("contract",),
    "series": ("contract",),
    "indicators": ("contract",),
    "benchmarks": ("contract",),
    "trades": ("contract",),
    "side_tables": ("contract",),
    "corporate_actions": ("contract",),
    "exchange_rates": ("contract",),
    "bars": ("contract", "truncation", "poison"),
    "features": ("contract", "truncation", "poison"),
    "regimes": ("contract", "truncation", "poison"),
    "targets": ("contract", "truncation", "poison"),
    "cross_asset_view": ("contract", "truncation", "poison"),
    "windows": ("overlap",),
    "supervised_checkpoint": ("shuffled_null",),
}


class Latest(NamedTuple):
    """The newest materialisation of one partition."""

    version: str
    provenance: str
    run_id: str
    metadata: Mapping[str, Any]


@cache
def code_version(code: tuple[str, ...], module: str) -> str:
    """16 hex digits over core packages and their templates, every core module that they import, and the asset's own module."""
    files = {CHECKOUT / f"{name.replace('.', '/')}.py" for name in modules_of(code)} | {Path(module)}
    files |= {path for name in code for path in (_CORE / name).rglob("*.j2")}
    total = hashlib.sha256()
    for path in sorted(files):
        total.update(path.relative_to(CHECKOUT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()[:16]


def modules_of(code: tuple[str, ...]) -> frozenset[str]:
    """Modules of core packages and all that they import, directly or not, also inside functions."""
    found: set[str] = set()
    wanted = {".".join(path.relative_to(CHECKOUT).with_suffix("").parts) for name in code for path in (_CORE / name).rglob("*.py")}
    while wanted:
        found |= wanted
        wanted = {name for known in wanted for name in _imports(known)} - found
    return frozenset(found)


@cache
def _imports(module: str) -> frozenset[str]:
    """Core modules that a core module imports."""
    source = (CHECKOUT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    named: set[str] = set()
    for package, many, one in _IMPORT.findall(source):
        names = [part.split()[0] for part in (many or one).split(",") if part.strip()]
        named |= {package, *(f"{package}.{name}" for name in names)}
    return frozenset(name for name in named if (CHECKOUT / f"{name.replace('.', '/')}.py").is_file())


def recipe(module: str, code: tuple[str, ...], configs: tuple[str, ...], market: str) -> dict[str, Any]:
    """What the content of an asset depends on besides its inputs; JSON, shown in the UI."""
    return {"code": code_version(code, module), "configs": list(configs), "market": market}


def latest(instance: dg.DagsterInstance, asset: str, partition: str) -> Latest | None:
    """The newest materialisation of a partition, None where there is none."""
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[partition]), limit=1
    ).records
    if not records:
        return None
    event = records[0].asset_materialization
    if event is None:
        return None
    version = extract_data_version_from_entry(records[0].event_log_entry)
    metadata = {name: value.value for name, value in event.metadata.items()}
    return Latest(version.value if version else "", str(metadata.get(PROVENANCE, "")), records[0].run_id, metadata)


def inputs(instance: dg.DagsterInstance, asset: str, parents: Iterable[str], partition: Partition) -> dict[str, str]:
    """Data versions of every upstream partition, as `parent` or, for a view of several classes, `parent@class`."""
    found: dict[str, str] = {}
    for parent in sorted(parents):
        if parent == "dump":
            found[parent] = partition.snapshot
            continue
        for name, cell in _upstream(asset, parent, partition).items():
            record = latest(instance, parent, cell.key)
            if record is not None:
                found[name] = record.version
    return found


def digests(recipe: Mapping[str, Any], partition: Partition, config: Station | None = None) -> dict[str, str]:
    """Digest of each config the recipe names; `config` is the one a run may have laid overrides over."""
    own = Path(config.file).stem if config is not None else None
    found = {}
    for name in recipe["configs"]:
        station = config if config is not None and name == own else Station(file=f"{name}.yaml")
        found[name] = digest_of(station.read())
    known = markets() if recipe["market"] != "none" else {}
    if recipe["market"] == "own":
        found["market"] = core_config.digest(known[str(partition.asset_class)])
    elif recipe["market"] == "all":
        found["market"] = digest_of({name: core_config.digest(value) for name, value in known.items()})
    return found


def provenance(asset: str, recipe: Mapping[str, Any], configs: Mapping[str, str], versions: Mapping[str, str], partition: Partition) -> str:
    """16 hex digits: equal ones mean that the content would come out equal."""
    return digest_of({"asset": asset, "code": recipe["code"], "configs": configs, "inputs": versions, "partition": partition.key})


def unpassed(instance: dg.DagsterInstance, assets: Iterable[str], partition: str) -> list[str]:
    """Blocking checks of these assets that have not passed on this partition since it was last written, as `asset:check`."""
    keys = [dg.AssetCheckKey(dg.AssetKey(asset), name) for asset in assets for name in GATES.get(asset, ())]
    written = {key.asset_key: _written_at(instance, key.asset_key, partition) for key in keys}
    records = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys, partition_filter=PartitionKeyFilter(key=partition))
    passed = {
        key
        for key, record in records.items()
        if record.status.value == "SUCCEEDED" and record.event is not None and record.event.timestamp >= written[key.asset_key]
    }
    return sorted(f"{key.asset_key.to_user_string()}:{key.name}" for key in keys if key not in passed)


def _written_at(instance: dg.DagsterInstance, asset: dg.AssetKey, partition: str) -> float:
    records = instance.fetch_materializations(dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[partition]), limit=1).records
    return records[0].timestamp if records else float("inf")


def _upstream(asset: str, parent: str, partition: Partition) -> dict[str, Partition]:
    if parent == "snapshot":
        return {parent: Partition(partition.snapshot)}
    own = str(partition.asset_class)
    if asset != "cross_asset_view":
        return {parent: partition}
    classes = (own, *markets()[own].context_classes)
    return {f"{parent}@{name}": Partition(partition.snapshot, name) for name in classes}
