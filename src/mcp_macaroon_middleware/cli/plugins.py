"""`mcp-macaroon plugins list`: which plugins are installed, what they provide, and why one is not loaded."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import Parameter
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..config.compile import compile_file
from ..errors import ConfigError, Diagnostic
from ..host.discovery import Discovery, PluginInfo, discover
from ..host.faults import one_line

FINE: Final = 0
FAILED: Final = 3
UNREADABLE: Final = 5
PIPED_WIDTH: Final = 160
_COLOURS: Final = {"loaded": "green", "disabled": "yellow", "not allowed": "yellow", "failed": "red"}


def list_plugins(
    *,
    config: Annotated[Path | None, Parameter(help="A policy file, whose plugins section counts.")] = None,
    as_json: Annotated[bool, Parameter(name="--json", help="Print one JSON document.", negative="")] = False,
) -> int:
    """List plugins: distribution, version, editable folder, what they provide, loaded or not, and why.

    Without --config every installed plugin is loaded, as a file without a `plugins:` section would do. What plugins
    print while they are imported goes to standard error.

    Exit codes: 0 fine; 3 a plugin failed, two clash, or a required one is missing; 5 the policy file cannot be read.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            found, told = _found(config)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return UNREADABLE
    if as_json:
        sys.stdout.write(json.dumps(as_document(found), indent=2) + "\n")
    else:
        show(found, _console())
    if told:
        print(told, file=sys.stderr)
    return FAILED if any(problem.severity == "error" for problem in found.problems) else FINE


def as_document(found: Discovery) -> dict[str, Any]:
    """The list as plain data: `plugins`, with the fields of `PluginInfo`, and `problems`."""
    return {
        "plugins": [{**asdict(plugin), "editable_path": _path(plugin)} for plugin in found.plugins],
        "problems": [
            {"code": each.code, "severity": each.severity, "message": each.message, "hint": each.hint}
            for each in found.problems
        ],
    }


def show(found: Discovery, console: Console) -> None:
    """Prints the list for people."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("plugin", "distribution", "version", "status", "provides", "folder"):
        table.add_column(column, overflow="fold")
    for plugin in found.plugins:
        table.add_row(*_row(plugin))
    console.print(table)
    for problem in found.problems:
        console.print(_problem(problem))


def _found(config: Path | None) -> tuple[Discovery, str]:
    if config is None:
        return discover(), ""
    compiled = compile_file(config)
    others = set(compiled.errors) - set(compiled.discovery.problems)
    return compiled.discovery, f"{config} has other errors: mcp-macaroon check {config}" if others else ""


def _row(plugin: PluginInfo) -> Sequence[Text]:
    status = Text(plugin.status, style=_COLOURS[plugin.status])
    if plugin.why and plugin.status != "failed":  # why it failed stands below the table, with what to do
        status.append(f": {one_line(plugin.why)}", style="default")
    cells = [plugin.name, plugin.distribution or "-", plugin.version or "-"]
    provides = Text("\n".join(map(one_line, plugin.provides)) or "-")
    return [*(Text(one_line(cell)) for cell in cells), status, provides, Text(one_line(_path(plugin) or ""))]


def _problem(problem: Diagnostic) -> Text:
    text = Text(f"{problem.severity}: ", style="red" if problem.severity == "error" else "yellow")
    text.append(f"{problem.message} [{problem.code}]", style="default")
    return text.append(f"\n    {problem.hint}", style="dim") if problem.hint else text


def _path(plugin: PluginInfo) -> str | None:
    return str(plugin.editable_path) if plugin.editable_path is not None else None


def _console() -> Console:
    """Standard output, in colour on a terminal unless NO_COLOR is set; wide where it is piped."""
    console = Console(highlight=False, emoji=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, emoji=False, markup=False, width=PIPED_WIDTH)
