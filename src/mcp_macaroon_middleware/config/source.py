"""Turns YAML into plain data with places, under limits. It alone uses yaml, and it judges no rule.

yaml gives a stream of events and no more: nothing is composed, tagged or expanded by it. Depth and aliases are counted
before anything is built, and what a file could say twice or in two ways is an error: duplicate keys, merge keys, tags,
directives, and scalars that YAML 1.1 and 1.2 read differently.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NoReturn

import yaml

from ..errors import ConfigError, Diagnostic
from .file import read_policy_text
from .places import SECRET_VALUE, DataPath, Fault, Places, Source, Spot, diagnostic_of, dotted
from .scalars import plain_scalar

MAX_DEPTH: Final = 100
MAX_ALIASED: Final = 10_000
MAX_FAULTS: Final = 100

_PARSER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNSEEN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)
_NEWLINE: Final = re.compile(r"\r\n|\r|\n")


def read_source(path: str | Path) -> Source:
    """Reads a policy file. Raises `ConfigError` if it cannot be read at all; other faults stand in `problems`."""
    found = read_policy_text(Path(path))
    base = Path(path).absolute().parent
    return parse_source(found.text, file=str(path), base=base, world_readable=found.world_readable)


def parse_source(text: str, *, file: str = "", base: Path | None = None, world_readable: bool = False) -> Source:
    """Reads YAML. Raises `ConfigError` if it is no YAML; faults that leave data stand in `problems`."""
    lines = _NEWLINE.split(text)
    _refuse_unseen(lines, file)
    try:
        nodes = _read_nodes(text, lines)
    except _YamlError as error:
        raise ConfigError(
            diagnostic_of(fault, file, _if_policy(lines, fault.spot.line)) for fault in error.faults
        ) from None
    places = Places()
    return Source(
        _plain(nodes.root, (), places),
        file=file,
        base=base,
        lines=lines,
        places=places,
        faults=nodes.faults,
        hidden=[number for number in nodes.dropped_lines if not _if_policy(lines, number)],
        world_readable=world_readable,
    )


def source_of(mapping: Mapping[str, Any], *, base: Path | None = None) -> Source:
    """The same configuration given as a mapping. Raises `ConfigError` for what no file could say."""
    problems: list[Diagnostic] = []
    data = _checked_copy(mapping, (), problems)
    if problems:
        raise ConfigError(problems)
    return Source(data, base=base)


def _plain(node: _Node, path: DataPath, places: Places) -> Any:
    places.values[path] = node.spot
    if node.keys is not None:
        data = {}
        for (name, spot), child in zip(node.keys.items(), node.children, strict=True):
            places.keys[(*path, name)] = spot
            data[name] = _plain(child, (*path, name), places)
        return data
    if node.is_list:
        return [_plain(child, (*path, index), places) for index, child in enumerate(node.children)]
    return node.value


def _checked_copy(value: Any, path: DataPath, problems: list[Diagnostic]) -> Any:
    def refuse(code: str, message: str) -> None:
        problems.append(Diagnostic(code=code, message=f"{dotted(path) or 'the configuration'}: {message}"))

    if len(path) > MAX_DEPTH:
        refuse("too_deep", f"more than {MAX_DEPTH} levels deep")
    elif isinstance(value, Mapping):
        bad = [name for name in value if not isinstance(name, str)]
        if not bad:
            return {str(name): _checked_copy(inner, (*path, name), problems) for name, inner in value.items()}
        refuse("key_not_text", f"a key is a text, not {type(bad[0]).__name__}")
    elif isinstance(value, list | tuple):
        return [_checked_copy(inner, (*path, index), problems) for index, inner in enumerate(value)]
    elif isinstance(value, str):
        return str(value)
    elif value is None or type(value) in (int, float, bool):
        return value
    else:
        refuse("not_plain", f"{type(value).__name__} is not plain data")
    return None


def _refuse_unseen(lines: Sequence[str], file: str) -> None:
    """Refuses characters that an editor hides, or that reorder what it shows."""
    problems = [
        Diagnostic(
            code="control_character",
            message=f"a character that cannot be seen (U+{ord(found[0]):04X})",
            file=file,
            line=number,
            column=found.start() + 1,
        )
        for number, line in enumerate(lines, 1)
        if (found := _UNSEEN.search(line)) is not None
    ]
    if problems:
        raise ConfigError(problems[:20])


def _if_policy(lines: Sequence[str], number: int) -> str:
    """The line, if it certainly belongs to `policies:`; elsewhere it may hold a secret, so it is not shown.

    For faults that are found before the file's structure is known.
    """
    line = lines[number - 1]
    for above in (lines[index] for index in range(number - 1, -1, -1)):
        if above[:1] not in ("", " ", "\t", "#", "-", "]", "}"):
            safe = above.startswith("policies:") and not SECRET_VALUE.search(line)
            return line if safe else ""
    return ""


# --- events to nodes ------------------------------------------------------------------------------------------------


class _YamlError(Exception):
    """The text is no YAML, or passes a limit; `faults` holds this fault last and those before it."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__(faults[-1].message)
        self.faults = tuple(faults)


@dataclass(slots=True, kw_only=True)
class _Node:
    """A value with its place; `size` counts the values in it with aliases expanded, `height` their nesting.

    A mapping has `keys`, in the order of `children`; a list is `is_list`; anything else is a scalar `value`.
    """

    spot: Spot
    value: Any = None
    is_list: bool = False
    keys: dict[str, Spot] | None = None
    children: list[_Node] = field(default_factory=list)
    size: int = 1
    height: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Nodes:
    """A document, the faults that did not stop its reading, and the lines of values that a duplicate key dropped."""

    root: _Node
    faults: tuple[Fault, ...]
    dropped_lines: tuple[int, ...]


def _read_nodes(text: str, lines: Sequence[str]) -> _Nodes:
    """Reads one document. Raises `_YamlError`, and nothing else, for any text at all."""
    reader = _Reader(lines)
    try:
        for event in yaml.parse(text, Loader=_PARSER):
            reader.take(event)
    except yaml.YAMLError as error:
        raise _YamlError([*reader.faults, _syntax(error, lines)]) from None
    if reader.root is None:
        raise _YamlError([Fault(code="file_empty", message="the file is empty", spot=Spot(line=1, column=1))])
    return _Nodes(root=reader.root, faults=tuple(reader.faults), dropped_lines=tuple(reader.dropped_lines))


class _Reader:
    """Builds nodes from events. It never calls itself, so depth costs no stack."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.root: _Node | None = None
        self.faults: list[Fault] = []
        self.dropped_lines: list[int] = []
        self._lines = lines
        self._anchors: dict[str, _Node | None] = {}
        self._open: list[_Node] = []
        self._names: list[str | None] = []  # the anchor of each open node
        self._pending: list[tuple[str, Spot] | None] = []  # the key that waits for its value, in each open node
        self._aliased = 0

    def take(self, event: Any) -> None:
        if isinstance(event, yaml.DocumentStartEvent):
            self._document(event)
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, yaml.ScalarEvent):
            self._scalar(event)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._begin(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._end(event)

    def _document(self, event: Any) -> None:
        if self.root is not None:
            self._stop("second_document", "a second YAML document; the configuration is one", self._spot(event))
        if event.version or event.tags:
            self._stop("directive", "YAML directives are not taken", self._spot(event))

    def _begin(self, event: Any) -> None:
        spot = replace(self._spot(event), length=1)
        self._refuse_tag(event, spot)
        if len(self._open) >= MAX_DEPTH:
            self._stop("too_deep", f"more than {MAX_DEPTH} levels deep", spot)
        if self._wants_key():
            self._stop("key_not_text", "a key is a text, not a list or a mapping", spot)
        mapping = isinstance(event, yaml.MappingStartEvent)
        self._open.append(_Node(spot=spot, keys={} if mapping else None, is_list=not mapping))
        self._names.append(event.anchor)
        self._pending.append(None)
        if event.anchor is not None:
            self._anchors[event.anchor] = None  # not to be used until it is complete

    def _end(self, event: Any) -> None:
        node, anchor = self._open.pop(), self._names.pop()
        self._pending.pop()
        node.spot = replace(node.spot, end_line=max(node.spot.line, event.end_mark.line + 1))
        node.size += sum(child.size for child in node.children)
        node.height += max((child.height for child in node.children), default=0)
        if anchor is not None:
            self._anchors[anchor] = node
        self._add(node)

    def _scalar(self, event: Any) -> None:
        spot = self._spot(event, inner=1 if event.style in ("'", '"') else 0)
        self._refuse_tag(event, spot)
        if self._wants_key():
            self._pending[-1] = (self._key(event, spot), spot)
            return
        self._refuse_control(event.value, spot, "\n\t")
        plain = not event.style and event.tag is None
        node = _Node(spot=spot, value=self._resolved(event.value, spot) if plain else event.value)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        self._add(node)

    def _alias(self, event: Any) -> None:
        spot = self._spot(event)
        if self._wants_key():
            self._stop("key_not_text", "a key is a text, not an alias", spot)
        if event.anchor not in self._anchors:
            self._stop("unknown_alias", "an alias without an anchor", spot, "a text that begins with * needs quotes")
        target = self._anchors[event.anchor]
        if target is None:
            self._stop("cyclic_alias", "an alias inside the value that it stands for", spot)
        self._aliased += target.size
        if self._aliased > MAX_ALIASED:
            self._stop("alias_limit", f"aliases stand for more than {MAX_ALIASED} values", spot)
        if len(self._open) + target.height > MAX_DEPTH:
            self._stop("too_deep", f"more than {MAX_DEPTH} levels deep", spot)
        self._add(replace(target, spot=spot))

    def _add(self, node: _Node) -> None:
        if not self._open:
            self.root = node
            return
        parent = self._open[-1]
        if parent.keys is not None:
            name, spot = self._pending[-1] or ("", node.spot)
            self._pending[-1] = None
            if name in parent.keys:
                first = parent.keys[name].line
                self._note(
                    "duplicate_key", f"the key {name!r} stands here again; it is in line {first}", spot, key=True
                )
                self.dropped_lines.extend(range(node.spot.line, max(node.spot.line, node.spot.end_line) + 1))
                return
            parent.keys[name] = spot
        parent.children.append(node)

    def _wants_key(self) -> bool:
        return bool(self._open) and self._open[-1].keys is not None and self._pending[-1] is None

    # --- scalars ---

    def _key(self, event: Any, spot: Spot) -> str:
        text: str = event.value
        self._refuse_control(text, spot)
        if event.style:
            return text
        if text == "<<":
            self._stop("merge_key", "merge keys (<<) are not taken; write the keys out", spot)
        if not isinstance(self._resolved(text, spot), str):
            self._note("key_not_text", f"a key is a text; write {text!r} in quotes", spot, key=True)
        return text

    def _resolved(self, text: str, spot: Spot) -> Any:
        value, agreed = plain_scalar(text)
        if not agreed:
            self._note(
                "ambiguous_scalar",
                "versions of YAML read this value differently",
                spot,
                "write a text in quotes, a number as 10, a switch as true or false",
            )
        return value

    def _refuse_tag(self, event: Any, spot: Spot) -> None:
        if event.tag is not None:
            self._note("tag", "tags (!…) are not taken", spot, "write a text in quotes")

    def _refuse_control(self, text: str, spot: Spot, taken: str = "") -> None:
        if any(unicodedata.category(char) in ("Cc", "Cs") and char not in taken for char in text):
            self._note("control_character", "a control character in a text", spot)

    # --- places ---

    def _spot(self, event: Any, *, inner: int = 0) -> Spot:
        start, end = event.start_mark, event.end_mark
        line = min(start.line, len(self._lines) - 1)
        length = end.column - start.column if end.line == start.line else len(self._lines[line]) - start.column
        return Spot(
            line=line + 1, column=start.column + 1, length=max(1, length), end_line=max(line, end.line) + 1, inner=inner
        )

    def _note(self, code: str, message: str, spot: Spot, hint: str = "", *, key: bool = False) -> None:
        if len(self.faults) >= MAX_FAULTS:
            self._stop("too_many_faults", f"more than {MAX_FAULTS} faults; the rest is not read", spot)
        self.faults.append(Fault(code=code, message=message, spot=spot, hint=hint, key=key))

    def _stop(self, code: str, message: str, spot: Spot, hint: str = "") -> NoReturn:
        raise _YamlError([*self.faults, Fault(code=code, message=message, spot=spot, hint=hint)])


def _syntax(error: yaml.YAMLError, lines: Sequence[str]) -> Fault:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line, column = (min(mark.line, len(lines) - 1), mark.column) if mark is not None else (0, 0)
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or "this is not YAML")
    problem = re.sub(r"'[^']{3,}'", "…", problem)  # a name in it may be a secret
    spot = Spot(line=line + 1, column=column + 1)
    return Fault(code="yaml_syntax", message=problem, spot=spot, hint=_syntax_hint(problem, lines[line]))


def _syntax_hint(problem: str, line: str) -> str:
    if "escape" in problem:
        return "inside double quotes YAML reads the backslash itself; use single quotes"
    if "alphabetic or numeric" in problem or "alias" in problem or "anchor" in problem:
        return "a text that begins with * or & needs quotes"
    if "\t" in line:
        return "a tab cannot indent; use spaces"
    return "check quotes and indentation; a text with ': ' or ' #' in it needs quotes"
