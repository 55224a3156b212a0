"""No module imports itself by way of others, imports for types counted: what is read first needs nothing read later."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

PACKAGE: Final = "mcp_macaroon_middleware"
SOURCE: Final = Path(__file__).resolve().parents[1] / "src" / PACKAGE

KNOWN: Final[tuple[frozenset[str], ...]] = ()
"""Circles that still stand. They may shrink and go; a module may not join one, and no other may appear."""


def test_no_circle_of_imports_but_those_that_are_known() -> None:
    found = circles(imports(SOURCE))
    grown = [sorted(circle) for circle in found if not any(circle <= known for known in KNOWN)]
    assert grown == []


def test_a_known_circle_that_is_gone_leaves_the_list() -> None:
    still = frozenset().union(*circles(imports(SOURCE)))
    assert [sorted(known - still) for known in KNOWN if known - still] == []


@pytest.mark.parametrize(
    "kind",
    [
        "from .b import X",
        "from . import b",
        "import mcp_macaroon_middleware.b",
        "def late() -> None:\n    from .b import X",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .b import X",
    ],
)
def test_a_circle_by_any_kind_of_import_is_found(tmp_path: Path, kind: str) -> None:
    """architecture, "Circles": the layer contract leaves imports for types out, so the gate could see none of it."""
    folder = tmp_path / PACKAGE
    folder.mkdir()
    for name, text in {"__init__": "", "a": kind, "b": "from .c import Y", "c": "from .a import Z"}.items():
        (folder / f"{name}.py").write_text(text)
    assert circles(imports(folder)) == [frozenset({"a", "b", "c"})]


# --- the graph ------------------------------------------------------------------------------------------------------


def imports(source: Path) -> dict[str, set[str]]:
    """Every module of a package, by its name below it, with those that it imports anywhere in its text."""
    paths = {_name(path.relative_to(source)): path for path in source.rglob("*.py")}
    return {name: set(_imported(name, path, paths)) - {name} for name, path in paths.items()}


def circles(graph: Mapping[str, set[str]]) -> list[frozenset[str]]:
    """The groups of modules in which each reaches each other."""
    reached = {name: _reached(graph, name) for name in graph}
    groups = {frozenset(other for other in reached[name] if name in reached[other]) for name in graph}
    return sorted((group for group in groups if len(group) > 1), key=sorted)


def _reached(graph: Mapping[str, set[str]], start: str) -> set[str]:
    seen, left = set[str](), [start]
    while left:
        for other in graph[left.pop()] - seen:
            seen.add(other)
            left.append(other)
    return seen


def _name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix("__init__").removesuffix(".")


def _imported(name: str, path: Path, modules: Mapping[str, Path]) -> Iterator[str]:
    here = name.split(".") if path.name == "__init__.py" and name else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _ours(alias.name, modules)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) + 1 - node.level] if node.level else [PACKAGE]
            stem = ".".join([*base, *([node.module] if node.module else [])])
            stem = stem if node.level else node.module or ""
            full = f"{PACKAGE}.{stem}".removesuffix(".") if node.level else stem
            for alias in node.names:
                yield from list(_ours(f"{full}.{alias.name}", modules)) or _ours(full, modules)


def _ours(full: str, modules: Mapping[str, Path]) -> Iterator[str]:
    if full == PACKAGE or full.startswith(f"{PACKAGE}."):
        name = full.removeprefix(PACKAGE).removeprefix(".")
        if name in modules:
            yield name
