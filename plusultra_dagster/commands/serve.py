"""Servers on 127.0.0.1: started together, ended together.

They get a session of their own. Started from a shell with `&` they would inherit an ignored SIGINT, and Dagster
answers SIGTERM with the SIGINT handler it finds: nothing but kill -9 would end them.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from plusultra_core.errors import JobError
from plusultra_core.job import die_with_parent
from plusultra_dagster.places import CHECKOUT, REPORTS_PORT, Places

HOST = "127.0.0.1"
_START_S = 180.0
_END_S = 20.0


class Servers:
    """A few processes with their logs."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []
        logs.mkdir(parents=True, exist_ok=True)

    def start(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Start one; its output goes to `<logs>/<name>.log`."""
        with (self._logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=CHECKOUT,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self._running.append((name, process))

    def wait_for(self, port: int, stop: threading.Event) -> None:
        """Until something listens on the port.

        Raises  JobError when a process ends before, or after three minutes.
        """
        end = time.monotonic() + _START_S
        while time.monotonic() < end and not stop.is_set():
            self.check()
            with socket.socket() as probe:
                probe.settimeout(1.0)
                if probe.connect_ex((HOST, port)) == 0:
                    return
            stop.wait(0.3)
        if not stop.is_set():
            raise JobError(f"port {port}: nothing listens after {_START_S:.0f} s; see the logs in {self._logs}")

    def check(self) -> None:
        """Raises JobError when one has ended by itself."""
        for name, process in self._running:
            if process.poll() is not None:
                raise JobError(f"{name}: ended with code {process.returncode}; see {self._logs / name}.log")

    def end(self) -> None:
        """End them, the last first: SIGTERM, and after 20 seconds SIGKILL."""
        for _, process in reversed(self._running):
            if process.poll() is None:
                process.terminate()
        for _, process in reversed(self._running):
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def require_free(port: int, chosen_by: str = "--port") -> None:
    """Raises JobError when something listens on the port already; `chosen_by` says how another is chosen."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise JobError(f"port {port}: in use ({error.strerror}); end what runs there or choose another with {chosen_by}") from error


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def serve_ui(at: Places, port: int) -> int:
    """Code server, web server and daemon on the persistent instance, until Ctrl-C."""
    require_free(port)
    require_free(REPORTS_PORT, "PLUSULTRA_REPORTS_PORT")
    code_port, workspace = free_port(), at.dagster / "workspace.yaml"
    workspace.write_text(f"load_from:\n  - grpc_server: {{host: {HOST}, port: {code_port}, location_name: plusultra}}\n")
    code = ["-m", "dagster", "code-server", "start", "-h", HOST, "-p", str(code_port), "-m", "definitions", "--location-name", "plusultra"]
    stop, servers = _on_signal(), Servers(at.dagster / "server-logs")
    try:
        servers.start("code-server", [*code, "-d", str(CHECKOUT)])
        servers.wait_for(code_port, stop)
        servers.start("daemon", ["-m", "dagster._daemon", "run", "-w", str(workspace)])
        servers.start("webserver", ["-m", "dagster_webserver", "-h", HOST, "-p", str(port), "-w", str(workspace)])
        at.artifacts.mkdir(parents=True, exist_ok=True)
        servers.start("reports", ["-m", "http.server", str(REPORTS_PORT), "--bind", HOST, "--directory", str(at.artifacts)])
        return _keep(servers, port, stop, f"Dagster: http://{HOST}:{port}")
    finally:
        servers.end()


def serve_mlflow(at: Places, port: int) -> int:
    """The MLflow UI on the tracking database, until Ctrl-C."""
    from plusultra_dagster.resources.tracking import OFFLINE

    require_free(port)
    command = ["-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{at.mlflow}", "--default-artifact-root", (at.mlflow.parent / "artifacts").as_uri()]
    stop, servers = _on_signal(), Servers(at.mlflow.parent / "server-logs")
    try:
        servers.start("mlflow", command, {**OFFLINE, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})
        return _keep(servers, port, stop, f"MLflow: http://{HOST}:{port}")
    finally:
        servers.end()


def _keep(servers: Servers, port: int, stop: threading.Event, says: str) -> int:
    servers.wait_for(port, stop)
    if not stop.is_set():
        print(f"{says}  (Ctrl-C ends it)", flush=True)
    while not stop.wait(1.0):
        servers.check()
    print("ending", flush=True)
    return 0


def _on_signal() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop
