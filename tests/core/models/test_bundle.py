"""One bundle format: what was saved comes back, and nothing else does."""

import dataclasses
import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from plusultra_core import config
from plusultra_core.errors import ArtifactError
from plusultra_core.models.bundle import HEADER, WEIGHTS, Bundle, Scaler, load_bundle, load_forecaster, save_bundle
from plusultra_core.models.forecaster import ForecasterConfig, InputShape, build_forecaster
from plusultra_core.models.hybrid import HybridConfig

SHAPE = InputShape(num_features=3, lookback=8, num_states=(4,), num_horizons=2)
CFG = ForecasterConfig(
    kind="hybrid",
    hybrid=HybridConfig(
        width=8, num_blocks=1, num_heads=2, feedforward_factor=2, patch_bars=2, kernel_bars=2, dilations=(1,), ssm_states=2,
        state_embedding=True, dropout=0.1,
    ),
    linear=None,
    quantile_levels=(0.1, 0.5, 0.9),
    num_classes=3,
)  # fmt: skip


def make_bundle(prefix: str = "", kind: str = "supervised") -> Bundle:
    model = build_forecaster(CFG, SHAPE, 3)
    return Bundle(
        kind=kind,
        config={"forecaster": config.to_dict(CFG)},
        shape=SHAPE,
        features=("a", "b", "c"),
        tokens=("volatility_state",),
        symbols=("AAPL", "x'; DROP TABLE series;--"),
        horizons=(1, 5),
        scaler=Scaler(center=(0.0, 1.0, -1.0), scale=(1.0, 2.0, 0.5), clip=5.0),
        temperature=(1.0, 1.25),
        lineage={"windows": "ab" * 32},
        tensors={prefix + name: tensor for name, tensor in model.state_dict().items()},
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_bundle(tmp_path / "bundle", make_bundle())
    return tmp_path / "bundle"


def _edit(path: Path, **change: object) -> None:
    header = json.loads((path / HEADER).read_text())
    header.update(change)
    (path / HEADER).write_text(json.dumps(header))


def test_a_bundle_comes_back_as_it_was(path: Path) -> None:
    saved, loaded = make_bundle(), load_bundle(path)
    for field in dataclasses.fields(Bundle):
        if field.name != "tensors":
            assert getattr(loaded, field.name) == getattr(saved, field.name), field.name
    assert set(loaded.tensors) == set(saved.tensors)
    assert all(torch.equal(loaded.tensors[name], saved.tensors[name]) for name in saved.tensors)


def test_equal_bundles_have_equal_bytes(path: Path, tmp_path: Path) -> None:
    save_bundle(tmp_path / "again", make_bundle())
    for name in (WEIGHTS, HEADER):
        assert (path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_fresh_process_forecasts_bit_for_bit_the_same(path: Path, tmp_path: Path) -> None:
    x = torch.randn(5, 8, 3, generator=torch.Generator().manual_seed(1))
    np.save(tmp_path / "x.npy", x.numpy())
    script = (
        "import sys, numpy as np, torch; from pathlib import Path; torch.set_num_threads(1)\n"
        "from plusultra_core.models.bundle import load_bundle, load_forecaster\n"
        "model = load_forecaster(load_bundle(Path(sys.argv[1]))); x = torch.from_numpy(np.load(sys.argv[2]))\n"
        "out = model(x, torch.ones(5, 8, 1, dtype=torch.int64), torch.ones(5, 8, dtype=torch.bool))\n"
        "np.save(sys.argv[3], out.quantiles_BKQ.detach().numpy())\n"
        "assert not {'lightning', 'polars', 'mlflow', 'dagster'} & set(sys.modules)\n"
    )
    arguments = [str(path), str(tmp_path / "x.npy"), str(tmp_path / "q.npy")]
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, timeout=120)
    model = build_forecaster(CFG, SHAPE, 3).eval()
    expected = model(x, torch.ones(5, 8, 1, dtype=torch.int64), torch.ones(5, 8, dtype=torch.bool)).quantiles_BKQ.detach().numpy()
    assert np.array_equal(np.load(tmp_path / "q.npy"), expected)


def test_a_policy_bundle_carries_its_forecaster_under_a_prefix(tmp_path: Path) -> None:
    bundle = make_bundle("forecaster.", "policy")
    extra = dataclasses.replace(bundle, tensors={**bundle.tensors, "actor.weight": torch.ones(2, 2)})
    save_bundle(tmp_path, extra)
    model = load_forecaster(load_bundle(tmp_path), "forecaster.")
    assert not model.training
    assert torch.equal(model.state_dict()["backbone.embed.weight"], bundle.tensors["forecaster.backbone.embed.weight"])
    with pytest.raises(ArtifactError, match=r"tensor actor\.weight: the config asks for None"):
        load_forecaster(load_bundle(tmp_path))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(path: Path, value: float) -> None:
    from safetensors.torch import load_file, save_file

    bundle = make_bundle()
    bundle.tensors["quantile_head.project.bias"][0] = value
    with pytest.raises(ArtifactError, match=r"quantile_head\.project\.bias: expected finite weights"):
        save_bundle(path, bundle)
    tensors = load_file(path / WEIGHTS)
    tensors["quantile_head.project.bias"][0] = value
    save_file(tensors, path / WEIGHTS)
    with pytest.raises(ArtifactError, match="expected finite weights"):
        load_bundle(path, verify=False)


def test_missing_extra_and_reshaped_tensors_are_refused(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(path / WEIGHTS)
    name = "direction_head.project.bias"
    for changed in (
        {key: value for key, value in tensors.items() if key != name},
        {**tensors, name: tensors[name][:-1].clone()},
        {**tensors, name: tensors[name].double()},
        {**tensors, "stowaway": torch.ones(1)},
    ):
        save_file(changed, path / WEIGHTS)
        with pytest.raises(ArtifactError, match=r"tensor (direction_head\.project\.bias|stowaway): expected"):
            load_bundle(path, verify=False)


def test_changed_weights_are_refused_by_their_hash(path: Path) -> None:
    content = bytearray((path / WEIGHTS).read_bytes())
    content[-3] ^= 1
    (path / WEIGHTS).write_bytes(content)
    with pytest.raises(ArtifactError, match="sha256 is not the one"):
        load_bundle(path)


def test_another_schema_is_refused_and_not_patched(path: Path) -> None:
    _edit(path, schema=0)
    with pytest.raises(ArtifactError, match="expected schema 1, found 0"):
        load_bundle(path)


def test_unknown_keys_and_parts_that_do_not_fit_are_refused(path: Path) -> None:
    _edit(path, temperature=[1.0])
    with pytest.raises(ArtifactError, match="temperature does not fit"):
        load_bundle(path)
    _edit(path, temperature=[1.0, 1.0], features=["a", "b"])
    with pytest.raises(ArtifactError, match="features does not fit"):
        load_bundle(path)
    _edit(path, features=["a", "b", "c"], surprise=1)
    with pytest.raises(ArtifactError, match="surprise"):
        load_bundle(path)


def test_garbage_and_nothing_are_refused(path: Path, tmp_path: Path) -> None:
    (path / WEIGHTS).write_bytes(b"\xff" * 64)
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_bundle(path)
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_bundle(tmp_path / "nowhere")


def test_a_config_of_another_model_is_refused(path: Path) -> None:
    header = json.loads((path / HEADER).read_text())
    header["config"]["forecaster"]["hybrid"]["width"] = 16
    (path / HEADER).write_text(json.dumps(header))
    with pytest.raises(ArtifactError, match="the config asks for"):
        load_forecaster(load_bundle(path))


@pytest.mark.parametrize("width", [1 << 22, 1 << 34])
def test_a_config_that_asks_for_more_than_fits_is_refused_before_it_takes_any(path: Path, width: int) -> None:
    bundle = load_bundle(path)
    forecaster = {**bundle.config["forecaster"], "hybrid": {**bundle.config["forecaster"]["hybrid"], "width": width}}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ArtifactError, match=r"the config asks for|may hold"):
        load_forecaster(replace(bundle, config={**bundle.config, "forecaster": forecaster}))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "kilobytes"
