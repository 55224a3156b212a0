"""Which components a rule speaks of: targets, globs, one spelling of a URI. It never backtracks."""

from __future__ import annotations

import re
from typing import Final

from ..errors import RuleError
from ..model import Component, Kind, Target
from .parts import escape

_KIND_PREFIX: Final = {f"{kind}=": kind for kind in Kind}


def parse_target(text: str) -> Target:
    """Reads a target: a tool name or glob, `tool=…`, `prompt=…`, `resource=…`, `method=…`, or `*` for everything."""
    if text == "*":
        return Target(kind=None, pattern="*")
    for prefix, kind in _KIND_PREFIX.items():
        if text.startswith(prefix):
            if len(text) == len(prefix):
                raise RuleError(f"{prefix} needs a name", length=len(text))
            return Target(kind=kind, pattern=pattern_of(kind, text[len(prefix) :]))
    return Target(kind=Kind.TOOL, pattern=text)


def pattern_of(kind: Kind, text: str) -> str:
    """The pattern as it is compared: a resource's URI in its one spelling."""
    return normal_uri(text) if kind is Kind.RESOURCE else text


def format_target(target: Target) -> str:
    """The target as a rule writes it, escaped."""
    if target.kind is None:
        return "*"
    bare = target.kind is Kind.TOOL and target.pattern != "*" and not target.pattern.startswith(tuple(_KIND_PREFIX))
    return escape(target.pattern if bare else f"{target.kind}={target.pattern}")


def normal_uri(uri: str) -> str:
    """A resource's URI in one spelling: scheme and authority in lower case, needless escapes decoded, no fragment.

    Dot segments are left: whoever resolves a request refuses them. Source: RFC 3986, section 6.2.2.
    """
    head, separator, tail = uri.partition("://")
    if not separator:
        return uri
    tail = tail.partition("#")[0]
    authority, slash, path = tail.partition("/")
    if "{" not in authority and "*" not in authority:
        authority = authority.lower()
    return f"{head.lower()}://{_decode_unreserved(authority + slash + path)}"


def _decode_unreserved(text: str) -> str:
    def decode(match: re.Match[str]) -> str:
        char = chr(int(match[1], 16))
        return char if char.isascii() and (char.isalnum() or char in "-._~") else match[0].upper()

    return re.sub("%([0-9A-Fa-f]{2})", decode, text)


def glob_matches(pattern: str, text: str) -> bool:
    """Whether `text` fits `pattern`, where `*` stands for any run of characters and nothing else is special.

    Never backtracks: the work is at most the pattern's stars times the text's length.
    """
    if "*" not in pattern:
        return pattern == text
    first, *middle, last = pattern.split("*")
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for piece in middle:
        found = text.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def target_matches(target: Target, component: Component, *, granting: bool = False) -> bool:
    """Whether a rule with this target speaks of the component.

    A restricting rule matches any name in the component's chain, a granting one the public name (or URI) alone.
    """
    if target.kind is None:
        return True
    if target.kind is not component.kind:
        return False
    return any(glob_matches(target.pattern, name) for name in names_of(component, granting=granting))


def names_of(component: Component, *, granting: bool) -> tuple[str, ...]:
    """The names that a target is compared with."""
    exposed = (component.name,) if component.uri is None else (component.name, component.uri)
    return exposed if granting else exposed + component.names
