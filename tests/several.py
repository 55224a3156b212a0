"""Several guarded servers, each a process, on one policy file and one store; what their tools have really done."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import mcp_types
import yaml
from fastmcp import Client
from redis_many import running_cluster
from redis_server import BINARIES, any_kind, running

SERVER: Final = Path(__file__).parent / "fleet" / "server.py"
STORES: Final = ("sqlite", *BINARIES, "cluster")
"""The kinds of store that processes can share."""

RULES: Final[list[Any]] = [
    "bf:work:tool_access:allow",
    "bf:work:rate_limit:allow:10/hour",
    "bf:free:tool_access:allow",
    "bf:slow:tool_access:allow",
    "bf:send:tool_access:elicit",
    "bf:user:tool_access:allow",
    "af:user:field_access:elicit:email",
]


class Process:
    """One server. `start` may be called again after `kill`, for the same port."""

    def __init__(self, policy: Path, ledger: Path, key: str) -> None:
        self._arguments = [sys.executable, str(SERVER), str(policy), str(ledger)]
        self._log = policy.parent / "server.log"
        self._environment = {**os.environ, "FLEET_KEY": key, "PYTHONWARNINGS": "ignore"}
        self.process: subprocess.Popen[str] | None = None
        self.url = ""

    def start(self) -> None:
        """Starts it and returns once it listens."""
        if self.url:
            self._environment["PORT"] = self.url.split(":")[2].split("/")[0]
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                self._arguments, env=self._environment, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("http"), self._log.read_text()

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Ends it as a crash would."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(20)
            if self.process.stdout is not None:
                self.process.stdout.close()
            self.process = None


class Fleet:
    """Servers of one file. `audit` and `ledger` tell what happened."""

    def __init__(self, folder: Path, store: str, count: int, rules: Sequence[Any], config: dict[str, Any]) -> None:
        self.folder, self.key = folder, secrets.token_hex(32)
        self.policy, self.ledger = folder / "policies.yaml", folder / "ledger"
        self._config, self.store = config, store
        self.servers: list[Process] = []
        self.files: list[Path] = []
        for number in range(count):
            policy = self.policy if count == 1 else folder / f"policies{number}.yaml"
            self.files.append(policy)
            self.write(policy, rules, number)
            self.servers.append(Process(policy, self.ledger, self.key))

    def write(self, policy: Path, rules: Sequence[Any], number: int = 0) -> None:
        """Writes a server's file: all say the same, but where their records go."""
        config = {
            "secret_key": "${FLEET_KEY}",
            "audience": "fleet",
            "default": "deny",
            "store": self.store,
            "tokens": {},
            "audit": [{"sink": "jsonl", "path": f"audit{number}.jsonl", "required": True}],
            **self._config,
        }
        policy.write_text(yaml.safe_dump({"config": config, "policies": list(rules)}))
        policy.chmod(0o600)

    @property
    def urls(self) -> list[str]:
        """Where the servers are."""
        return [server.url for server in self.servers]

    @property
    def done(self) -> Counter[str]:
        """What tools have done, and how often."""
        return Counter(self.ledger.read_text().split()) if self.ledger.exists() else Counter()

    @property
    def records(self) -> list[dict[str, Any]]:
        """The audit records of all servers."""
        return [
            json.loads(line)
            for path in sorted(self.folder.glob("audit*.jsonl"))
            for line in path.read_text().splitlines()
            if line.strip()
        ]

    def ends(self, name: str) -> list[str]:
        """How the requests for a component ended."""
        finals = [record for record in self.records if record["event"] == "final"]
        return [record["outcome"] for record in finals if record["component"]["name"] == name]


@contextmanager
def fleet(
    folder: Path, store: str, count: int = 2, *, rules: Sequence[Any] = tuple(RULES), **config: Any
) -> Iterator[Fleet]:
    """`count` servers on a store of the kind `store`: `memory`, `sqlite`, or a server that is started for them."""
    with ExitStack() as stack:
        address = store
        if store == "sqlite":
            address = "sqlite:///state.db"
        elif store in BINARIES:
            address = stack.enter_context(running(store)).url()
        elif store == "cluster":
            address = stack.enter_context(running_cluster(any_kind(), folder)).address()
        made = Fleet(folder, address, count, rules, config)
        for server in made.servers:
            stack.callback(server.kill)
            server.start()
        yield made


@asynccontextmanager
async def client(url: str, era: str = "auto", auth: Any = "alice", **options: Any) -> AsyncIterator[Client[Any]]:
    """A client at one of the servers."""
    async with Client(url, auth=auth, mode=era, **options) as made:
        yield made


async def outcome(made: Client[Any], tool: str, **arguments: Any) -> str:
    """`ok`, or the code of the refusal."""
    result = await made.call_tool(tool, arguments, raise_on_error=False)
    code = ((result.meta or {}).get("mcp-macaroon") or {}).get("code")
    return str(code) if code else "error" if result.is_error else "ok"


async def question(made: Client[Any], tool: str = "send", **arguments: Any) -> mcp_types.InputRequiredResult:
    """The question that a call is answered with, in the modern protocol."""
    found = await made.session.call_tool(tool, arguments or {"to": "bob"}, allow_input_required=True)
    assert isinstance(found, mcp_types.InputRequiredResult), found
    return found


async def answered(
    made: Client[Any], asked: mcp_types.InputRequiredResult, tool: str = "send", says: str = "once", **arguments: Any
) -> str:
    """The same call with an answer in every field: `ok`, `asked again`, or the code of the refusal."""
    given: dict[str, Any] = {}
    for key, request in (asked.input_requests or {}).items():
        fields = request.params.requested_schema["properties"]  # type: ignore[union-attr]
        given[key] = mcp_types.ElicitResult(action="accept", content=dict.fromkeys(fields, says))
    result = await made.session.call_tool(
        tool,
        arguments or {"to": "bob"},
        input_responses=given,
        request_state=asked.request_state,
        allow_input_required=True,
    )
    if isinstance(result, mcp_types.InputRequiredResult):
        return "asked again"
    return str(((result.meta or {}).get("mcp-macaroon") or {}).get("code", "ok"))


async def gathered(*waits: Any) -> list[Any]:
    """All of them at once."""
    return list(await asyncio.gather(*waits))
