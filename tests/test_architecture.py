"""The house rules that a program can see: sizes, empty package files, what loads when, what imports what."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("plusultra_core", "plusultra_dagster")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

FILE_LINES = 350
FUNCTION_LINES = 50
ASSET_BODY_LINES = 25
FOLDER_FILES = 10

# Exceptions, each with its reason.
LONG_FUNCTIONS: dict[str, str] = {}
FULL_FOLDERS: dict[str, str] = {}

HEAVY = ("torch", "lightning", "mlflow", "pandera", "sklearn", "scipy", "numba", "arch", "skfolio", "matplotlib", "plotly")
PORTABLE = ("models", "training", "rl", "simulation", "inference", "guardrails")
NOT_PORTABLE = ("dagster", "mlflow", "polars", "pandas", "pandera", "duckdb")


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function from its `def` to its end, without its docstring."""
    total = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        total -= (first.end_lineno or first.lineno) - first.lineno + 1
    return total


def is_asset(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    names = {getattr(part, "attr", getattr(part, "id", "")) for item in node.decorator_list for part in ast.walk(item)}
    return bool(names & {"asset", "multi_asset"})


def test_package_files_are_empty() -> None:
    full = [str(path.relative_to(ROOT)) for path in SOURCES if path.name == "__init__.py" and path.read_text().strip()]
    assert full == []


def test_files_stay_within_their_budget() -> None:
    long = {str(path.relative_to(ROOT)): n for path in SOURCES if (n := len(path.read_text().splitlines())) > FILE_LINES}
    assert long == {}


def test_functions_stay_within_their_budget() -> None:
    long = {
        f"{path.relative_to(ROOT)}:{node.name}": code_lines(node)
        for path in SOURCES
        for node in functions(path)
        if code_lines(node) > FUNCTION_LINES
    }
    assert {name: n for name, n in long.items() if name not in LONG_FUNCTIONS} == {}
    assert all(n <= 90 for n in long.values())
    assert set(LONG_FUNCTIONS) <= set(long), "an exception that is no longer needed"


def test_asset_bodies_stay_within_their_budget() -> None:
    long = {
        f"{path.relative_to(ROOT)}:{node.name}": lines
        for path in SOURCES
        for node in functions(path)
        if is_asset(node) and (lines := sum((part.end_lineno or 0) - part.lineno + 1 for part in node.body[1:])) > ASSET_BODY_LINES
    }
    assert long == {}


def test_folders_stay_within_their_budget() -> None:
    folders = {path.parent for path in SOURCES}
    counts = {str(folder.relative_to(ROOT)): sum(p.name != "__init__.py" for p in folder.glob("*.py")) for folder in folders}
    assert {name: n for name, n in counts.items() if n > FOLDER_FILES and name not in FULL_FOLDERS} == {}


def test_every_public_function_of_core_has_a_docstring() -> None:
    bare = [
        f"{path.relative_to(ROOT)}:{node.name}"
        for path in SOURCES
        if path.is_relative_to(ROOT / "plusultra_core")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and ast.get_docstring(node) is None
    ]
    assert bare == []


def test_no_file_has_a_name_that_says_nothing() -> None:
    empty = {"utils", "common", "helpers", "misc", "manager", "base", "handler"}
    assert [path.name for path in SOURCES if path.stem in empty] == []


def test_every_station_has_its_test_folder_and_its_page() -> None:
    stations = sorted(path.name for path in (ROOT / "plusultra_core").iterdir() if (path / "__init__.py").exists())
    assert [name for name in stations if not list((ROOT / "tests" / "core" / name).glob("test_*.py"))] == []
    assert [name for name in stations if not (ROOT / "docs" / "stations" / f"{name}.md").exists()] == []


def loaded_after(statement: str) -> set[str]:
    code = f"import sys, json\n{statement}\nprint(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_definitions_load_nothing_heavy() -> None:
    assert loaded_after("import definitions") & set(HEAVY) == set()


def test_the_command_line_loads_nothing_heavy() -> None:
    assert loaded_after("import plusultra_dagster.cli") & {*HEAVY, "dagster", "polars"} == set()


@pytest.mark.parametrize("station", PORTABLE)
def test_portable_stations_load_no_orchestrator_tracker_or_dataframes(station: str) -> None:
    modules = sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "plusultra_core" / station).glob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    )
    assert modules
    assert loaded_after("import " + ", ".join(modules)) & set(NOT_PORTABLE) == set()
