"""The command line: a key is shown once, a door opens and closes, errors are one line."""

import hashlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from plusultra_core.config import load
from plusultra_core.service.__main__ import main
from plusultra_core.service.auth import KeysConfig, find_key


def test_a_key_is_printed_once_and_its_entry_fits_the_keys_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["key", "scraper", "--scope", "metrics"]) == 0
    said = capsys.readouterr()
    text = said.err.strip().rsplit(" ", 1)[1]
    assert text not in said.out
    (tmp_path / "keys.yaml").write_text(f"keys:\n{said.out}")
    keys = load(KeysConfig, tmp_path / "keys.yaml")
    assert keys.keys[0].sha256 == hashlib.sha256(text.encode()).hexdigest()
    found = find_key(f"Bearer {text}".encode(), keys)
    assert found is not None
    assert found.scopes == ("metrics",)


def test_an_error_is_one_line_and_no_traceback(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["serve", "--config", str(tmp_path / "none.yaml"), "--pointer", "p", "--keys", "k", "--journal", "j"]
    assert main(arguments) == 1
    assert capsys.readouterr().err.startswith("ConfigError: ")


@pytest.fixture
def running(root: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A real server on a free port, with a pointer that names nothing yet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    text = (root / "configs/smoke/service.yaml").read_text().replace("port: 8080", f"port: {port}")
    (tmp_path / "service.yaml").write_text(text.replace("refresh_s: 1.0", "refresh_s: 0.1"))
    entry = {"name": "scraper", "sha256": hashlib.sha256(b"secret").hexdigest(), "scopes": ["metrics"]}
    (tmp_path / "keys.yaml").write_text(json.dumps({"keys": [entry]}))
    names = {"config": "service.yaml", "pointer": "current.json", "keys": "keys.yaml", "journal": "journal.sqlite"}
    arguments = [part for name, file in names.items() for part in (f"--{name}", str(tmp_path / file))]
    process = subprocess.Popen(
        [sys.executable, "-m", "plusultra_core.service", "serve", *arguments],
        cwd=root,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    yield process, f"http://127.0.0.1:{port}"
    process.kill()
    process.communicate()


def wait_for(url: str, seconds: float = 90.0) -> httpx.Response:
    for _ in range(int(seconds / 0.2)):
        try:
            return httpx.get(url, trust_env=False)
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError(f"{url}: no answer after {seconds} s")


@pytest.mark.slow
def test_the_door_opens_without_anything_to_serve_says_why_and_closes_on_sigterm(
    running: tuple[subprocess.Popen[str], str], tmp_path: Path
) -> None:
    process, url = running
    assert wait_for(f"{url}/v1/health").json() == {"status": "alive"}
    assert httpx.get(f"{url}/v1/ready", trust_env=False).status_code == 503
    assert httpx.get(f"{url}/metrics", trust_env=False).status_code == 401
    (tmp_path / "current.json").write_text(json.dumps({"path": str(tmp_path / "nowhere"), "sha256": "0" * 64}))
    time.sleep(1.0)
    metrics = httpx.get(f"{url}/metrics", headers={"Authorization": "Bearer secret"}, trust_env=False).text
    assert 'plusultra_service_swaps_total{outcome="refused"}' in metrics
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    # uvicorn closes the door, and hands the signal on
    assert process.returncode in (0, -signal.SIGTERM)
    assert "refused: " in errors
    assert "Traceback" not in errors
