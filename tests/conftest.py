"""Fixtures that every station's tests may use."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
REAL_DUMPS = Path(os.environ.get("PLUSULTRA_REAL_DUMPS", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def root() -> Path:
    """Top of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def real_dump() -> Callable[[str], Path]:
    """Path of a real dump by its stem; the test is skipped by name where it is not there."""

    def find(stem: str) -> Path:
        path = REAL_DUMPS / f"{stem}.sqlite"
        if not path.exists():
            pytest.skip(f"real dump {stem}.sqlite is not here")
        return path

    return find
