"""The command `mcp-macaroon`. Each command is a module of its own, imported only when it runs."""

from __future__ import annotations

import sys
from typing import Final

from cyclopts import App, CycloptsError

from .. import __version__

PACKAGE: Final = "mcp_macaroon_middleware.cli"


def build() -> App:
    """The application with all of its commands, none of them imported yet."""
    app = App(
        name="mcp-macaroon",
        help="Authorization for MCP servers: rules, redaction, limits and narrowable tokens.",
        version=__version__,
        result_action="return_value",
    )
    app.command(f"{PACKAGE}.check:check", name="check", help="Say everything that is wrong with a policy file.")
    app.command(f"{PACKAGE}.schema:schema", name="schema", help="Print the JSON schema of policy files.")
    app.command(f"{PACKAGE}.protect:protect", name="protect", help="Guard an MCP server that somebody else wrote.")
    app.command(f"{PACKAGE}.demo:demo", name="demo", help="Watch a guarded server: real clients, scene by scene.")
    plugins = App(name="plugins", help="The plugins that are installed here.")
    plugins.command(f"{PACKAGE}.plugins:list_plugins", name="list", help="List plugins and what they provide.")
    keys = App(name="keys", help="The keys that sign tokens.")
    keys.command(f"{PACKAGE}.keys:new", name="new", help="Make a key, or print one.")
    keys.command(f"{PACKAGE}.keys:list_keys", name="list", help="List the ids of a key directory.")
    app.command(plugins)
    app.command(keys)
    app.command(f"{PACKAGE}.token_app:app", name="token", help="Tokens: made, narrowed, looked into, checked.")
    return app


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code: a command's own, 2 for a wrong call, 130 when interrupted."""
    app = build()
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["token"] and _shows_token(given):
        return 2
    try:
        result = app(arguments, exit_on_error=False, print_error=True)
    except CycloptsError:
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    return result if isinstance(result, int) else 0


def _shows_token(arguments: list[str]) -> bool:
    """Refuses a token among the arguments, and says why, before anything could repeat it in a message."""
    from .token_input import ADVICE, on_command_line

    if not on_command_line(arguments):
        return False
    print(f"mcp-macaroon: {ADVICE}", file=sys.stderr)
    return True
