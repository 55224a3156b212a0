"""The demo's world: a small mail server, its policy file, an in-house plugin, two users, on loopback HTTP."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import uvicorn
from fastmcp import Client, FastMCP
from fastmcp.server.auth import AuthProvider
from fastmcp.server.auth.providers.jwt import StaticTokenVerifier

from ...adapters.fastmcp import Guard, MacaroonAuth, guard

AUDIENCE: Final = "mail"

POLICIES: Final = """\
config:
  keys: ./keys/
  audience: mail
  default: deny
  tokens: {variable: MCP_MACAROON_DEMO_TOKEN}
  roles:
    ops: {claim: {groups: ops}}
  audit: [{sink: jsonl, path: ./audit.jsonl, required: true}]
plugins:
  files: [./house_rules.py]
policies:
  - "bf:read_mail:tool_access:allow"
  - "bf:send_mail:tool_access:allow"
  - "bf:send_mail:rate_limit:allow:2/minute"
  - "bf:send_mail:house_recipients:allow:example.org"
  - "bf:forward_mail:tool_access:elicit"
  - "bf:read_contact:tool_access:allow"
  - "af:read_contact:field_access:elicit:email"
  - {before: delete_mailbox, policy: tool_access, action: allow, for: {role: ops}}
  - {after: read_mail, policy: field_access, action: deny, params: ["sender.phone", "attachments.key"],
     except: {role: ops}}
"""

HOUSE_RULES: Final = '''\
"""Our own rule: mail goes to our own domains only."""

from mcp_macaroon_middleware.plugin import Check, Params, Verdict, enforcer


class Domains(Params):
    domains: tuple[str, ...]


@enforcer("house_recipients", params=Domains)
def house_recipients(check: Check[Domains]) -> Verdict:
    domain = str(check.request.arguments.get("to", "")).rpartition("@")[2].lower()
    if domain in check.params.domains:
        return Verdict.allow()
    return check.refuse("foreign_recipient", "Mail may only go to our own domains.")
'''


def build_server(auth: AuthProvider, ran: list[str]) -> FastMCP[Any]:
    """The mail server as its author wrote it: it knows nothing of rules. `ran` tells what has really run."""
    server: FastMCP[Any] = FastMCP("mail", auth=auth)

    @server.tool
    def read_mail(id: int) -> dict[str, Any]:
        """Reads one mail."""
        return {
            "id": id,
            "subject": "Lunch?",
            "sender": {"name": "Carol", "phone": "+1 555 0100"},
            "attachments": [{"name": "menu.pdf", "key": "s3-0042"}, {"name": "map.png", "key": "s3-0043"}],
        }

    @server.tool
    def send_mail(to: str, text: str) -> str:
        """Sends a mail."""
        return f"sent {len(text)} characters to {to}"

    @server.tool
    def forward_mail(id: int, to: str) -> str:
        """Forwards a mail."""
        ran.append(f"forward_mail {id} {to}")
        return f"forwarded mail {id} to {to}"

    @server.tool
    def read_contact(name: str) -> dict[str, Any]:
        """Reads one contact."""
        ran.append(f"read_contact {name}")
        return {"name": name, "email": f"{name.lower()}@example.org"}

    @server.tool
    def delete_mailbox(name: str) -> str:
        """Deletes a mailbox for good."""
        return f"deleted {name}"

    return server


@dataclass(slots=True)
class World:
    """A running server with its files. `era` is None for today's protocol, `legacy` for the one before."""

    url: str
    folder: Path
    guard: Guard
    tokens: dict[str, str] = field(repr=False)
    era: str | None = None
    ran: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def client(self, user: str, person: Any = None) -> AsyncIterator[Client[Any]]:
        """A real client over HTTP: a user's, or the holder's of a token. `person` answers what the server asks."""
        more: dict[str, Any] = {"mode": self.era} if self.era is not None else {}
        auth = self.tokens.get(user, user)
        async with Client(self.url, auth=auth, elicitation_handler=person, **more) as client:
            yield client

    def record(self, component: str) -> Mapping[str, Any]:
        """The last final audit record of a component, as it stands in the file."""
        lines = (self.folder / "audit.jsonl").read_text(encoding="utf-8").splitlines()
        finals = [record for record in map(json.loads, lines) if record["event"] == "final"]
        return next(record for record in reversed(finals) if record["component"]["name"] == component)

    @property
    def policies(self) -> Path:
        """The policy file."""
        return self.folder / "policies.yaml"

    def edit(self, old: str, new: str) -> None:
        """Changes the policy file as an editor would: written beside it, then moved over it."""
        text = self.policies.read_text()
        if old not in text:
            raise LookupError(f"the policy file has no {old!r}")
        draft = self.folder / "draft.yaml"
        draft.write_text(text.replace(old, new))
        draft.chmod(0o600)
        draft.replace(self.policies)


@asynccontextmanager
async def world(era: str | None = None) -> AsyncIterator[World]:
    """Starts the server on a free loopback port; everything is gone afterwards."""
    tokens = {user: secrets.token_urlsafe(24) for user in ("alice", "bob")}
    groups = {"alice": ["ops"], "bob": ["staff"]}
    table = {
        token: {"client_id": "demo", "subject": user, "sub": user, "scopes": [], "groups": groups[user]}
        for user, token in tokens.items()
    }
    with TemporaryDirectory(prefix="mcp-macaroon-demo-") as name:
        folder = Path(name)
        _write_files(folder)
        auth = MacaroonAuth(folder / "policies.yaml", StaticTokenVerifier(table))
        ran: list[str] = []
        server = build_server(auth, ran)
        bound = guard(server, folder / "policies.yaml")
        try:
            async with _serving(server) as url:
                yield World(url=url, folder=folder, guard=bound, tokens=tokens, era=era, ran=ran)
        finally:
            await bound.runtime.close()
            await auth.runtime.close()


def _write_files(folder: Path) -> None:
    from ...tokens.keys import new_key

    (folder / "house_rules.py").write_text(HOUSE_RULES)
    (folder / "policies.yaml").write_text(POLICIES)
    for path in folder.iterdir():
        path.chmod(0o600)
    new_key(folder / "keys")


@asynccontextmanager
async def _serving(server: FastMCP[Any]) -> AsyncIterator[str]:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(server.http_app(), log_level="error", lifespan="on", ws="none", timeout_graceful_shutdown=1)
    runner = uvicorn.Server(config)
    task = asyncio.create_task(runner.serve(sockets=[listener]))
    try:
        while not runner.started:
            if task.done():
                task.result()
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
    finally:
        runner.should_exit = True
        await task
        listener.close()
