"""`mcp-macaroon protect`: stands in front of an MCP server that somebody else wrote, and guards it."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..errors import BindError, ConfigError, MacaroonError

if TYPE_CHECKING:
    from .backends import Address, Backend


def protect(
    *command: Annotated[
        str, Parameter(help="The server's command and its arguments, after `--`.", allow_leading_hyphen=True)
    ],
    config: Annotated[Path, Parameter(help="The policy file.")],
    url: Annotated[str | None, Parameter(help="A server that is reached over HTTP, instead of a command.")] = None,
    header: Annotated[
        tuple[str, ...],
        Parameter(help="'Name: value' for the server at --url; a value may be env:NAME or file:PATH."),
    ] = (),
    allow_plaintext: Annotated[bool, Parameter(negative="", help="Reach --url by http:// over a network.")] = False,
    http: Annotated[
        str | None, Parameter(help="Serve HTTP at HOST:PORT instead of stdio; a port alone is on 127.0.0.1.")
    ] = None,
    allow_anonymous_network: Annotated[
        bool, Parameter(negative="", help="Serve callers without a credential beyond this machine.")
    ] = False,
    name: Annotated[str | None, Parameter(help="The name that clients see; default: the command's name.")] = None,
    env: Annotated[tuple[str, ...], Parameter(help="NAME=VALUE for the server; NAME alone passes ours on.")] = (),
    cwd: Annotated[Path | None, Parameter(help="The folder that the server starts in.")] = None,
    write_config: Annotated[
        bool, Parameter(negative="", help="Print the entry for a client's configuration, and start nothing.")
    ] = False,
    client: Annotated[
        str | None, Parameter(help="The client that --write-config writes for; without it, the common form.")
    ] = None,
    write: Annotated[
        bool, Parameter(negative="", help="With --write-config: put the entry into the client's own file.")
    ] = False,
    replace: Annotated[bool, Parameter(negative="", help="With --write: replace another server of that name.")] = False,
) -> int:
    """Guard an MCP server, unchanged: rules, questions, redaction, limits and audit in front of it.

    Clients start this command in the server's place (or connect to it, with --http); it starts the server (or connects
    to it, with --url). Both protocol eras are spoken. Messages for people go to standard error.

    Exit codes: 0 the client went away, 2 the policy file or the command is wrong, 4 the server could not be started or
    reached or does not fit the rules, 130 interrupted.

    A server that speaks stdio: mcp-macaroon protect --config policies.yaml -- uvx mcp-server-time

    A remote server: mcp-macaroon protect --config policies.yaml --url https://mcp.example/mcp --header
    "Authorization: env:UPSTREAM"

    Over HTTP: mcp-macaroon protect --config policies.yaml --http 8000 -- python server.py

    An entry for Cursor: mcp-macaroon protect --config policies.yaml --write-config --client cursor -- python server.py

    The same, written into the project's .cursor/mcp.json, with a diff and a backup: add --write.
    """
    from . import backends

    if bool(command) == (url is not None):
        return _say("nothing to protect, or two things: end with either  -- COMMAND…  or  --url URL", 2)
    if command and header:
        return _say("--header goes with --url; a command gets what it needs by --env", 2)
    if (client is not None or write) and not write_config:
        return _say("--client and --write go with --write-config", 2)
    if replace and not write:
        return _say("--replace goes with --write", 2)
    if command and shutil.which(command[0], path=None) is None:
        return _say(f"cannot find the command {command[0]!r}", 2)
    try:
        place = backends.address(http) if http is not None else None
        backend = backends.Backend(
            command=command, url=url, headers=header, env=env, cwd=cwd, allow_plaintext=allow_plaintext
        )
        if write_config:
            return _entry(client, name, config, backend, place, write=write, replace=replace)
        asyncio.run(backends.serve(backend, config, name or backend.name, place, open_network=allow_anonymous_network))
    except ConfigError as error:
        return _say(str(error), 2)
    except BindError as error:
        return _say(str(error), 4)
    except MacaroonError as error:
        return _say(f"{error} [{error.code}]", 4)
    except KeyboardInterrupt:
        return 130
    return 0


def _entry(
    client: str | None,
    name: str | None,
    config: Path,
    backend: Backend,
    place: Address | None,
    *,
    write: bool,
    replace: bool,
) -> int:
    """Shows or writes the entry for a client, with what the policy file needs to start from there."""
    from ..config.keys import VARIABLE
    from ..config.references import referenced_variables
    from ..config.source import read_source
    from . import clients
    from .server_names import server_name

    form = clients.form_of(client)
    data = read_source(config).get(())
    settings = data.get("config") if isinstance(data, Mapping) else None
    bearer = isinstance(settings, Mapping) and settings.get("tokens") is not None
    variables = sorted(referenced_variables(data))
    if not (isinstance(settings, Mapping) and {"secret_key", "keys"} & settings.keys()):
        variables = sorted({*variables, VARIABLE})
    name = name or server_name(backend.command, backend.url)
    entry = clients.entry_of(form, name, config, backend, place, variables, bearer=bearer)
    if write:
        clients.write(form, entry, replace=replace)
    else:
        clients.show(form, entry)
    return 0


def _say(text: str, code: int) -> int:
    print(f"mcp-macaroon: {text}", file=sys.stderr)
    return code
