"""`mcp-macaroon check`: says everything that is wrong with a policy file, and, with a server, what it covers there."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from ..config.compile import Compiled, compile_file
from ..config.dry import dry_runtime
from ..config.keys import load_keys
from ..config.opening import STORE_FAILED
from ..config.trying import try_store, untried_store
from ..errors import BindError, ConfigError, Diagnostic, MacaroonError
from ..host.registry import PluginInfo
from .server import load_server

FINE: Final = 0
WARNED: Final = 1
WRONG: Final = 2
PLUGIN: Final = 3
SERVER: Final = 4
UNREADABLE: Final = 5
STORE: Final = 6
SECRETS: Final = frozenset({"reference_missing", "keys_missing"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a check found: the diagnostics, and which of them are about plugins, the server or reading the file."""

    file: str
    compiled: Compiled | None = None
    diagnostics: tuple[Diagnostic, ...] = ()
    plugin_problems: tuple[Diagnostic, ...] = ()
    server_problem: str = ""
    report: Any = None
    unreadable: bool = False
    plugins: tuple[PluginInfo, ...] = field(default=())

    @property
    def errors(self) -> int:
        """How many diagnostics are errors."""
        return sum(d.severity == "error" for d in self.diagnostics)

    @property
    def warnings(self) -> int:
        """How many diagnostics are warnings."""
        return len(self.diagnostics) - self.errors

    def exit_code(self, *, strict: bool) -> int:
        """The command's exit code; where several apply, the one that names the cause."""
        if self.unreadable:
            return UNREADABLE
        if any(problem.severity == "error" for problem in self.plugin_problems):
            return PLUGIN
        if self.server_problem:
            return SERVER
        if any(d.code == STORE_FAILED for d in self.diagnostics):
            return STORE
        if self.errors:
            return WRONG
        return WARNED if strict and self.warnings else FINE


def check(
    file: Annotated[Path, Parameter(help="The policy file.")],
    *,
    server: Annotated[
        str | None, Parameter(help="A server to bind it to: server.py:mcp or package.module:mcp.")
    ] = None,
    as_json: Annotated[bool, Parameter(name="--json", help="Print one JSON document.", negative="")] = False,
    strict: Annotated[bool, Parameter(help="Exit with 1 if there are warnings.", negative="")] = False,
    no_secrets: Annotated[
        bool, Parameter(help="Missing keys and references are warnings: for machines without them.", negative="")
    ] = False,
    no_store: Annotated[
        bool,
        Parameter(help="Do not try whether the store can be used: for machines that cannot reach it.", negative=""),
    ] = False,
) -> int:
    """Check a policy file: everything that is wrong, at once, with its place.

    With --server the server is imported and the rules are bound to it: what is covered, what is not, and rules that
    no component bears. Nothing is served and no tool runs. A store that the server shares with others (redis://…) is
    used once, as a start does; --no-store leaves that out.

    Exit codes: 0 fine; 1 warnings, with --strict; 2 errors in the file; 3 a plugin could not be loaded; 4 the server
    could not be loaded or does not fit the rules; 5 the file cannot be read; 6 the store cannot be used.
    """
    with untried_store() if no_store else nullcontext():
        finding = find(file, server=server, no_secrets=no_secrets)
    code = finding.exit_code(strict=strict)
    if as_json:
        sys.stdout.write(json.dumps(as_document(finding, code), indent=2) + "\n")
    else:
        show(finding, Console(highlight=False, soft_wrap=True, emoji=False, markup=False))
    return code


def find(file: Path, *, server: str | None = None, no_secrets: bool = False) -> Finding:
    """Everything that the check finds. The server is imported first: it may register enforcers of its own.

    The store is tried if nothing else is wrong with the file; inside `untried_store` it is not.
    """
    loaded, failed = _loaded(server)
    try:
        compiled = compile_file(file)
    except ConfigError as error:
        unreadable = all(d.code.startswith("file_") for d in error.diagnostics)
        return Finding(file=str(file), diagnostics=error.diagnostics, unreadable=unreadable)
    _, key_problems = load_keys(compiled)
    everything = sorted({*compiled.diagnostics, *key_problems}, key=lambda d: (d.line, d.column, d.code))
    finding = Finding(
        file=str(file),
        compiled=compiled,
        diagnostics=tuple(_without_secrets(everything) if no_secrets else everything),
        plugin_problems=compiled.discovery.problems,
        plugins=compiled.discovery.plugins,
    )
    if not finding.errors:
        finding = _with_store(finding, compiled)
    if failed is not None and not (finding.errors and isinstance(failed.__cause__, ConfigError)):
        return replace(finding, server_problem=str(failed))
    if loaded is None or compiled.plan is None or finding.errors:
        return finding
    return _bound(finding, loaded, compiled)


def _with_store(finding: Finding, compiled: Compiled) -> Finding:
    """The finding, with what keeps the store from being used."""
    try:
        try_store(compiled)
    except ConfigError as error:
        return replace(finding, diagnostics=finding.diagnostics + error.diagnostics)
    return finding


def _loaded(server: str | None) -> tuple[Any, BindError | None]:
    try:
        return (load_server(server) if server is not None else None), None
    except BindError as error:
        return None, error


def _bound(finding: Finding, server: Any, compiled: Compiled) -> Finding:
    from ..adapters.fastmcp import guard

    runtime = dry_runtime(compiled)
    try:
        return replace(finding, report=guard(server, runtime).report)
    except MacaroonError as error:
        return replace(finding, server_problem=f"{error} [{error.code}]")
    finally:
        runtime.close_now()


def _without_secrets(diagnostics: Iterable[Diagnostic]) -> Iterable[Diagnostic]:
    for diagnostic in diagnostics:
        yield replace(diagnostic, severity="warning") if diagnostic.code in SECRETS else diagnostic


# --- output ---------------------------------------------------------------------------------------------------------


def show(finding: Finding, console: Console) -> None:
    """Prints the finding for people."""
    for diagnostic in finding.diagnostics:
        console.print(_coloured(diagnostic))
    if finding.server_problem:
        console.print(Text.assemble(("server: ", "bold red"), finding.server_problem))
    if finding.report is not None:
        for line in _lines(finding.report):
            console.print(Text(line))
    console.print(Text(summary(finding), style="bold red" if finding.exit_code(strict=False) else "bold green"))


def summary(finding: Finding) -> str:
    """One line: what was read and how much is wrong."""
    counts = f"{_count(finding.errors, 'error')}, {_count(finding.warnings, 'warning')}"
    if finding.compiled is None:
        return f"{finding.file}: {counts}"
    compiled = finding.compiled
    loaded = sum(plugin.status == "loaded" for plugin in finding.plugins)
    rules = _count(len(compiled.rules), "rule")
    return f"{finding.file}: {rules}, {_count(loaded, 'plugin')}, revision {compiled.revision}: {counts}"


def as_document(finding: Finding, code: int) -> dict[str, Any]:
    """The finding as plain JSON values."""
    compiled = finding.compiled
    return {
        "file": finding.file,
        "exit_code": code,
        "revision": compiled.revision if compiled is not None else None,
        "rules": [rule.text for rule in compiled.rules] if compiled is not None else [],
        "errors": finding.errors,
        "warnings": finding.warnings,
        "diagnostics": [asdict(diagnostic) for diagnostic in finding.diagnostics],
        "plugins": [
            {"name": p.name, "distribution": p.distribution, "version": p.version, "status": p.status, "why": p.why}
            for p in finding.plugins
        ],
        "server": {
            "problem": finding.server_problem or None,
            "report": _lines(finding.report) if finding.report is not None else None,
        },
    }


def _lines(report: Any) -> list[str]:
    return [str(line) for line in report.lines()]


def _coloured(diagnostic: Diagnostic) -> Text:
    lines: Sequence[str] = diagnostic.render().split("\n")
    colour = "red" if diagnostic.severity == "error" else "yellow"
    text = Text(lines[0])
    text.highlight_words([f"{diagnostic.severity}:"], style=f"bold {colour}")
    for line in lines[1:]:
        is_caret = bool(line.strip()) and not line.strip(" ^")
        text.append("\n")
        text.append(line, style=colour if is_caret else None)
    return text


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
