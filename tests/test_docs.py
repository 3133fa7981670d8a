"""Documentation that a program can hold to its word."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def layers(name: str) -> list[list[str]]:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = [item for item in contracts if item["name"].startswith(name)]
    return [[room.strip() for room in layer.split("|")] for layer in contract["layers"]]


def test_the_floors_drawn_are_the_floors_checked() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    block = text.split("## The floors", 1)[1].split("```")[1]
    assert [[room.strip() for room in line.split("|")] for line in block.strip().splitlines()] == layers("Floors")


def test_the_floors_of_the_orchestration_are_drawn_as_checked() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    found = re.search(r"`plusultra_dagster`: `([^`]+)`", text)
    assert found is not None
    assert [[room.strip() for room in layer.split("|")] for layer in found[1].split(">")] == layers("Rooms")


def test_relative_links_lead_somewhere() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    broken = [
        f"{page.relative_to(ROOT)} -> {target}"
        for page in pages
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert broken == []


def test_every_command_in_the_readme_exists() -> None:
    text = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"^make ([a-z]+)", text, flags=re.MULTILINE)) <= targets
    assert {"demo", "test"} <= set(re.findall(r"^make ([a-z]+)", text, flags=re.MULTILINE))


def test_the_feature_catalogue_is_documented_as_it_is() -> None:
    from plusultra_core.features import catalog

    assert (ROOT / "docs" / "features.md").read_text() == catalog.render()
