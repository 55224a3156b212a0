"""Real tiny distributions in a folder on `sys.path`: a module, METADATA and entry_points.txt, nothing mocked."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcp_macaroon_middleware.plugin import decorators

GROUP = "mcp_macaroon_middleware"


class Site:
    """A folder on `sys.path` to which distributions and modules are added."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(exist_ok=True)

    def module(self, name: str, code: str) -> Path:
        """Writes a module (or, with dots, a package's module)."""
        *packages, last = name.split(".")
        folder = self.folder
        for package in packages:
            folder = folder / package
            folder.mkdir(exist_ok=True)
            (folder / "__init__.py").touch()
        path = folder / f"{last}.py"
        path.write_text(code, encoding="utf-8")
        return path

    def distribution(
        self,
        name: str,
        code: str | None = None,
        *,
        version: str = "1.0",
        plugin: str | None = None,
        entry: str | None = None,
        metadata: str = "",
        editable: str | None = None,
    ) -> str:
        """Installs a distribution with one plugin of the same name; returns its module's name."""
        module = name.replace("-", "_")
        if code is not None:
            self.module(module, code)
        info = self.folder / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}")
        (info / "entry_points.txt").write_text(entry or f"[{GROUP}]\n{plugin or module} = {module}\n")
        if editable is not None:
            direct = {"url": editable, "dir_info": {"editable": True}}
            (info / "direct_url.json").write_text(json.dumps(direct))
        return module

    def imported(self, module: str) -> bool:
        """Whether the module was imported."""
        return module in sys.modules


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An empty folder, first on `sys.path`."""
    before = set(sys.modules)
    monkeypatch.setattr(decorators, "_application", {})
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    made = Site(tmp_path / "site")
    monkeypatch.syspath_prepend(str(made.folder))
    yield made
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(tmp_path)) or name.startswith("_macaroon_file_"):
            del sys.modules[name]
