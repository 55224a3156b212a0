"""The entry that puts a guarded server into a client's configuration. It prints, and changes no file of anybody's."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..errors import ConfigError
from .backends import Address, Backend


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How one client writes a server down: under which key, where, and what it calls a URL."""

    key: str = "mcpServers"
    where: str = ""
    url: str = "url"
    kind: bool = False
    toml: bool = False


CLIENTS: Final[Mapping[str, Form]] = {
    "claude-desktop": Form(
        where="claude_desktop_config.json: ~/Library/Application Support/Claude (macOS), %APPDATA%\\Claude (Windows)"
    ),
    "claude-code": Form(where=".mcp.json in the project", kind=True),
    "cursor": Form(where="~/.cursor/mcp.json, or .cursor/mcp.json in the project"),
    "vscode": Form(key="servers", where=".vscode/mcp.json in the project", kind=True),
    "windsurf": Form(where="~/.codeium/windsurf/mcp_config.json", url="serverUrl"),
    "gemini-cli": Form(where="~/.gemini/settings.json", url="httpUrl"),
    "codex": Form(key="mcp_servers", where="~/.codex/config.toml", toml=True),
}


def arguments(config: Path, backend: Backend, name: str | None) -> list[str]:
    """The command line that starts the same guard, from any folder. References stay references."""
    found = ["-m", "mcp_macaroon_middleware", "protect", "--config", str(config.resolve())]
    if name is not None:
        found += ["--name", name]
    for pair in backend.env:
        found += ["--env", pair]
    if backend.cwd is not None:
        found += ["--cwd", str(backend.cwd.resolve())]
    if backend.url is not None:
        found += ["--url", backend.url]
        for header in backend.headers:
            found += ["--header", header]
        return found + (["--allow-plaintext"] if backend.allow_plaintext else [])
    return [*found, "--", *backend.command]


def write(client: str | None, name: str, words: Sequence[str], place: Address | None) -> int:
    """Prints the entry on standard output, and where it goes on standard error. Raises `ConfigError`."""
    form = CLIENTS.get(client) if client is not None else Form()
    if form is None:
        raise ConfigError(f"unknown client {client!r}; known are {', '.join(CLIENTS)}")
    if place is not None and place.port == 0:
        raise ConfigError("--write-config needs a port that stays; --http 0 takes another each time")
    entry = _entry(form, words, place)
    print(_toml(form.key, name, entry) if form.toml else json.dumps({form.key: {name: entry}}, indent=2))
    if form.where:
        print(f"mcp-macaroon: for {form.where}", file=sys.stderr)
    if place is None:
        print(
            "mcp-macaroon: the client's environment needs the server's key, if the policy file names a variable",
            file=sys.stderr,
        )
    return 0


def _entry(form: Form, words: Sequence[str], place: Address | None) -> dict[str, Any]:
    if place is not None:
        return ({"type": "http"} if form.kind else {}) | {form.url: place.url}
    return ({"type": "stdio"} if form.kind else {}) | {"command": sys.executable, "args": list(words)}


def _toml(key: str, name: str, entry: Mapping[str, Any]) -> str:
    """TOML's basic strings are JSON's, but for the escape of DEL."""
    lines = [f"[{key}.{_text(name)}]"]
    for word, value in entry.items():
        inner = f"[{', '.join(map(_text, value))}]" if isinstance(value, list) else _text(value)
        lines.append(f"{word} = {inner}")
    return "\n".join(lines)


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
