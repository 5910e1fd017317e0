"""The supervisor: starts, restarts with backoff, stops in order, survives its own death."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from imaging_core.errors import Permanent
from imaging_core.settings import load_settings
from infra.local import commands
from infra.local.ca import ensure_certificates
from infra.local.configuration import Layout, Ports
from infra.local.credentials import load_credentials
from infra.local.parts import Part, answers
from infra.local.processes import MARK, ProcessId
from infra.local.stack import PARTS, Stack
from infra.local.stack_state import PartState, StackState, read_state, write_state
from infra.local.supervisor import AlreadyRunning, Supervisor, end_strays, only_supervisor

from .conftest import eventually, free_ports

IMAGING = str(Path(sys.executable).with_name("imaging"))


def web(name: str, port: int, **options: object) -> Part:
    """A part that serves an empty folder."""
    command = (sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", os.devnull)
    return Part(
        name=name,
        command=command,
        environment={},
        ports={f"{name.upper()}_PORT": port},
        url=f"http://127.0.0.1:{port}",
        healthy=answers(f"http://127.0.0.1:{port}/", below=500),
        **options,
    )


def stack_of(folder: Path, *parts: Part) -> Stack:
    layout = Layout.at(folder)
    credentials = load_credentials(layout)
    return Stack(layout, PORTS, credentials, ensure_certificates(layout), load_settings(), {}, parts)


PORTS = Ports.from_settings(free_ports())


@contextmanager
def running(stack: Stack, changes: list[tuple[str, str]] | None = None) -> Iterator[Supervisor]:
    """Run a supervisor in a thread until the end of the block; ready when the block begins."""

    def note(name: str, state: PartState) -> None:
        if changes is not None:
            changes.append((name, state.state))

    supervisor = Supervisor(stack, note)
    ready = threading.Event()
    thread = threading.Thread(target=supervisor.run, args=(ready.set,))
    thread.start()
    try:
        eventually(lambda: ready.is_set() or not thread.is_alive())
        assert ready.is_set(), read_state(stack.layout.state)
        yield supervisor
    finally:
        supervisor.stop()
        thread.join(60)


def state_of(stack: Stack, name: str = "one") -> PartState:
    state = read_state(stack.layout.state)
    assert state is not None
    return state.parts[name]


def fresh() -> int:
    return Ports.from_settings(free_ports()).fhir


def test_parts_start_after_what_they_need_and_stop_before_what_they_use(tmp_path: Path) -> None:
    completed: list[str] = []
    one = web("one", fresh(), complete=lambda: completed.append("one"))
    two = web("two", fresh(), needs=("one",), uses=("one",), prepare=lambda: completed.append("two prepares"))
    stack = stack_of(tmp_path, one, two)
    changes: list[tuple[str, str]] = []
    with running(stack, changes):
        state = read_state(stack.layout.state)
        assert state is not None
        assert state.state == "ready"
        processes = state.processes()
        assert all(process.alive for process in processes)
    assert completed == ["one", "two prepares"]
    assert changes.index(("one", "ready")) < changes.index(("two", "starting"))
    assert changes.index(("two", "stopped")) < changes.index(("one", "stopped"))
    assert not any(process.alive for process in processes)
    final = read_state(stack.layout.state)
    assert final is not None
    assert final.state == "stopped"


def test_part_that_dies_is_reported_and_started_again(tmp_path: Path) -> None:
    stack = stack_of(tmp_path, web("one", fresh()))
    changes: list[tuple[str, str]] = []
    with running(stack, changes):
        first = state_of(stack).process
        assert first is not None
        os.kill(first.pid, signal.SIGKILL)
        eventually(lambda: state_of(stack).restarts == 1 and state_of(stack).state == "ready")
        second = state_of(stack).process
        assert second is not None
        assert second != first
    assert changes[:5] == [
        ("one", "starting"),
        ("one", "ready"),
        ("one", "restarting"),
        ("one", "starting"),
        ("one", "ready"),
    ]


def test_backoff_grows_while_a_part_keeps_dying(tmp_path: Path) -> None:
    stack = stack_of(tmp_path, web("one", fresh()))
    details: list[str] = []
    with running(stack) as supervisor:
        supervisor._on_change = lambda _, state: details.append(state.detail) if state.state == "restarting" else None
        for restarts in (1, 2, 3):
            process = state_of(stack).process
            assert process is not None
            os.kill(process.pid, signal.SIGKILL)
            eventually(
                lambda restarts=restarts: (state_of(stack).restarts, state_of(stack).state) == (restarts, "ready")
            )
    assert details == [f"ended with -9; starts again after {delay} s" for delay in ("0.5", "1", "2")]


def test_workers_left_by_a_killed_part_are_ended_too(tmp_path: Path) -> None:
    pid_file = tmp_path / "worker"
    port = fresh()
    script = (
        "import pathlib, subprocess, sys\n"
        "worker = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])\n"
        f"pathlib.Path({str(pid_file)!r}).write_text(str(worker.pid))\n"
        "from http.server import HTTPServer, BaseHTTPRequestHandler\n"
        f"HTTPServer(('127.0.0.1', {port}), BaseHTTPRequestHandler).serve_forever()\n"
    )
    part = Part(
        "one",
        (sys.executable, "-c", script),
        {},
        {"ONE_PORT": port},
        "",
        answers(f"http://127.0.0.1:{port}/", below=600),
    )
    stack = stack_of(tmp_path / "data", part)
    with running(stack):
        worker = ProcessId.of(int(pid_file.read_text()))
        assert worker is not None
        process = state_of(stack).process
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        eventually(lambda: not worker.alive)


def test_part_that_never_serves_fails_the_start_and_stops_the_others(tmp_path: Path) -> None:
    broken = Part("two", (sys.executable, "-c", "print('no luck'); raise SystemExit(3)"), {}, {}, "", lambda: False)
    stack = stack_of(tmp_path, web("one", fresh()), broken)
    assert Supervisor(stack).run() is False
    assert state_of(stack, "two").state == "failed"
    assert "ended with 3" in state_of(stack, "two").detail
    assert "no luck" in stack.layout.log("two").read_text()
    assert state_of(stack, "one").state == "stopped"


def test_part_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    port = fresh()
    deaf = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "from http.server import HTTPServer, BaseHTTPRequestHandler\n"
        f"HTTPServer(('127.0.0.1', {port}), BaseHTTPRequestHandler).serve_forever()\n"
    )
    healthy = answers(f"http://127.0.0.1:{port}/", below=600)
    part = Part("one", (sys.executable, "-c", deaf), {}, {"ONE_PORT": port}, "", healthy, stop_seconds=0.2)
    stack = stack_of(tmp_path, part)
    with running(stack):
        process = state_of(stack).process
    assert process is not None
    assert not process.alive
    assert "killed" in state_of(stack).detail


def test_taken_port_is_named_with_its_setting_and_holder(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(Permanent, match=rf"port {port} is taken by .* \(process {os.getpid()}\): .* ONE_PORT"):
            Supervisor(stack_of(tmp_path, web("one", port))).run()


def test_one_supervisor_per_data_folder(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path)
    with only_supervisor(layout.lock), pytest.raises(AlreadyRunning), only_supervisor(layout.lock):
        pass


def test_strays_are_known_by_their_mark_even_if_never_written_down(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path)
    sleeper = [sys.executable, "-c", "import signal; signal.pause()"]
    with subprocess.Popen(sleeper, env={**os.environ, MARK: str(layout.root)}) as process:
        eventually(lambda: psutil.Process(process.pid).environ().get(MARK))
        assert end_strays(layout.root, None) == [process.pid]
        assert process.wait(5) is not None


def test_process_number_taken_by_another_process_is_left_alone(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path)
    mine = ProcessId(os.getpid(), 1.0)
    state = StackState(supervisor=mine, parts={"one": PartState("", "", {}, "", process=mine)})
    write_state(layout.state, state)
    assert end_strays(layout.root, read_state(layout.state)) == []


# the commands, with the real FHIR service


@pytest.fixture
def imaging(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Runs ``imaging`` on a data folder and ports of its own."""
    for name in Ports.__dataclass_fields__:
        monkeypatch.setenv(f"{name.upper()}_PORT", str(getattr(PORTS, name)))
    monkeypatch.setenv("IMAGING_DATA_DIR", str(tmp_path / "data"))

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([IMAGING, *arguments], capture_output=True, text=True, check=False, cwd=tmp_path)

    yield call
    call("down")


def test_up_status_down(imaging: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    started = imaging("up", "--only", "fhir")
    assert started.returncode == 0, started.stdout + started.stderr
    assert imaging("up", "--only", "fhir").returncode == 0
    document = json.loads(imaging("status", "--json", "--secrets").stdout)
    assert set(document) >= {"parts", "queues", "ledger", "ca_file"}
    fhir = document["parts"]["fhir"]
    assert fhir["url"] == f"http://127.0.0.1:{PORTS.fhir}/fhir"
    assert fhir["healthy"] is True
    assert Path(fhir["log"]).exists()
    assert fhir["token"]
    assert "token" not in json.loads(imaging("status", "--json").stdout)["parts"]["fhir"]
    assert imaging("down").stdout == "stopped\n"
    assert not any(psutil.pid_exists(pid) for pid in fhir["pids"])
    assert json.loads(imaging("status", "--json").stdout)["parts"]["fhir"]["healthy"] is False
    assert imaging("down").stdout == "nothing was running\n"


def test_up_after_the_supervisor_was_killed_replaces_what_it_left(
    imaging: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    assert imaging("up", "--only", "fhir").returncode == 0
    state = read_state(tmp_path / "data" / "stack.json")
    assert state is not None
    assert state.supervisor is not None
    supervisor = state.supervisor
    os.kill(supervisor.pid, signal.SIGKILL)
    eventually(lambda: not supervisor.alive)
    left = state.parts["fhir"].process
    assert left is not None
    assert left.alive
    assert json.loads(imaging("status", "--json").stdout)["parts"]["fhir"]["state"] == "unsupervised"
    again = imaging("up", "--only", "fhir")
    assert again.returncode == 0, again.stdout + again.stderr
    assert not left.alive
    assert json.loads(imaging("status", "--json").stdout)["parts"]["fhir"]["healthy"] is True


def test_down_ends_what_a_killed_supervisor_left(
    imaging: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    assert imaging("up", "--only", "fhir").returncode == 0
    state = read_state(tmp_path / "data" / "stack.json")
    assert state is not None
    assert state.supervisor is not None
    os.kill(state.supervisor.pid, signal.SIGKILL)
    assert imaging("down").stdout == "stopped\n"
    assert not any(process.alive for process in state.processes())


def test_foreground_stops_all_on_ctrl_c(
    imaging: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    command = [IMAGING, "up", "--foreground", "--only", "fhir"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tmp_path) as process:
        state_file = tmp_path / "data" / "stack.json"

        def ready() -> StackState | None:
            state = read_state(state_file)
            return state if state is not None and state.state == "ready" else None

        state = eventually(ready)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert not any(item.alive for item in state.processes())


def test_taken_port_stops_up_with_one_line(imaging: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", PORTS.fhir))
        holder.listen()
        refused = imaging("up", "--only", "fhir")
    assert refused.returncode == 1
    assert f"port {PORTS.fhir} is taken" in refused.stderr
    assert "FHIR_PORT" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_unknown_part_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(commands.up, ["--foreground", "--only", "pacs", "--data-dir", str(tmp_path)])
    assert isinstance(result.exception, Permanent)
    assert "pacs" in str(result.exception)
    assert all(name in str(result.exception) for name in PARTS)
    with suppress(OSError):
        (tmp_path / "stack.lock").unlink()
