"""A ledger that only grows, keeps one result a key, and tells when it was touched."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from plusultra_core.errors import ArtifactError, ContractError
from plusultra_core.evaluation.trials import Trial, read_trials, record_trials, returns_matrix, sharpe_per_bar


def trial(key: str, num: int = 4, end_ns: int = 9) -> Trial:
    returns = tuple((0.01 * np.arange(num) - 0.01).tolist())
    return Trial(
        key=key, asset_class="crypto", snapshot="s-1", strategy="policy", config_digest="0" * 16, start_ns=1, end_ns=end_ns,
        num_bars=num, sharpe_per_bar=sharpe_per_bar(np.array(returns)), returns=returns,
    )  # fmt: skip


def test_trials_are_read_back_as_they_were_recorded(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "trials.jsonl"
    assert read_trials(path) == ()
    assert record_trials(path, [trial("a"), trial("b")]) == 2
    assert read_trials(path) == (trial("a"), trial("b"))


def test_recording_again_changes_no_byte(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    record_trials(path, [trial("a")])
    before = path.read_bytes()
    assert record_trials(path, [trial("a"), trial("a")]) == 0
    assert path.read_bytes() == before
    record_trials(path, [trial("b")])
    assert path.read_bytes().startswith(before)


def test_one_configuration_has_one_result(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    record_trials(path, [trial("a")])
    with pytest.raises(ArtifactError, match="trial a is recorded with another result"):
        record_trials(path, [replace(trial("a"), sharpe_per_bar=9.0)])
    assert read_trials(path) == (trial("a"),)


@pytest.mark.parametrize("line", ["{", '{"key": "a"}', "[]", "null"])
def test_a_damaged_ledger_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "trials.jsonl"
    record_trials(path, [trial("a")])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ArtifactError, match=r"trials.jsonl:2: not a trial"):
        read_trials(path)
    with pytest.raises(ArtifactError, match=r"trials.jsonl:2"):
        record_trials(path, [trial("b")])


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    record_trials(path, [trial("a")])
    path.write_text(path.read_text() * 2)
    with pytest.raises(ArtifactError, match="stands twice"):
        read_trials(path)


def test_a_trial_that_never_varied_has_no_sharpe_and_still_counts(tmp_path: Path) -> None:
    flat = replace(trial("flat"), returns=(0.0, 0.0, 0.0, 0.0), sharpe_per_bar=sharpe_per_bar(np.zeros(4)))
    assert flat.sharpe_per_bar is None
    record_trials(tmp_path / "t.jsonl", [flat])
    assert read_trials(tmp_path / "t.jsonl") == (flat,)


def test_only_trials_of_one_span_stand_in_one_matrix() -> None:
    matrix_NT, keys = returns_matrix([trial("a"), trial("old", 3, 5), trial("b")])
    assert keys == ("a", "b") and matrix_NT.shape == (2, 4)
    assert returns_matrix([])[0].size == 0


def test_a_trial_with_the_wrong_number_of_returns_is_refused() -> None:
    with pytest.raises(ContractError, match="expected 5 returns, found 4"):
        replace(trial("a"), num_bars=5)
    with pytest.raises(ContractError, match="Sharpe must be finite"):
        replace(trial("a"), sharpe_per_bar=float("nan"))
