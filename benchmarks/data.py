"""What the data stations cost, one table: `OMP_NUM_THREADS=1 POLARS_MAX_THREADS=1 python benchmarks/data.py [--write] [SECTION ...]`.

Sections are ingest, features, regimes, views, second; all of them unless some are named. `--write` puts the table into
docs/data_performance.md. Each section is a module of its own beside this one and can be run alone.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("POLARS_MAX_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "data_performance.md"
SECTIONS = ("ingest", "features", "regimes", "views", "second")
HEAD = """# What the data stations cost

Written by `python benchmarks/data.py --write`. CPU-seconds of one process and one thread. The twins do the same work with pandas,
`ta` and numpy as one would write it down; what each counts is said in `benchmarks/data_*.py`.
"""


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of the sections as Markdown."""
    lines = ["| what | size | measured | unit | target | holds |", "|---|---|---|---|---|---|"]
    for row in rows:
        cells = (row["what"], row["size"], number(row["measured"]), row["unit"], number(row["target"]), "yes" if row["holds"] else "no")
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def number(value: object) -> str:
    """Three digits that count, thousands parted."""
    if not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def main(arguments: Sequence[str]) -> None:
    """Run the sections and print, or write, their table."""
    names = [name for name in arguments if name != "--write"] or list(SECTIONS)
    rows = [row for name in names for row in importlib.import_module(f"data_{name}").run()]
    text = table(rows)
    print(text)
    if "--write" in arguments:
        PAGE.write_text(f"{HEAD}\n{text}", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
