"""Two homes, one dump, config and seed: the same bytes, whatever the hash seed of the process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
STORES = ("lake", "snapshots", "artifacts")
SIGNED = ("artifacts/champion/*/decision.json", "artifacts/champion/*/manifest.json", "lake/champion/*/*.json")
"""A decision is signed with the key of its home, and what names the signed file by its hash differs with it."""
MADE = {
    "lake": ("bars", "features", "regimes", "targets", "cross_asset_view"),
    "artifacts": ("windows", "pretrained_checkpoint", "supervised_checkpoint", "policy_checkpoint", "forecasts", "simulator_trace"),
}


def run_in(home: Path, dump: Path, hash_seed: int) -> dict[str, bytes]:
    """Every stored file of a home by its place, after one run of the console script in a process of its own."""
    env = {**os.environ, "PLUSULTRA_HOME": str(home), "PYTHONHASHSEED": str(hash_seed)}
    arguments = ["run", str(dump), "--asset-class", "equity", "--profile", "smoke"]
    done = subprocess.run(
        [sys.executable, "-m", "plusultra_dagster.cli", *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    files = [path for store in STORES for path in (home / "data" / store).rglob("*") if path.is_file()]
    return {path.relative_to(home / "data").as_posix(): path.read_bytes() for path in files}


def test_two_homes_hold_the_same_bytes(tiny_dump: Path, tmp_path: Path) -> None:
    one, two = (run_in(tmp_path / name, tiny_dump, hash_seed) for name, hash_seed in (("one", 1), ("two", 2)))
    assert sorted(one) == sorted(two)
    for store, names in MADE.items():
        for name in names:
            assert any(place.startswith(f"{store}/{name}/") for place in one), f"{name} was not made"
    signed = {path.relative_to(tmp_path / "one" / "data").as_posix() for some in SIGNED for path in (tmp_path / "one" / "data").glob(some)}
    assert {place for place, content in one.items() if two[place] != content} <= signed
