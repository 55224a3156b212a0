"""The command `mcp-macaroon`. Each command is a module of its own, imported only when it runs."""

from __future__ import annotations

import sys
from typing import Final

from cyclopts import App, CycloptsError

from .. import __version__

PACKAGE: Final = "mcp_macaroon_middleware.cli"


COMMANDS: Final = (
    ("check", "check:check", "Say everything that is wrong with a policy file."),
    ("schema", "schema:schema", "Print the JSON schema of policy files."),
    ("protect", "protect:protect", "Guard an MCP server that somebody else wrote."),
    ("demo", "demo:demo", "Watch a guarded server: real clients, scene by scene."),
)
GROUPS: Final = {
    "plugins": ("The plugins that are installed here.", (("list", "plugins:list_plugins", "List plugins."),)),
    "keys": (
        "The keys that sign tokens.",
        (
            ("new", "keys:new", "Make a key file, a key in a directory, or print one."),
            ("rotate", "keys:rotate", "Let another key sign; the old one still verifies for a while."),
            ("retire", "keys:retire", "Remove a previous key, or every one whose window has ended."),
            ("list", "keys:list_keys", "List keys: ids, states, dates, fingerprints."),
        ),
    ),
}


def build(whole: bool = False) -> App:
    """The application with all of its commands, none of them imported yet.

    `whole`: a command's own page shows all of its help; without it, a line, for which nothing is imported.
    """
    app = App(
        name="mcp-macaroon",
        help="Authorization for MCP servers: rules, redaction, limits and narrowable tokens.",
        version=__version__,
        result_action="return_value",
    )

    def add(to: App, commands: tuple[tuple[str, str, str], ...]) -> None:
        for name, target, line in commands:
            to.command(f"{PACKAGE}.{target}", name=name, help=None if whole else line)

    add(app, COMMANDS)
    for name, (line, commands) in GROUPS.items():
        group = App(name=name, help=line)
        add(group, commands)
        app.command(group)
    app.command(f"{PACKAGE}.token_app:app", name="token", help="Tokens: made, narrowed, looked into, checked.")
    return app


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code: a command's own, 2 for a wrong call, 130 when interrupted."""
    given = sys.argv[1:] if arguments is None else arguments
    named = 2 if given[:1] and given[0] in GROUPS else 1
    app = build(whole=len(given) > named and given[-1] in ("--help", "-h"))
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
