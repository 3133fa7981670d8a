"""The report names the pages beside it by where they lie, and only those that are there."""

from pathlib import Path

from plusultra_core.artifacts import Artifact, publish
from plusultra_dagster.assets.judgement.reporting import beside


def made(store: Path, key: str, *files: str) -> Artifact:
    def fill(folder: Path) -> None:
        for name in files:
            (folder / name).write_text(name)

    return publish(store, key, fill, {})


def test_pages_are_found_from_the_folder_of_another_artifact(tmp_path: Path) -> None:
    execution = made(tmp_path / "execution_report", "abc", "execution.html")
    stress = made(tmp_path / "stress_report", "def", "stress.html", "stress.parquet")
    links = beside(execution, stress)
    assert [title for title, _ in links] == ["execution trace", "stress"]
    here = made(tmp_path / "report", "123", "report.html").path
    assert all((here / href).resolve().is_file() for _, href in links)


def test_a_page_that_was_not_made_is_not_linked(tmp_path: Path) -> None:
    stress = made(tmp_path / "stress_report", "def", "stress.parquet")
    assert beside(stress) == ()
