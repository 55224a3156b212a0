"""Paths in one form, and patterns over them. A path that could mean another file than it says has no such form.

A path becomes its folders and its name: `docs/a.md` is `docs`, `a.md`; an absolute one begins with `/`; one slash at
the end changes nothing. These have no form, and match nothing: what `path_objection` says of any path in a request (`.`
and `..` as folders, empty folders, backslashes, names that end in a dot or a space), colons (drives, streams,
addresses), percent-encodings, `~` at the front, wildcards and quotes, control and invisible characters, letters that
other systems fold into one of these (full-width dots and slashes), more than 4096 characters, and the empty text. `.`
alone is the folder in which paths begin. Upper and lower case differ.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Final

from mcp_macaroon_middleware.plugin import glob_matches, path_objection

LONGEST: Final = 4096
ANY: Final = "**"
HERE: Final = "."
_FORBIDDEN: Final = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|]|%[0-9A-Fa-f]{2}|%[uU]')
_FOLDS: Final = frozenset('/\\.%:~*?"<>|')
_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def normal_path(text: str) -> tuple[str, ...] | None:
    """The path's parts, the first one `/` if it is absolute; None for a path that has no form. `.` has no parts."""
    if text == HERE:
        return ()
    if not 0 < len(text) <= LONGEST or _FORBIDDEN.search(text) or not _is_plain(text) or path_objection(text):
        return None
    parts = [part for part in unicodedata.normalize("NFC", text).split("/") if part]
    if any(part[0] == " " for part in parts):
        return None
    if text.startswith("/"):
        return ("/", *parts)
    return None if parts[0].startswith("~") else tuple(parts)


def _is_plain(text: str) -> bool:
    """Whether no character is invisible, and none turns into a special one when a system folds it."""
    if text.isascii():
        return True
    for char in text:
        if char.isascii():
            continue
        if unicodedata.category(char) in _UNSEEN or not _FOLDS.isdisjoint(unicodedata.normalize("NFKC", char)):
            return False
    return True


def parse_pattern(text: str) -> tuple[str, ...]:
    """A pattern's parts. Raises `ValueError` for one that no path could match or that would mislead its reader."""
    if not text or text.endswith("/"):
        raise ValueError(f"{text!r} is no pattern of paths: it names no file; {text or 'docs/'}** is all below it")
    stars = [part for part in unicodedata.normalize("NFC", text).split("/") if part not in ("", HERE)]
    plain = "/" * text.startswith("/") + "/".join(stars)
    # stars stand for letters while the rest is held to what paths are held to
    if text.startswith("//") or normal_path(plain.replace("*", "x") or HERE) is None:
        raise ValueError(f"{text!r} matches no path: no .., \\, :, %XX, ~ or names that end in a dot or a space")
    if any(ANY in part and part != ANY for part in stars):
        raise ValueError(f"{text!r}: ** stands alone between slashes, as in docs/**/*.md")
    stars = ["/", *stars] if text.startswith("/") else stars
    return (*stars, "*") if stars and stars[-1] == ANY else tuple(stars)


def pattern_matches(pattern: Sequence[str], path: Sequence[str]) -> bool:
    """Whether a path fits a pattern from `parse_pattern`; the work is at most the product of their lengths."""
    if (pattern[:1] == ("/",)) is not (path[:1] == ("/",)):
        return False
    here = there = 0
    star, mark = -1, 0
    while there < len(path):
        if here < len(pattern) and pattern[here] == ANY:
            star, mark = here, there
            here += 1
        elif here < len(pattern) and glob_matches(pattern[here], path[there]):
            here, there = here + 1, there + 1
        elif star >= 0:
            mark += 1
            here, there = star + 1, mark
        else:
            return False
    return all(part == ANY for part in pattern[here:])
