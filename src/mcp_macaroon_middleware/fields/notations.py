"""Sees that a text may be data in some notation, and which keys it names there. It reads nothing to its end.

Whatever is no JSON is either prose, which is one field, or unclear. Unclear is a text that begins like data in whatever
language (`{`, `[`, `Row(a=`, also cut off); one that names a key in quotes, in brackets or as a tag; and one that is as
a whole lines of `key: value`, pairs of `key=value`, or a table with a heading. A text that is JSON in base64 or in
percent signs counts as what it stands for.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
import unicodedata
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote_plus

from .paths import Folded, fold

_UNSEEN: Final = frozenset({"Cf", "Cc", "Zs", "Zl", "Zp", "Cn", "Co"})
_QUOTES: Final = "\"'`\u201c\u201d\u2018\u2019\u00ab\u00bb"
_BEGINS: Final = re.compile(
    rf"[%#]?\{{\s*(?:[{_QUOTES}}}\\\[]|:?[\w$.@-]+\s*[:=]|:\w|/[/*]|\#|\.\.\.)"  # an object, in whatever language
    rf"|\[\s*(?:\[\s*)*(?:[{{{_QUOTES}]|-?\d[\d.eE+-]*\s*,|(?:true|false|null|none|nan|undefined)\s*[,\]])"
    rf"|\(\s*[\[{{({_QUOTES}]"
    r"|[A-Za-z_][\w.:<>]{0,80}(?:\(\s*\w+\s*=|\s*\{\s*\w+\s*[:=]|\[\w+:)",
    re.IGNORECASE,
)
_ESCAPE: Final = re.compile(r"(?<!\\)\\+(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2}))")
_ANY_KEY: Final = re.compile(rf"[{_QUOTES}][^{_QUOTES}\n]{{1,200}}[{_QUOTES}]\s*(?::|=)|<[A-Za-z_][^<>]*>")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]{11,}={0,2}")
_ENCODED: Final = 400_000
_SIMPLE: Final = re.compile(r"[A-Za-z0-9_ .-]*")
_SHORTEST: Final = 12
"""The fewest characters of a text in base64 that stands for data with a key in it."""
_LONGEST_LINE: Final = 400
_PAIR: Final = re.compile(r"(?:^|[?&;])([^\s=&?#;]{1,200})=")
_WORDS: Final = re.compile(r"(?:[\w.$-]{1,80}=(?:\"[^\"]*\"|'[^']*'|[^\s\"',;]*)(?:[\s,;]+|$)){2,}")
_WORD: Final = re.compile(r"([\w.$-]{1,80})=")
_LINE: Final = re.compile(r"\s*(?:-\s+)*([\w.$@ -]{1,60}?)\s*[:=](?:\s|$|\S)")
_OTHER_LINE: Final = re.compile(r"\s*(?:-\s|\#|;|---|\.\.\.|\[[^\]]*\]\s*$)|\s{2,}\S")


def is_simple(text: str) -> bool:
    """Whether the text is words and nothing else, as most are: it names no key in any notation."""
    return _SIMPLE.fullmatch(text) is not None and (len(text) < _SHORTEST or " " in text)


def begins_like_data(text: str) -> bool:
    """Whether the text, after blanks and what cannot be seen, begins as data does, itself or what it stands for."""
    return any(_BEGINS.match(seen, _begin(seen)) is not None for seen in _readings(text))


def has_any_key(text: str) -> bool:
    """Whether the text names a key, whichever, as data does."""
    return any(_ANY_KEY.search(seen) is not None or any(True for _ in _keys(seen)) for seen in _readings(text))


def names_key(text: str, name: str | Folded) -> bool:
    """Whether the text names this key as data does."""
    return any(_names(seen, name) for seen in _readings(text))


def _names(text: str, name: str | Folded) -> bool:
    folds = isinstance(name, Folded)
    key = name.key if isinstance(name, Folded) else name
    read = fold(text) if folds else text
    if key not in read:
        return False
    word = re.escape(key)
    quoted = rf"[{_QUOTES}]\s*{word}\\*\s*[{_QUOTES}]"
    tagged = rf"<(?:[\w.-]+:)?{word}[\s/>]|<[^<>]{{1,400}}\s{word}\s*="
    inside = rf"[{{(\[](?:[^{{}}()\[\]]{{0,400}}[\s,;:])?:?{word}\s*(?:[:=]|$)"
    if re.search(f"{quoted}|{tagged}|{inside}", read) is not None:
        return True
    return any(found == key for found in _keys(read))


def _readings(text: str) -> Iterator[str]:
    """The text, with its escapes read, and what it stands for where it is encoded as a whole."""
    seen = _unescaped(text)
    yield seen
    bare = text.strip()
    if " " in bare or len(bare) > _ENCODED:
        return
    if "%" in bare:
        yield _unescaped(unquote_plus(bare))
    for part in bare.split(".", 3)[:3] if "\n" not in bare else (re.sub(r"\s", "", bare),):
        if _BASE64.fullmatch(part) is not None:
            yield from _decoded(part)


def _decoded(part: str) -> Iterator[str]:
    """What a text in base64 stands for, where that is a text."""
    plain = part.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        yield _unescaped(base64.b64decode(plain[: len(plain) - (len(plain) % 4 == 1)] + "==").decode())
    except (binascii.Error, ValueError):
        return


def _unescaped(text: str) -> str:
    """A text with the escapes of JSON and of HTML read, at any depth of quoting: enough to see the name of a key."""
    if "\\" in text:
        text = _ESCAPE.sub(lambda found: chr(int(found[1] or found[2], 16)), text)
    return html.unescape(text) if "&" in text else text


def _keys(text: str) -> Iterator[str]:
    """The keys of a text that is pairs, lines or a table as a whole."""
    bare = text.strip()
    if "=" in bare and not re.search(r"\s", bare):
        yield from (re.split(r"[\[.]", unquote_plus(found))[-1].rstrip("]") for found in _PAIR.findall(bare))
        yield from map(unquote_plus, _PAIR.findall(bare))
    elif "=" in bare and _WORDS.fullmatch(bare) is not None:
        yield from _WORD.findall(bare)
    lines = [line[:_LONGEST_LINE] for line in bare.splitlines() if line.strip()]
    if len(lines) < 2:
        return
    found = [_LINE.match(line) for line in lines]
    if all(at is not None or _OTHER_LINE.match(line) for at, line in zip(found, lines, strict=True)):
        yield from (at[1].strip() for at in found if at is not None)
    yield from _heading(lines)


def _heading(lines: list[str]) -> Iterator[str]:
    """The names of the columns where the lines are a table."""
    for mark in (",", ";", "\t", "|"):
        columns = lines[0].count(mark)
        if columns and all(line.count(mark) >= columns for line in lines[1:2]):
            yield from (name.strip().strip(_QUOTES) for name in lines[0].split(mark))


def _begin(text: str) -> int:
    at = 0
    while at < len(text) and (text[at].isspace() or unicodedata.category(text[at]) in _UNSEEN):
        at += 1
    return at
