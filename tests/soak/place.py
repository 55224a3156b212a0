"""Where a soak takes place: servers and a store that outlive their crashes, and what they hold at a moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from redis_server import BINARIES, RedisServer
from several import Fleet, Process

SERVER: Final = Path(__file__).with_name("server.py")
STORES: Final = ("memory", "sqlite", *sorted(BINARIES))
OWN_SESSION: Final = "import os, sys; os.setsid(); os.execv(sys.argv[1], sys.argv[1:])"

WORK: Final = (8, 5.0)
"""The limit of the tool `work`: so many runs of a principal, in so many seconds."""
SCARCE: Final = (20, 3600.0)
"""The limit of the tool `scarce`, which no soak of less than an hour may see refilled."""

RULES: Final[list[Any]] = [
    "bf:free:tool_access:allow",
    "bf:never:tool_access:deny",
    "bf:work:tool_access:allow",
    f"bf:work:rate_limit:allow:{WORK[0]}/{WORK[1]:.0f}s",
    "bf:scarce:tool_access:allow",
    f"bf:scarce:rate_limit:allow:{SCARCE[0]}/hour",
    "bf:send:tool_access:elicit",
    "bf:user:tool_access:allow",
    "af:user:field_access:elicit:email",
    "bf:card:tool_access:allow",
    "af:card:field_access:deny:email",
    "bf:macaroon_delegate:tool_access:allow",
]
CONFIG: Final[dict[str, Any]] = {
    "tokens": {"delegate": True},
    "clear_arguments": ["call", "rules"],
    "approvals": {"max_pending": 500, "timeout": 60},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a process holds: resident memory in bytes, and open descriptors (0 where the system does not say)."""

    pid: int
    rss: int
    descriptors: int


class Server(Process):
    """A server process of the soak. `starts` counts how often it was started."""

    def __init__(self, policy: Path, ledger: Path, key: str) -> None:
        super().__init__(policy, ledger, key)
        self._arguments[1] = str(SERVER)
        self._collected = ledger.with_name("collected")
        self.starts = 0

    def start(self) -> None:
        """Starts it, and returns once it listens."""
        super().start()
        self.starts += 1

    def held(self) -> Held:
        """What it holds, once it has collected its garbage."""
        assert self.process is not None
        pid, before = self.process.pid, self._collections()
        self.process.send_signal(signal.SIGUSR1)
        end = time.monotonic() + 10
        while self._collections() == before:
            assert time.monotonic() < end, "the server collects no garbage"
            time.sleep(0.02)
        folder = Path(f"/proc/{pid}/fd")
        return Held(pid=pid, rss=rss(pid), descriptors=len(list(folder.iterdir())) if folder.exists() else 0)

    def _collections(self) -> int:
        assert self.process is not None
        return self._collected.read_text().split().count(str(self.process.pid)) if self._collected.exists() else 0


class StoreServer(RedisServer):
    """A store server that has everything it answered on its disk."""

    def __init__(self, binary: str, folder: Path) -> None:
        super().__init__(binary, "--appendonly", "yes", "--appendfsync", "always", "--dir", str(folder))

    def launch(self, command: list[str]) -> None:
        """Runs it out of reach of a Ctrl-C at the terminal."""
        super().launch([sys.executable, "-c", OWN_SESSION, *command])


class Place(Fleet):
    """The servers, their store and their policy files; `turned` says whether the files allow the tool `turn`."""

    servers: list[Server]  # type: ignore[assignment]

    def __init__(self, folder: Path, kind: str, address: str, count: int, store: StoreServer | None) -> None:
        self.turned = True
        super().__init__(folder, address, count, self.rules, CONFIG)
        self.kind, self.store_server = kind, store
        self.servers = [Server(policy, self.ledger, self.key) for policy in self.files]

    @property
    def rules(self) -> list[Any]:
        """The rules that the files should hold."""
        return [*RULES, f"bf:turn:tool_access:{'allow' if self.turned else 'deny'}"]

    def rewrite(self) -> None:
        """Writes the files anew, in place."""
        for number, policy in enumerate(self.files):
            self.write(policy, self.rules, number)


def rss(pid: int) -> int:
    """The resident memory of a process, in bytes."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        return next(int(row.split()[1]) * 1024 for row in status.read_text().splitlines() if row.startswith("VmRSS"))
    return int(subprocess.check_output(["ps", "-o", "rss=", "-p", str(pid)], text=True)) * 1024


@contextmanager
def place(folder: Path, kind: str) -> Iterator[Place]:
    """Two servers on a store of this kind, or one with the store in its memory, for as long as the block runs."""
    with ExitStack() as stack:
        store, address = None, {"memory": "memory", "sqlite": "sqlite:///state.db"}.get(kind, "")
        if not address:
            kept = folder / "store"
            kept.mkdir()
            store = StoreServer(BINARIES[kind], kept)
            stack.callback(store.kill)
            store.start()
            address = store.url()
        made = Place(folder, kind, address, 1 if kind == "memory" else 2, store)
        for server in made.servers:
            stack.callback(server.kill)
            server.start()
        yield made


def on_posix() -> bool:
    """Whether this system has the signals that a soak needs."""
    return os.name == "posix"
