"""A config file is complete, exact and without YAML's surprises."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from plusultra_core import config
from plusultra_core.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    weight: float
    kind: Literal["pinball", "nll"]

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ConfigError(f"weight: expected >= 0, found {self.weight}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Station:
    name: str
    steps: int
    fast: bool
    rate: float
    limit: float | None
    levels: tuple[float, ...]
    span: tuple[int, str]
    losses: tuple[Loss, ...]
    by_name: dict[str, Loss]


TEXT = """\
name: demo
steps: 3
fast: true
rate: 1.0e-4
limit: null
levels: [0.05, 1]
span: [4, "d"]
losses:
  - {weight: 1, kind: pinball}
by_name:
  a: {weight: 0.5, kind: nll}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "station.yaml"
    path.write_text(TEXT)
    return path


def changed(path: Path, old: str, new: str) -> Path:
    assert old in TEXT
    path.write_text(TEXT.replace(old, new, 1))
    return path


def test_a_complete_file_becomes_its_dataclass(path: Path) -> None:
    assert config.load(Station, path) == Station(
        name="demo",
        steps=3,
        fast=True,
        rate=1e-4,
        limit=None,
        levels=(0.05, 1.0),
        span=(4, "d"),
        losses=(Loss(weight=1.0, kind="pinball"),),
        by_name={"a": Loss(weight=0.5, kind="nll")},
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps: 3", "steps: 3\nstep: 4", r"station\.yaml: unknown key 'step'; Station has \["),
        ("steps: 3\n", "", r"station\.yaml: missing key 'steps'; a config is complete"),
        ("steps: 3", "steps: 3.0", r"station\.yaml: steps: expected int, found 3\.0"),
        ("steps: 3", "steps: true", r"station\.yaml: steps: expected int, found True"),
        ("fast: true", "fast: 1", r"station\.yaml: fast: expected bool, found 1"),
        ("rate: 1.0e-4", "rate: true", r"station\.yaml: rate: expected float, found True"),
        ("rate: 1.0e-4", "rate: 1e-4", r"station\.yaml: rate: expected float, found '1e-4'; YAML reads 1e-4 as text, write 1\.0e-4"),
        ("rate: 1.0e-4", "rate: .nan", r"station\.yaml: rate: expected a finite number, found nan"),
        ("rate: 1.0e-4", "rate: -.inf", r"station\.yaml: rate: expected a finite number, found -inf"),
        ("name: demo", "name: no", r"station\.yaml: name: expected str, found False"),
        ("name: demo", "name: 2020-01-01", r"station\.yaml: name: expected str, found datetime\.date"),
        ("name: demo", "name: 12:30:00", r"station\.yaml: name: expected str, found 45000"),
        ("name: demo", "name:", r"station\.yaml: name: expected str, found None"),
        ("limit: null", "limit: none", r"station\.yaml: limit: expected float, found 'none'"),
        ("levels: [0.05, 1]", "levels: 0.05", r"station\.yaml: levels: expected a list, found 0\.05"),
        ("levels: [0.05, 1]", "levels: [0.05, x]", r"station\.yaml: levels\[1\]: expected float, found 'x'"),
        ('[4, "d"]', "[4]", r"station\.yaml: span: expected 2 values, found 1"),
        ("weight: 1,", "weigth: 1,", r"station\.yaml: losses\[0\]: unknown key 'weigth'"),
        ("kind: pinball", "kind: mse", r"station\.yaml: losses\[0\]\.kind: expected one of \['pinball', 'nll'\], found 'mse'"),
        ("weight: 1,", "weight: -1,", r"station\.yaml: losses\[0\]: weight: expected >= 0, found -1\.0"),
        ("weight: 0.5", "weight: x", r"station\.yaml: by_name\.a\.weight: expected float, found 'x'"),
        ("losses:\n  - {weight: 1, kind: pinball}", "losses: [3]", r"station\.yaml: losses\[0\]: expected a mapping for Loss, found 3"),
        ("by_name:\n  a: {weight: 0.5, kind: nll}", "by_name: [a]", r"station\.yaml: by_name: expected a mapping"),
        ("steps: 3", "steps: 3\nsteps: 4", r"station\.yaml:3: key 'steps' stands twice; keep one"),
        ("{weight: 1, kind: pinball}", "{weight: 1, kind: nll, kind: nll}", r"station\.yaml:9: key 'kind' stands twice"),
        ("steps: 3", "steps: 3\n4: x", r"station\.yaml:3: expected a text key, found 4; quote it"),
        ("steps: 3", "steps: 3\non: x", r"station\.yaml:3: expected a text key, found True; quote it"),
        ("name: demo", "name: &n demo\nother: *n", r"station\.yaml:2: aliases are not allowed"),
        ("steps: 3", "<<: {steps: 3}", r"station\.yaml"),
        ("steps: 3", "steps: [", r"station\.yaml: not YAML"),
        ("steps: 3", "steps: !!python/object:os.system x", r"station\.yaml: not YAML"),
        ("steps: 3", "steps: 3\n---\nname: x", r"station\.yaml: not YAML"),
    ],
)
def test_what_is_not_exact_is_refused_with_its_place(old: str, new: str, message: str, path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        config.load(Station, changed(path, old, new))


@pytest.mark.parametrize("content", ["", "- a\n", "text\n", "null\n"])
def test_a_file_that_is_no_mapping_is_refused(content: str, path: Path) -> None:
    path.write_text(content)
    with pytest.raises(ConfigError, match="expected a mapping"):
        config.load(Station, path)


def test_a_missing_or_unreadable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        config.read_yaml(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: \xff\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        config.read_yaml(tmp_path / "latin.yaml")


def test_deep_nesting_is_refused(path: Path) -> None:
    path.write_text("name: " + "[" * 5000 + "]" * 5000)
    with pytest.raises(ConfigError):
        config.load(Station, path)


def test_a_number_too_large_for_a_float_is_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a finite number"):
        config.load(Station, changed(path, "rate: 1.0e-4", "rate: 1" + "0" * 400))


def test_overrides_name_keys_of_the_file(path: Path) -> None:
    loaded = config.load(Station, path, {"steps": 9, "by_name.a.weight": 2})
    assert (loaded.steps, loaded.by_name["a"].weight) == (9, 2.0)
    for dotted in ("stepz", "by_name.b.weight", "steps.x", "losses.0.weight", ""):
        with pytest.raises(ConfigError, match="names no key of this file"):
            config.load(Station, path, {dotted: 1})
    with pytest.raises(ConfigError, match="steps: expected int, found 'x'"):
        config.load(Station, path, {"steps": "x"})


def test_a_config_survives_the_way_through_json(path: Path) -> None:
    loaded = config.load(Station, path)
    assert config.parse(Station, config.to_dict(loaded), "job") == loaded


def test_the_digest_names_the_values_and_not_the_writing(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere.yaml"
    lines = TEXT.replace("rate: 1.0e-4", "rate: 0.0001").replace("weight: 1,", "weight: 1.0,").splitlines(keepends=True)
    other.write_text("# a comment\n" + "".join([*lines[1:7], lines[0], *lines[7:]]))
    digest = config.digest(config.load(Station, path))
    assert config.digest(config.load(Station, other)) == digest == "4232c1c34bd31c4c"
    seen = {digest}
    for change in ({"steps": 4}, {"name": "demo "}, {"limit": 0.0}, {"levels": [1, 0.05]}, {"by_name": {}}):
        seen.add(config.digest(config.load(Station, path, change)))
    assert len(seen) == 6


def test_configs_cannot_be_changed(path: Path) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.load(Station, path).steps = 4  # type: ignore[misc]
