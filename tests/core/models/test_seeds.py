"""The seeds beside a policy: what is written is read, and what somebody else has put there is refused in one sentence."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from plusultra_core.errors import ArtifactError, ConfigError
from plusultra_core.models.bundle import Bundle, Scaler, load_bundle, save_bundle
from plusultra_core.models.forecaster import InputShape
from plusultra_core.models.seeds import MOST_SEEDS, SCHEMA, SeedRecord, Seeds, load_seed, open_seeds, save_seeds


def bundle(seed: int, **changes: Any) -> Bundle:
    """As a training writes it, with weights of its own in the actor and others in the forecaster."""
    made = Bundle(
        kind="policy",
        config={"policy": {"kind": "mlp"}, "limit": 0.25, "reward_scale": 1.0 + seed},
        shape=InputShape(num_features=2, lookback=4, num_states=(), num_horizons=1),
        features=("a", "b"),
        tokens=(),
        symbols=("AAA", "BBB"),
        horizons=(1,),
        scaler=Scaler(center=(0.0, 0.0), scale=(1.0, 1.0), clip=5.0),
        temperature=(1.0,),
        lineage={"windows": "w"},
        tensors={"forecaster.head": torch.arange(6.0), "policy.actor": torch.full((3,), float(seed))},
    )
    return replace(made, **changes)


def record(seed: int, valid_reward: float = 0.01) -> SeedRecord:
    return SeedRecord(seed=seed, valid_reward=valid_reward, update=10, is_flat=False)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """Three trainings, of which seed 8 is served."""
    directory = tmp_path / "policy"
    save_bundle(directory, bundle(8))
    save_seeds(directory, Seeds(schema=SCHEMA, served=8, seeds=(record(7), record(8, 0.02), record(9))), {7: bundle(7), 9: bundle(9)})
    return directory


def test_seeds_are_read_back_as_they_were_written(policy: Path) -> None:
    found = open_seeds(policy)
    assert found is not None and found.served == 8 and found.others == (7, 9)
    assert found.seeds == (record(7), record(8, 0.02), record(9))
    root = load_bundle(policy)
    for seed in found.others:
        read, made = load_seed(policy, seed, root), bundle(seed)
        assert replace(read, tensors={}) == replace(made, tensors={})
        assert set(read.tensors) == set(made.tensors)
        assert all(torch.equal(tensor, made.tensors[name]) for name, tensor in read.tensors.items())


def test_the_forecaster_is_kept_once(policy: Path) -> None:
    assert set(load_bundle(policy / "seeds" / "7").tensors) == {"policy.actor"}


def test_equal_seeds_give_equal_bytes(policy: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    save_seeds(again, Seeds(schema=SCHEMA, served=8, seeds=(record(7), record(8, 0.02), record(9))), {9: bundle(9), 7: bundle(7)})
    for path in sorted(again.rglob("*.*")):
        assert path.read_bytes() == (policy / path.relative_to(again)).read_bytes()


def test_a_policy_without_seeds_is_read_as_before(policy: Path) -> None:
    shutil.rmtree(policy / "seeds")
    assert open_seeds(policy) is None
    assert load_bundle(policy).config["limit"] == 0.25


def test_one_training_alone_has_an_index_and_no_folder(tmp_path: Path) -> None:
    save_seeds(tmp_path, Seeds(schema=SCHEMA, served=7, seeds=(record(7),)), {})
    found = open_seeds(tmp_path)
    assert found is not None and found.others == ()


def rewrite(policy: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = policy / "seeds" / "seeds.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


def entry(seed: object) -> dict[str, object]:
    return {"seed": seed, "valid_reward": 0.1, "update": 0, "is_flat": False}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda index: index.update(schema=2), "expected schema 1, found 2"),
        (lambda index: index.update(served=5), "served seed 5 is none of"),
        (lambda index: index["seeds"].append(entry(9)), "seed 9 stands twice"),
        (lambda index: index["seeds"].append(entry(10)), "expected the folders"),
        (lambda index: index["seeds"].append(entry("../../x")), "expected int"),
        (lambda index: index["seeds"].append(entry(-1)), "expected a seed"),
        (lambda index: index["seeds"].append(entry(True)), "expected int"),
        (lambda index: index["seeds"].append(entry(1 << 63)), "expected a seed"),
        (lambda index: index["seeds"][0].update(valid_reward=float("nan")), "finite"),
        (lambda index: index["seeds"][0].update(path="/etc/passwd"), "unknown key"),
        (lambda index: index["seeds"].extend(entry(100 + n) for n in range(MOST_SEEDS)), f"1 to {MOST_SEEDS} seeds"),
        (lambda index: index["seeds"].extend(entry(100 + n) for n in range(10_000)), "at most 65536 bytes"),
        (lambda index: index.update(seeds=[]), "found 0"),
        (lambda index: index.update(seeds={"7": 1}), "expected a list"),
        (lambda index: index.pop("served"), "missing key"),
    ],
)
def test_an_index_that_is_not_the_houses_is_refused(policy: Path, change: Callable[[dict[str, Any]], None], words: str) -> None:
    rewrite(policy, change)
    with pytest.raises(ArtifactError, match=words) as error:
        open_seeds(policy)
    assert len(str(error.value)) < 800 and str(error.value).endswith("train the policy again")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"[" * 50_000, b"\xff\xfe", b"null"])
def test_an_index_that_cannot_be_read_is_refused(policy: Path, content: bytes) -> None:
    (policy / "seeds" / "seeds.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"seeds\.json"):
        open_seeds(policy)


def test_links_are_refused_wherever_they_are(policy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(policy / "seeds", other)

    def put(place: Path, target: Path) -> None:
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        place.symlink_to(target)

    for name in ("seeds", "seeds/9", "seeds/seeds.json", "seeds/9/model.safetensors"):
        copied = tmp_path / name.replace("/", "_")
        shutil.copytree(policy, copied)
        put(copied / name, other / Path(name).relative_to("seeds"))
        with pytest.raises(ArtifactError, match="found a link"):
            open_seeds(copied)
    dangling = tmp_path / "dangling"
    shutil.copytree(policy, dangling)
    put(dangling / "seeds", tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match="found a link"):
        open_seeds(dangling)


def test_folders_and_files_that_the_index_does_not_name_are_refused(policy: Path) -> None:
    for name, words in (("07", "expected the folders"), ("8", "expected the folders"), ("9/x", "alone"), (" 9", "expected the folders")):
        (policy / "seeds" / name).mkdir()
        with pytest.raises(ArtifactError, match=words):
            open_seeds(policy)
        (policy / "seeds" / name).rmdir()
    (policy / "seeds" / "9" / "evil.pkl").write_bytes(b"x")
    with pytest.raises(ArtifactError, match="alone"):
        open_seeds(policy)


def test_ten_thousand_folders_are_refused_before_they_are_listed(policy: Path) -> None:
    for n in range(10_000):
        (policy / "seeds" / str(100 + n)).mkdir()
    with pytest.raises(ArtifactError, match=f"at most {MOST_SEEDS} seeds, found more"):
        open_seeds(policy)


def test_a_file_in_place_of_the_folder_and_a_folder_without_index_are_refused(policy: Path) -> None:
    (policy / "seeds" / "seeds.json").unlink()
    with pytest.raises(ArtifactError, match=r"expected seeds\.json, found none"):
        open_seeds(policy)
    shutil.rmtree(policy / "seeds")
    (policy / "seeds").write_text("x")
    with pytest.raises(ArtifactError, match="expected a folder"):
        open_seeds(policy)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"symbols": ("AAA", "CCC")}, "symbols is not that"),
        ({"config": {"policy": {"kind": "mlp"}, "limit": 9.0, "reward_scale": 1.0}}, "config is not that"),
        ({"lineage": {"windows": "other"}}, "lineage is not that"),
        ({"kind": "supervised"}, "kind is not that"),
        ({"scaler": Scaler(center=(0.0, 0.0), scale=(2.0, 1.0), clip=5.0)}, "scaler is not that"),
    ],
)
def test_a_seed_of_another_policy_is_refused(policy: Path, changes: dict[str, Any], words: str) -> None:
    own = bundle(9)
    save_bundle(policy / "seeds" / "9", replace(own, tensors={"policy.actor": own.tensors["policy.actor"]}, **changes))
    with pytest.raises(ArtifactError, match=words):
        load_seed(policy, 9, load_bundle(policy))


def test_a_seed_may_not_bring_a_forecaster_of_its_own(policy: Path) -> None:
    save_bundle(policy / "seeds" / "9", bundle(9))
    with pytest.raises(ArtifactError, match=r"found forecaster\.head"):
        load_seed(policy, 9, load_bundle(policy))


def test_bundles_and_index_must_name_the_same_seeds(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"expected bundles of the seeds \[9\]"):
        save_seeds(tmp_path, Seeds(schema=SCHEMA, served=8, seeds=(record(8), record(9))), {})
    with pytest.raises(ConfigError, match="stands twice"):
        Seeds(schema=SCHEMA, served=8, seeds=(record(8), record(8)))
