"""The entry that puts a guarded server into a client's configuration: printed, or written into the client's own file.

An entry starts as it stands: it has the variables that the policy file refers to, by the client's own references, and
no secret on a command line.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..errors import ConfigError
from .backends import Address, Backend
from .client_files import TOKEN, Place, folder_of

HEADER_VARIABLE: Final = "MACAROON_HEADER_"
"""The start of the variables that hold a header's value for an entry, so that it stands on no command line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How one client writes a server down.

    `key` holds the servers, `url` is what it calls an address (none where its file takes commands alone), `kind` says
    whether it names the transport. `reference` makes the text by which it takes a variable of its own environment (None
    where it cannot). `place` is its file, `toml` the file's form. `inputs`: it asks for secrets itself.
    """

    key: str = "mcpServers"
    url: str = "url"
    kind: bool = False
    reference: Callable[[str], str] | None = None
    place: Place | None = None
    toml: bool = False
    inputs: bool = False


def _env(name: str) -> str:
    return f"${{env:{name}}}"


def _braces(name: str) -> str:
    return f"${{{name}}}"


def _input(name: str) -> str:
    return f"${{input:{_input_id(name)}}}"


def _input_id(name: str) -> str:
    return name.lower().replace("_", "-")


CLIENTS: Final[Mapping[str, Form]] = {
    "claude-desktop": Form(url="", place=Place("claude_desktop_config.json", folder=folder_of("Claude"))),
    "claude-code": Form(kind=True, reference=_braces, place=Place(".mcp.json")),
    "cursor": Form(reference=_env, place=Place(".cursor/mcp.json")),
    "vscode": Form(key="servers", kind=True, reference=_input, inputs=True, place=Place(".vscode/mcp.json")),
    "windsurf": Form(
        url="serverUrl", reference=_env, place=Place(".codeium/windsurf/mcp_config.json", folder=Path.home)
    ),
    "gemini-cli": Form(url="httpUrl", reference=_braces, place=Place(".gemini/settings.json", folder=Path.home)),
    "codex": Form(key="mcp_servers", toml=True, place=Place(".codex/config.toml", folder=Path.home)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A server's entry: its name, its table, and what stands beside it in the file (VS Code's `inputs`)."""

    name: str
    body: Mapping[str, Any]
    inputs: Sequence[Mapping[str, Any]] = ()


def form_of(client: str | None) -> Form:
    """The form of a client, or the common one. Raises `ConfigError` for a client that is not known."""
    form = CLIENTS.get(client) if client is not None else Form(reference=_braces)
    if form is None:
        raise ConfigError(f"unknown client {client!r}; known are {', '.join(CLIENTS)}")
    return form


def entry_of(
    form: Form,
    name: str,
    config: Path,
    backend: Backend,
    place: Address | None,
    variables: Sequence[str],
    *,
    bearer: bool,
) -> Entry:
    """The entry for `backend` behind `protect`, or for the address where that serves.

    `variables` are those that the policy file refers to, `bearer` says whether callers over HTTP need a token. Raises
    `ConfigError` where the client could not start it.
    """
    if place is not None:
        return _over_http(form, name, place, bearer=bearer)
    given = {key: value for key, has, value in map(_pair, backend.env) if has}
    passed = [key for key, has, _ in map(_pair, backend.env) if not has]
    headers = [_header(each) for each in backend.headers]
    given |= {variable: value for _, variable, value in headers if value is not None}
    passed += [variable for _, variable, value in headers if value is None and variable]
    wanted = list(dict.fromkeys([*variables, *passed]))
    wanted = [each for each in wanted if each not in given]
    kind: dict[str, Any] = {"type": "stdio"} if form.kind else {}
    body = kind | {
        "command": sys.executable,
        "args": _arguments(config, backend, name, [text for text, _, _ in headers]),
    }
    if form.toml:
        body |= ({"env": given} if given else {}) | ({"env_vars": wanted} if wanted else {})
        return Entry(name=name, body=body)
    if wanted and form.reference is None:
        raise ConfigError(
            f"this client hands no variable on, and the server needs {', '.join(wanted)}; use files: "
            "mcp-macaroon keys new ./keys  and  keys: ./keys  for the key,  {file: PATH}  for others, "
            "--header 'Name: file:PATH'  for a header"
        )
    env = given | {each: form.reference(each) for each in wanted if form.reference is not None}
    return Entry(name=name, body=body | ({"env": env} if env else {}), inputs=_inputs(form, wanted))


def _over_http(form: Form, name: str, place: Address, *, bearer: bool) -> Entry:
    if not form.url and not form.toml:
        raise ConfigError("this client's file takes commands alone; leave --http out, and it starts the guard itself")
    if place.port == 0:
        raise ConfigError("--write-config needs a port that stays; --http 0 takes another each time")
    kind: dict[str, Any] = {"type": "http"} if form.kind else {}
    body = kind | {form.url: place.url}
    if bearer and form.toml:
        body |= {"bearer_token_env_var": TOKEN}
    elif bearer and form.reference is not None:
        body |= {"headers": {"Authorization": f"Bearer {form.reference(TOKEN)}"}}
    return Entry(name=name, body=body, inputs=_inputs(form, [TOKEN] if bearer else []))


def _inputs(form: Form, names: Sequence[str]) -> list[Mapping[str, Any]]:
    if not form.inputs:
        return []
    return [{"type": "promptString", "id": _input_id(each), "description": each, "password": True} for each in names]


def _pair(text: str) -> tuple[str, str, str]:
    """`NAME=VALUE` as its name, "=" and value; of a name alone the latter two are empty."""
    return text.partition("=")


def _header(text: str) -> tuple[str, str, str | None]:
    """A header as the entry's command line has it, the variable that it reads, and that one's value if given here.

    A value that is written out moves into a variable: command lines are seen by everybody on the machine.
    """
    name, _, value = text.partition(":")
    value = value.strip()
    if value.startswith("env:"):
        return text, value[4:], None
    if value.startswith("file:"):
        return f"{name}: file:{Path(value[5:]).resolve()}", "", None
    variable = HEADER_VARIABLE + re.sub(r"[^A-Z0-9]", "_", name.strip().upper())
    return f"{name}: env:{variable}", variable, value


def _arguments(config: Path, backend: Backend, name: str, headers: Sequence[str]) -> list[str]:
    """The command line that starts the same guard, from any folder. It has names of variables, and no value."""
    found = ["-m", "mcp_macaroon_middleware", "protect", "--config", str(config.resolve()), "--name", name]
    for key, _, _ in map(_pair, backend.env):
        found += ["--env", key]
    if backend.cwd is not None:
        found += ["--cwd", str(backend.cwd.resolve())]
    if backend.url is not None:
        found += ["--url", backend.url]
        for header in headers:
            found += ["--header", header]
        return found + (["--allow-plaintext"] if backend.allow_plaintext else [])
    return [*found, "--", *backend.command]


# --- shown and written ------------------------------------------------------------------------------------------------


def show(form: Form, entry: Entry) -> None:
    """Prints the entry on standard output, and on standard error where it goes and what it wants."""
    print(_toml(form.key, entry) if form.toml else json.dumps(_document(form, entry), indent=2))
    if form.place is not None:
        print(f"mcp-macaroon: for {form.place.path()}; --write puts it there", file=sys.stderr)
    _tell_wanted(form, entry)


def write(form: Form, entry: Entry, *, replace: bool) -> None:
    """Puts the entry into the client's file, with what changes shown on standard error, and a backup beside it.

    Raises `ConfigError`, and changes nothing, where the file cannot be read, or has another entry of that name and
    `replace` is not said.
    """
    if form.place is None:
        raise ConfigError("--write goes with --client, whose file it writes")
    if form.toml:
        changed = form.place.append(form.key, entry.name, dict(entry.body), _toml(form.key, entry))
    else:
        changed = form.place.merge(_document(form, entry), form.key, entry.name, replace=replace)
    print(f"mcp-macaroon: {changed}", file=sys.stderr)
    _tell_wanted(form, entry)


def _document(form: Form, entry: Entry) -> dict[str, Any]:
    inputs = {"inputs": list(entry.inputs)} if entry.inputs else {}
    return inputs | {form.key: {entry.name: dict(entry.body)}}


def _tell_wanted(form: Form, entry: Entry) -> None:
    wanted = entry.body.get("env_vars") or [
        key
        for key, value in entry.body.get("env", {}).items()
        if form.reference is not None and value == form.reference(key)
    ]
    unset = [each for each in wanted if each not in os.environ]
    if wanted and not form.inputs:
        more = f" (not set here: {', '.join(unset)})" if unset else ""
        print(
            f"mcp-macaroon: the client must be started with {', '.join(wanted)} in its environment{more}",
            file=sys.stderr,
        )
    if TOKEN in json.dumps(dict(entry.body)) or any(each["id"] == _input_id(TOKEN) for each in entry.inputs):
        print(f"mcp-macaroon: {TOKEN} is a token of the caller's: mcp-macaroon token mint", file=sys.stderr)


def _toml(key: str, entry: Entry) -> str:
    """TOML's basic strings are JSON's, but for the escape of DEL."""
    lines = [f"[{key}.{_text(entry.name)}]"]
    lines += [f"{word} = {_value(value)}" for word, value in entry.body.items()]
    return "\n".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_text(key)} = {_text(each)}" for key, each in value.items()) + " }"
    return f"[{', '.join(map(_text, value))}]" if isinstance(value, list) else _text(value)


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
