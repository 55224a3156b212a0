from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcp_macaroon_middleware import plugin

ROOT = Path(__file__).parents[2]
PACKAGE = "mcp_macaroon_middleware"
BUILTIN = ROOT / "src" / PACKAGE / "builtin"


def test_everything_that_is_promised_to_authors_is_there() -> None:
    assert len(plugin.__all__) == len(set(plugin.__all__))
    assert all(hasattr(plugin, name) for name in plugin.__all__)


def test_the_essay_names_what_an_author_needs() -> None:
    essay = plugin.__doc__ or ""
    assert len(essay.strip().splitlines()) >= 20
    for name in ("enforcer", "hookimpl", "Check", "Verdict", "refuse", "blocking", "entry-points", "EnforcerContract"):
        assert name in essay


def test_importing_it_loads_no_framework() -> None:
    code = f"import sys, {PACKAGE}.plugin; print([m for m in ('fastmcp', 'mcp', 'redis', 'yaml') if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def imported(path: Path) -> Iterator[str]:
    """Modules of our package that a file imports, absolute, `builtin` itself left out."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == PACKAGE)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").partition(".")[0] == PACKAGE:
            yield node.module or ""
        elif isinstance(node, ast.ImportFrom) and node.level > 0 and BUILTIN in path.parents:
            up = path.relative_to(BUILTIN.parent).parts[: -node.level]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from (".".join((PACKAGE, *up, str(name))) for name in names)


FIRST_PARTY = [*BUILTIN.rglob("*.py"), *(ROOT / "plugins").glob("*/src/**/*.py")]


@pytest.mark.parametrize("path", FIRST_PARTY, ids=lambda path: str(path.relative_to(ROOT)))
def test_first_party_plugins_import_nothing_of_the_package_but_what_authors_may(path: Path) -> None:
    inside = BUILTIN in path.parents
    for name in imported(path):
        allowed = name == f"{PACKAGE}.plugin" or name.startswith(f"{PACKAGE}.plugin.")
        own = inside and (name == f"{PACKAGE}.model" or name.startswith(f"{PACKAGE}.builtin"))
        assert allowed or own, f"{path.name} imports {name}"
