"""`mcp-macaroon protect`: stands in front of an MCP server that somebody else wrote, and guards it."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..errors import BindError, ConfigError, MacaroonError


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
    """
    from . import backends, clients

    if bool(command) == (url is not None):
        return _say("nothing to protect, or two things: end with either  -- COMMAND…  or  --url URL", 2)
    if command and header:
        return _say("--header goes with --url; a command gets what it needs by --env", 2)
    if client is not None and not write_config:
        return _say("--client goes with --write-config", 2)
    if command and shutil.which(command[0], path=None) is None:
        return _say(f"cannot find the command {command[0]!r}", 2)
    try:
        place = backends.address(http) if http is not None else None
        backend = backends.Backend(
            command=command, url=url, headers=header, env=env, cwd=cwd, allow_plaintext=allow_plaintext
        )
        shown = name or backend.name
        if write_config:
            return clients.write(client, shown, clients.arguments(config, backend, name), place)
        asyncio.run(backends.serve(backend, config, shown, place, open_network=allow_anonymous_network))
    except ConfigError as error:
        return _say(str(error), 2)
    except BindError as error:
        return _say(str(error), 4)
    except MacaroonError as error:
        return _say(f"{error} [{error.code}]", 4)
    except KeyboardInterrupt:
        return 130
    return 0


def _say(text: str, code: int) -> int:
    print(f"mcp-macaroon: {text}", file=sys.stderr)
    return code
