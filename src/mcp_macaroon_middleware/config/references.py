"""Values by reference: `${NAME}`, `{env: NAME}`, `{file: PATH}`. A reference is a whole value and yields a text.

What a variable or file holds is never read as YAML, so it cannot bring structure with it. No repr shows a value.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from ..builtin.key_sources import file_text, variable
from ..errors import ConfigError, Diagnostic, PluginError
from .places import DataPath, Source

_NAME: Final = r"[A-Za-z_][A-Za-z0-9_]*"
_WHOLE: Final = re.compile(rf"\$\{{({_NAME})\}}\Z")
PLUGINS: Final[DataPath] = ("plugins",)  # an entry here is a plugin's section, never a reference
_TEXT: Final = "text"
_ENV: Final = "env"
_FILE: Final = "file"


@dataclass(frozen=True, slots=True, repr=False)
class Reference:
    """A text, written out (`text`) or by reference (`env`, `file`); `value` is the text, the name or the path."""

    kind: str
    value: str

    def __repr__(self) -> str:
        return f"Reference({self.kind!r})" if self.kind == _TEXT else f"Reference({self.kind!r}, {self.value!r})"

    @property
    def is_literal(self) -> bool:
        """Whether the text itself stands in the configuration."""
        return self.kind == _TEXT

    def resolve(self, base: Path) -> str:
        """The text; a path starts from `base`. Raises `ConfigError` that names the variable or the file."""
        try:
            if self.kind == _ENV:
                return variable(self.value)
            return file_text(base / self.value) if self.kind == _FILE else self.value
        except PluginError as error:
            raise ConfigError([missing(self.kind, self.value, str(error))]) from None

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(_validated)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return copy.deepcopy(REFERENCE_SCHEMA)


REFERENCE_SCHEMA: Final[dict[str, Any]] = {
    "description": "A text, or a reference: ${NAME}, {env: NAME} or {file: PATH}.",
    "anyOf": [
        {"type": "string", "minLength": 1},
        *(
            {
                "type": "object",
                "properties": {key: {"type": "string"}},
                "required": [key],
                "additionalProperties": False,
            }
            for key in (_ENV, _FILE)
        ),
    ],
}


def reference_of(value: Any) -> Reference | None:
    """The reference that a value is, or None. Raises `ValueError` for `${` that is no reference."""
    if isinstance(value, Mapping) and len(value) == 1:
        kind, name = next(iter(value.items()))
        if kind in (_ENV, _FILE):
            if not isinstance(name, str) or not name or (kind == _ENV and not re.fullmatch(_NAME, name)):
                raise ValueError(f"{kind} takes the {'name of a variable' if kind == _ENV else 'path of a file'}")
            return Reference(kind, name)
    if not isinstance(value, str) or "${" not in value:
        return None
    whole = _WHOLE.match(value)
    if whole is not None:
        return Reference(_ENV, whole[1])
    if value.startswith("$${"):
        return Reference(_TEXT, value[1:])
    raise ValueError("a reference ${NAME} is a whole value; write $${ at the start for the text itself")


def referenced_variables(data: Any) -> frozenset[str]:
    """Every variable that data of a policy file refers to, wherever it stands."""
    return frozenset(each.value for each in _references(data) if each.kind == _ENV)


def referenced_files(data: Any) -> frozenset[str]:
    """Every file that data of a policy file refers to, wherever it stands, as it is written there."""
    return frozenset(each.value for each in _references(data) if each.kind == _FILE)


def _references(data: Any) -> Iterator[Reference]:
    try:
        reference = reference_of(data)
    except ValueError:
        reference = None
    if reference is not None:
        yield reference
        return
    for each in data.values() if isinstance(data, Mapping) else data if isinstance(data, list) else ():
        yield from _references(each)


def missing(kind: str, name: str, why: str) -> Diagnostic:
    """The diagnostic, without a place, for a variable or a file that brings nothing."""
    hint = f"set {name}, or name another source" if kind == _ENV else ""
    return Diagnostic(code="reference_missing", message=why, hint=hint)


def resolve_references(
    source: Source, path: DataPath, *, keep: frozenset[str] = frozenset()
) -> tuple[Any, list[Diagnostic]]:
    """A copy of the data at `path` with references replaced by their texts; entries in `keep` stay as they are.

    An entry with a reference that cannot be resolved is told and left out.
    """
    problems: list[Diagnostic] = []
    data = source.get(path)
    if not isinstance(data, Mapping):
        return data, problems
    resolved: dict[str, Any] = {}
    for name, value in data.items():
        told = len(problems)
        inner = value if name in keep else _resolved(source, (*path, name), value, problems, section=path == PLUGINS)
        if len(problems) == told:
            resolved[name] = inner
    return resolved, problems


def _resolved(source: Source, path: DataPath, value: Any, problems: list[Diagnostic], *, section: bool = False) -> Any:
    try:
        reference = None if section and isinstance(value, Mapping) else reference_of(value)
        if reference is not None:
            return reference.resolve(source.base)
    except ValueError as error:
        problems.append(source.diagnostic("reference_invalid", str(error), path))
        return None
    except ConfigError as error:
        problems.extend(source.diagnostic(d.code, d.message, path, hint=d.hint) for d in error.diagnostics)
        return None
    if isinstance(value, Mapping):
        return {name: _resolved(source, (*path, name), inner, problems) for name, inner in value.items()}
    if isinstance(value, list):
        return [_resolved(source, (*path, index), inner, problems) for index, inner in enumerate(value)]
    return value


def _validated(value: Any) -> Reference:
    if isinstance(value, Reference):
        return value
    reference = reference_of(value)
    if reference is not None:
        return reference
    if not isinstance(value, str) or not value:
        raise ValueError("should be a text, ${NAME}, {env: NAME} or {file: PATH}")
    return Reference(_TEXT, value)
