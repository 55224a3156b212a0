"""Clients' own configuration files: where they are, and how an entry gets into one without losing what it holds."""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..errors import ConfigError

TOKEN: Final = "MACAROON_TOKEN"  # noqa: S105 - the name of a variable
"""The variable that a client over HTTP keeps its token in."""
_COMMENT: Final = re.compile(r"(^|\s)(//|/\*)", re.MULTILINE)
_SECRETS: Final = ("env", "headers", "http_headers")


def folder_of(application: str) -> Callable[[], Path]:
    """Where an application keeps its files on this system."""

    def folder() -> Path:
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Application Support" / application
        if os.name == "nt":
            return Path(os.environ.get("APPDATA", str(Path.home() / "AppData" / "Roaming"))) / application
        return Path(os.environ.get("XDG_CONFIG_HOME", str(Path.home() / ".config"))) / application

    return folder


@dataclass(frozen=True, slots=True)
class Place:
    """A client's file: its name below a folder, which is the project's (the present one) unless said otherwise."""

    name: str
    folder: Callable[[], Path] = Path.cwd

    def path(self) -> Path:
        """The file, as it would be for this user, here and now."""
        return self.folder() / self.name

    def merge(self, more: Mapping[str, Any], key: str, name: str, *, replace: bool) -> str:
        """Adds an entry to a JSON file; says what was done. Raises `ConfigError`, and changes nothing."""
        path = self.path()
        before = _read(path)
        document = _parsed(before, path)
        servers = document.setdefault(key, {})
        if not isinstance(servers, dict):
            raise ConfigError(f"{path}: {key!r} is no object; mend it, or add the entry by hand")
        there = servers.get(name)
        if there == more[key][name]:
            return f"{path} has this entry already"
        if there is not None and not replace:
            raise ConfigError(f"{path} has another server {name!r}; choose a --name, or say --replace")
        servers[name] = more[key][name]
        known = document.get("inputs", [])
        added = [each for each in more.get("inputs", []) if each not in known]
        if added:
            document["inputs"] = [*known, *added]
        return _replace(path, before, json.dumps(document, indent=2, ensure_ascii=False) + "\n")

    def append(self, key: str, name: str, body: Mapping[str, Any], text: str) -> str:
        """Adds a table to a TOML file, whose other lines stay. Raises `ConfigError`, and changes nothing."""
        path = self.path()
        before = _read(path)
        try:
            found = tomllib.loads(before).get(key, {})
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path} is no TOML: {error}") from None
        if name in found:
            if found[name] == body:
                return f"{path} has this entry already"
            raise ConfigError(f"{path} has another server {name!r}; choose a --name, or take its table out")
        gap = "" if not before else "\n" if before.endswith("\n") else "\n\n"
        return _replace(path, before, before + gap + text + "\n")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or type(error).__name__}"
        ) from None


def _parsed(text: str, path: Path) -> dict[str, Any]:
    try:
        document = json.loads(text) if text.strip() else {}
    except ValueError as error:
        why = "it has comments, which would be lost" if _COMMENT.search(text) else str(error)
        raise ConfigError(
            f"{path} cannot be changed: {why}; add the entry by hand (leave --write out to see it)"
        ) from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path} is no JSON object")
    return document


def _replace(path: Path, before: str, after: str) -> str:
    """Writes a file anew as a whole, after a backup of the old one; shows what changes, without values of variables."""
    lines = difflib.unified_diff(_shown(before), _shown(after), str(path), str(path), lineterm="")
    print("\n".join(lines), file=sys.stderr)
    target = Path(os.path.realpath(path))  # a link to a file in somebody's dotfiles stays a link
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        saved = f"; the old one is {_backup(target)}" if target.exists() else ""
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(after)
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or type(error).__name__}") from None
    return f"wrote {path}{saved}"


def _backup(path: Path) -> Path:
    saved = path.with_name(f"{path.name}.{time.strftime('%Y%m%d-%H%M%S')}.bak")
    number = 1
    while saved.exists():
        saved = saved.with_name(f"{path.name}.{time.strftime('%Y%m%d-%H%M%S')}-{number}.bak")
        number += 1
    shutil.copy2(path, saved)
    return saved


def _shown(text: str) -> list[str]:
    """A file's lines for people: what variables and headers hold is not shown."""
    try:
        document = json.loads(text) if text.strip() else {}
    except ValueError:
        return [
            re.sub(r'(=\s*)".*"', r'\1"…"', line) if re.match(r"\s*(env|http_headers)\b", line) else line
            for line in text.splitlines()
        ]
    return json.dumps(_masked(document), indent=2, ensure_ascii=False).splitlines()


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: {name: _mask(each) for name, each in inner.items()}
            if key in _SECRETS and isinstance(inner, dict)
            else _masked(inner)
            for key, inner in value.items()
        }
    return [_masked(each) for each in value] if isinstance(value, list) else value


def _mask(value: Any) -> Any:
    return value if isinstance(value, str) and "${" in value else "…"
