"""The version of an asset's code moves with every source that its content is made by."""

import re
from pathlib import Path

import grimp
import pytest

from plusultra_dagster import provenance
from plusultra_dagster.places import CHECKOUT

ASSETS = sorted((CHECKOUT / "plusultra_dagster" / "assets").rglob("*.py"))
STATED = {
    (path, tuple(re.findall(r'"(\w+)"', names)))
    for path in ASSETS
    for names in re.findall(r"code=\(([^)]*)\)", path.read_text())
    if path.name != "record.py"
}
CODES = sorted({code for _, code in STATED})


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("plusultra_core", cache_dir=None)


@pytest.mark.parametrize("code", CODES, ids="-".join)
def test_modules_are_all_that_the_packages_import(code: tuple[str, ...], graph: grimp.ImportGraph) -> None:
    own = {f"plusultra_core.{name}" for name in code} | {
        module for name in code for module in graph.find_descendants(f"plusultra_core.{name}")
    }
    needed = own | {upstream for module in own for upstream in graph.find_upstream_modules(module)}
    files = {module for module in needed if not graph.find_children(module)}
    assert {name for name in provenance.modules_of(code) if not name.endswith("__init__")} == files


@pytest.mark.parametrize(
    ("code", "source"),
    [
        ("features", "plusultra_core/data/calendars.py"),
        ("windows", "plusultra_core/views/panel.py"),
        ("inference", "plusultra_core/simulation/costs.py"),
        ("training", "plusultra_core/windows/tensors.py"),
        ("reporting", "plusultra_core/evaluation/metrics.py"),
        ("reporting", "plusultra_core/reporting/templates/report.html.j2"),
    ],
)
def test_a_changed_source_is_another_version(code: str, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_bytes

    def changed(path: Path) -> bytes:
        return read(path) + b"#" if path == CHECKOUT / source else read(path)

    version = provenance.code_version.__wrapped__
    module = str(ASSETS[0])
    before = version((code,), module)
    monkeypatch.setattr(Path, "read_bytes", changed)
    assert version((code,), module) != before
