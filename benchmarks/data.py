"""What the data stations cost, one table: `OMP_NUM_THREADS=1 POLARS_MAX_THREADS=1 python benchmarks/data.py [--write] [SECTION ...]`.

Sections are ingest, features, regimes, views, second; all of them unless some are named. `--write` puts the table into
docs/data_performance.md. Each section is a module of its own beside this one and can be run alone.
"""

import importlib
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("POLARS_MAX_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "data_performance.md"
SECTIONS = ("ingest", "features", "regimes", "views", "second")
HEAD = """# What the data stations cost

Written by `python benchmarks/data.py --write`. CPU-seconds of one process and one thread. The twins do the same work with pandas,
`ta` and numpy as one would write it down; what each counts is said in `benchmarks/data_*.py`. Rows without a target are there to tell
what the others mean.
"""


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of the sections as Markdown."""
    lines = ["| what | size | measured | unit | target | holds |", "|---|---|---|---|---|---|"]
    for row in rows:
        target = row.get("target")
        judged = ("", "") if target is None else (number(target), "yes" if row["holds"] else "no")
        cells = (row["what"], row["size"], number(row["measured"]), row["unit"], *judged)
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def told(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the table; those of `ingest` count a dump each, and are told as its speed and how it stands beside the twin."""
    if "rows_per_cpu_s" not in row:
        return [row]
    size, speed = f"{row['what']}: {row['rows']:,} rows", row["rows_per_cpu_s"]
    rows = [{"what": "gate and validated tables", "unit": "rows/CPU-s", "measured": speed, "target": 400_000, "holds": speed >= 400_000}]
    rows += [{"what": "gate and validated tables beside pandas", "unit": "times", "measured": speed / row["twin_rows_per_cpu_s"]}]
    return [one | {"size": size} for one in rows]


def number(value: object) -> str:
    """Three digits that count, thousands parted."""
    if not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def machine() -> str:
    """On what it was measured."""
    model = next((row.split(":")[1].strip() for row in Path("/proc/cpuinfo").read_text().splitlines() if row.startswith("model name")), "")
    versions = ", ".join(f"{name} {version(name)}" for name in ("polars", "numpy", "numba", "pandas", "ta"))
    return f"Measured on {model or platform.machine()}, Python {platform.python_version()}, {versions}.\n"


def main(arguments: Sequence[str]) -> None:
    """Run the sections and print, or write, their table."""
    names = [name for name in arguments if name != "--write"] or list(SECTIONS)
    rows = [line for name in names for row in importlib.import_module(f"data_{name}").run() for line in told(row)]
    text = table(rows)
    print(text)
    if "--write" in arguments:
        PAGE.write_text(f"{HEAD}\n{machine()}\n{text}", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
