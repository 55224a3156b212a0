"""Plain data in which every value knows its line and column, and diagnostics that point at them. It reads nothing.

A line that holds a secret is never shown (law L7): which lines do is told by the names of keys and the form of values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..errors import Diagnostic

DataPath = tuple[str | int, ...]

# A key whose value is kept out of messages, and an address that carries a password.
SECRET_KEY: Final = re.compile(r"secret|passw|token|credential|private|api_?key|_key\Z|\Akey\Z|dsn", re.IGNORECASE)
LONG: Final = 12  # from this length on a text may be a secret
SECRET_VALUE: Final = re.compile(r"://[^/\s]*@")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """Where a value or key stands. `inner` is how many characters lie between `column` and its first own character."""

    line: int
    column: int
    length: int = 1
    end_line: int = 0
    inner: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something wrong at a spot; `key` says that the spot is a key's."""

    code: str
    message: str
    spot: Spot
    hint: str = ""
    key: bool = False


class Source:
    """Plain data with the places of its values, and what is already wrong with it.

    `base` is the directory that relative paths in the file start from. `data` holds only mappings with text keys,
    lists, texts, numbers, booleans and None.
    """

    def __init__(
        self,
        data: Any,
        *,
        file: str = "",
        base: Path | None = None,
        lines: Sequence[str] = (),
        places: Places | None = None,
        faults: Sequence[Fault] = (),
        hidden: Sequence[int] = (),
        world_readable: bool = False,
    ) -> None:
        self.data = data
        self.file = file
        self.base = base or Path.cwd()
        self.world_readable = world_readable
        self._lines = tuple(lines)
        self._places = places or Places()
        self._settings = self._find_settings()
        self._secret_lines = frozenset((*hidden, *self._find_secret_lines()))
        self.problems = tuple(self._problem(fault) for fault in faults)

    def __repr__(self) -> str:
        return f"Source({self.file!r})"

    def spot(self, path: DataPath, *, key: bool = False) -> Spot | None:
        """Where the value (or the key) at `path` stands; where it is unknown, what encloses it."""
        if key and path in self._places.keys:
            return self._places.keys[path]
        for end in range(len(path), -1, -1):
            found = self._places.values.get(path[:end])
            if found is not None:
                return found
        return None

    def get(self, path: DataPath) -> Any:
        """The value at `path`, or None where there is none."""
        value = self.data
        for part in path:
            inside = (isinstance(value, Mapping) and part in value) or (
                isinstance(value, list) and isinstance(part, int) and part < len(value)
            )
            if not inside:
                return None
            value = value[part]
        return value

    def diagnostic(
        self,
        code: str,
        message: str,
        path: DataPath = (),
        *,
        key: bool = False,
        offset: int = 0,
        length: int | None = None,
        hint: str = "",
        severity: str = "error",
    ) -> Diagnostic:
        """A diagnostic that points at the value (or key) at `path`, or `offset` characters into it.

        The line is shown unless it holds a secret; for a key, what follows the key is not shown.
        """
        spot = self.spot(path, key=key)
        if spot is None:
            where = dotted(path)
            message = f"{where}: {message}" if where else message
            return Diagnostic(code=code, message=message, file=self.file, hint=hint, severity=severity)
        column, width = self._inside(spot, path, offset, length)
        return Diagnostic(
            code=code,
            message=message,
            file=self.file,
            line=spot.line,
            column=column,
            length=width,
            source_line=self._shown(spot, cut=key and path in self._places.keys),
            hint=hint,
            severity=severity,
        )

    def _problem(self, fault: Fault) -> Diagnostic:
        return diagnostic_of(fault, self.file, self._shown(fault.spot, cut=fault.key))

    def _inside(self, spot: Spot, path: DataPath, offset: int, length: int | None) -> tuple[int, int]:
        """Column and width of a part of a scalar, as far as the line spells the value without escapes."""
        value = self.get(path)
        if length is None or not isinstance(value, str) or not self._lines:
            return spot.column, spot.length
        line = self._lines[spot.line - 1]
        start = spot.column - 1 + spot.inner
        if line[start : start + offset] != value[:offset]:
            return spot.column, spot.length
        return start + offset + 1, max(1, min(length, len(line) - start - offset))

    def _shown(self, spot: Spot, *, cut: bool) -> str:
        """The line, unless it holds a secret. Outside the rules, what follows the spot is never shown, and a line with
        a longer text before it is not either: a misspelt key may have a secret for its value.
        """
        if not self._lines or spot.line in self._secret_lines:
            return ""
        line = self._lines[spot.line - 1]
        columns = self._settings.get(spot.line)
        if columns is None and not cut:
            return line
        if any(column < spot.column for column in columns or ()):
            return ""
        end = spot.column - 1 + spot.length + (1 if cut else 0)
        return line if not line[end:].strip(" :]}") else f"{line[:end]} …"

    def _find_secret_lines(self) -> Iterator[int]:
        for path, spot in self._places.values.items():
            if path[:1] == ("policies",):
                continue
            value = self.get(path)
            if _names_secret(path) or (isinstance(value, str) and _may_be_secret(path, value)):
                yield from range(spot.line, spot.end_line + 1)

    def _find_settings(self) -> dict[int, list[int]]:
        """The lines outside the rules, each with the columns of its longer texts."""
        found: dict[int, list[int]] = {}
        for path, spot in self._places.values.items():
            if path and path[0] != "policies":
                columns = found.setdefault(spot.line, [])
                value = self.get(path)
                if isinstance(value, str) and len(value) >= LONG:
                    columns.append(spot.column)
        return found


def _names_secret(path: DataPath) -> bool:
    return any(isinstance(part, str) and SECRET_KEY.search(part) for part in path[1:])


def _may_be_secret(path: DataPath, value: str) -> bool:
    plain_store = path != ("config", "store") or value.isalnum()
    return SECRET_VALUE.search(value) is not None or not plain_store


class Places:
    """Where the values and the keys of a file stand, by their path in the data."""

    __slots__ = ("keys", "values")

    def __init__(self) -> None:
        self.values: dict[DataPath, Spot] = {}
        self.keys: dict[DataPath, Spot] = {}


def dotted(path: DataPath) -> str:
    """A path as people write it: `config.audit[0].sink`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def diagnostic_of(fault: Fault, file: str, shown: str) -> Diagnostic:
    """A fault as a diagnostic, with the line that may be shown."""
    return Diagnostic(
        code=fault.code,
        message=fault.message,
        file=file,
        line=fault.spot.line,
        column=fault.spot.column,
        length=fault.spot.length,
        source_line=shown,
        hint=fault.hint,
    )
