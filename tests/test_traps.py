"""Every test that docs/traps.md names is there, and every mistake on the page has one."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "traps.md"
NODE = re.compile(r"`([\w/]*\.py)?::(\w+)`")


def rows() -> list[tuple[str, str]]:
    """Mistake and remedy of every row of the page's tables."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.read_text().splitlines() if line.startswith("|")]
    assert all(len(row) == 2 for row in cells), "a row is a mistake and what would catch it"
    return [(row[0], row[1]) for row in cells if row[0] != "mistake" and not set(row[0]) <= {"-"}]


def named(remedy: str) -> list[tuple[str, str]]:
    """Files and tests that a remedy names; a test without a file stands in the file before it."""
    found: list[tuple[str, str]] = []
    for path, test in NODE.findall(remedy):
        found.append((path or found[-1][0], test))
    return found


def collected(path: Path) -> set[str]:
    """Names of the test functions of a file that pytest would collect; one that is always skipped is none."""
    marks = ("pytest.mark.skip(", "pytest.mark.xfail")
    return {
        node.name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        if not any(mark in f"{ast.unparse(item)}(" for mark in marks for item in node.decorator_list)
    }


def test_every_test_that_the_page_names_is_there() -> None:
    missing = {
        f"tests/{path}::{test}"
        for _, remedy in rows()
        for path, test in named(remedy)
        if not (ROOT / "tests" / path).is_file() or test not in collected(ROOT / "tests" / path)
    }
    assert missing == set()


def test_every_mistake_has_a_test() -> None:
    assert len(rows()) > 30
    assert [mistake for mistake, remedy in rows() if not named(remedy)] == []


def test_no_name_on_the_page_is_overlooked() -> None:
    """What looks like a test is read as one: a slip in the writing is no way around."""
    text = PAGE.read_text()
    assert len(re.findall(r"test_\w+`", text)) == sum(len(named(remedy)) for _, remedy in rows())
