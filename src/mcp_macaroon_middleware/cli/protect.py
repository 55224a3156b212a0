"""`mcp-macaroon protect`: stands in front of an MCP server that somebody else wrote, over stdio, and guards it."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import Parameter

from ..errors import BindError, ConfigError, MacaroonError

START: Final = 60.0


def protect(
    *command: Annotated[
        str, Parameter(help="The server's command and its arguments, after `--`.", allow_leading_hyphen=True)
    ],
    config: Annotated[Path, Parameter(help="The policy file.")],
    name: Annotated[str | None, Parameter(help="The name that clients see; default: the command's name.")] = None,
    env: Annotated[tuple[str, ...], Parameter(help="NAME=VALUE for the server; NAME alone passes ours on.")] = (),
    cwd: Annotated[Path | None, Parameter(help="The folder that the server starts in.")] = None,
) -> int:
    """Guard an MCP server that runs over stdio, unchanged: rules, redaction, limits and audit in front of it.

    Clients start this command in the server's place; it starts the server. Both protocol eras are spoken to the
    client; to the server, whichever it speaks. Messages for people go to standard error.

    Exit codes: 0 the client went away, 2 the policy file or the command is wrong, 4 the server could not be started or
    does not fit the rules.
    """
    if not command:
        return _say("nothing to protect; write: mcp-macaroon protect --config policies.yaml -- COMMAND…", 2)
    if shutil.which(command[0], path=None) is None:
        return _say(f"cannot find the command {command[0]!r}", 2)
    try:
        environment = _environment(env)
        asyncio.run(_serve(command, config, name or Path(command[0]).name, environment, cwd))
    except ConfigError as error:
        return _say(str(error), 2)
    except BindError as error:
        return _say(str(error), 4)
    except MacaroonError as error:
        return _say(f"{error} [{error.code}]", 4)
    except KeyboardInterrupt:
        return 130
    return 0


async def _serve(
    command: tuple[str, ...], config: Path, name: str, environment: dict[str, str], cwd: Path | None
) -> None:
    from fastmcp.client.transports import StdioTransport
    from fastmcp.server import create_proxy

    from ..adapters.fastmcp import bind
    from ..config.runtime import load_runtime

    runtime = load_runtime(config)
    transport: Any = StdioTransport(
        command[0], list(command[1:]), env=environment, cwd=str(cwd) if cwd is not None else None
    )
    try:
        proxy: Any = create_proxy(transport, name=name, mode="auto")
        await _started(proxy, command[0])
        bound = await bind(proxy, runtime)
        for line in bound.report.lines():
            print(f"mcp-macaroon: {line}", file=sys.stderr)
        await proxy.run_stdio_async(show_banner=False)
    finally:
        await transport.close()
        await runtime.close()


async def _started(proxy: Any, command: str) -> None:
    """Starts the server, by speaking to it once. Raises `BindError` where that cannot be done."""
    try:
        async with asyncio.timeout(START), proxy.client_factory():
            return
    except Exception as error:
        raise BindError(
            f"the server {command!r} does not start, or speaks no MCP ({type(error).__name__}); run it by itself"
        ) from None


def _environment(pairs: tuple[str, ...]) -> dict[str, str]:
    """The server's environment: ours without our own secrets, and what `--env` gives.

    The key that signs our tokens is never handed to the server that we guard.
    """
    import os

    environment = {key: value for key, value in os.environ.items() if not key.startswith("MACAROON_")}
    for pair in pairs:
        key, given, value = pair.partition("=")
        if not key:
            raise ConfigError(f"--env takes NAME=VALUE or NAME, not {pair!r}")
        if not given and key not in os.environ:
            raise ConfigError(f"--env {key}: there is no such variable here")
        environment[key] = value if given else os.environ[key]
    return environment


def _say(text: str, code: int) -> int:
    print(f"mcp-macaroon: {text}", file=sys.stderr)
    return code
