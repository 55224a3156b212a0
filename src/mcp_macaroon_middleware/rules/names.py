"""Names of things that a caller writes: one spelling for what runs, one form for what could be the same.

An address is a resource's URI or a web route's `GET /path`. Granting rules and approvals compare addresses as they run;
restricting rules also compare what `folded` makes of both sides. Names of tools and prompts are themselves alone.
Paths that could mean something else to whoever resolves them than to whoever judges them have an `objection`.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final
from urllib.parse import unquote

_SCHEME: Final = re.compile(r"([A-Za-z*][A-Za-z0-9+.*-]*):")
_METHOD: Final = re.compile(r"([A-Za-z*]+ )(?=[/*])")
_ESCAPE: Final = re.compile(r"%[0-9A-Fa-f]{2}")
_HIDDEN: Final = re.compile(r"%(2[eEfF]|5[cC]|00)")
_ENCODED: Final = re.compile(r"%(2[fF]|5[cC])")
_UNCLEAR: Final = re.compile(r"[\x00-\x1f\x7f\\]")
_UNSEEN: Final = frozenset({"Cc", "Cf", "Zl", "Zp"})
_DEEPEST: Final = 8
_LOCAL: Final = "localhost"


# --- what runs --------------------------------------------------------------------------------------------------------


def normal_uri(uri: str) -> str:
    """A resource's URI as it is compared exactly: scheme in lower case, needless escapes decoded.

    Nothing that a server could take as a value is changed, so the letters of an authority stay: in `db://{tenant}/rows`
    they are a parameter. Source: RFC 3986, section 6.2.2.
    """
    head, separator, tail = uri.partition("://")
    if not separator:
        return uri
    scheme = head if "{" in head else head.lower()
    return f"{scheme}://{_decode_unreserved(tail)}"


def _decode_unreserved(text: str) -> str:
    def decode(match: re.Match[str]) -> str:
        char = chr(int(match[0][1:], 16))
        return char if char.isascii() and (char.isalnum() or char in "-._~") else match[0].upper()

    return _ESCAPE.sub(decode, text)


# --- what could be the same -------------------------------------------------------------------------------------------


def folded(address: str) -> str:
    """The form in which an address, or a pattern over addresses, is compared by restricting rules.

    Equal for all spellings that some server, file system or client could take for one thing: letter case, escapes at
    any depth, Unicode forms, invisible characters, backslashes, empty and dot segments, dots and spaces at an end, one
    slash or several at the end. A `*` stays what it is.
    """
    path, mark, query = _cut(address)
    path = _folded_path(_folded_text(path))
    return f"{path}?{_folded_text(query)}" if mark else path


def without_query(address: str) -> str:
    """An address, which is no template, without its query and fragment: what a name without one speaks of too."""
    return _cut(address)[0]


def _cut(address: str) -> tuple[str, str, str]:
    """Path, `?`, query. The `{?view}` of a template is no query."""
    whole = address.partition("#")[0]
    at = whole.find("?")
    return (whole, "", "") if at <= 0 or whole[at - 1] == "{" else (whole[:at], "?", whole[at + 1 :])


def _folded_text(text: str) -> str:
    """Letters and escapes as the most lenient reader takes them."""
    for _ in range(_DEEPEST):
        if "%" not in text:
            break
        before, text = text, unquote(text)
        if text == before:
            break
    if not text.isascii():
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    text = text.lower().replace("\\", "/")
    if text.isascii() and text.isprintable():
        return text
    return "".join(char for char in text if unicodedata.category(char) not in _UNSEEN)


def _folded_path(text: str) -> str:
    head, tail = _parted(text)
    kept: list[str] = []
    for segment in tail.split("/"):
        if segment == "..":
            del kept[-1:]
        elif plain := segment.rstrip(". ").lstrip(" "):
            kept.append(plain)
    if head == "file" and kept[:1] == [_LOCAL]:
        del kept[0]
    return f"{head}://{'/'.join(kept)}" if head and not head.endswith(" ") else f"{head}{'/'.join(kept)}"


def _parted(text: str) -> tuple[str, str]:
    """A method with its space, or a scheme, and what it stands before."""
    method = _METHOD.match(text)
    if method is not None:
        return method[1], text[method.end() :]
    scheme = _SCHEME.match(text)
    if scheme is not None:
        return scheme[1], text[scheme.end() :]
    head, separator, tail = text.partition("://")
    return (head, tail) if separator else ("", text)


# --- what is refused --------------------------------------------------------------------------------------------------


def escape_objection(raw: str) -> str:
    """Why an address is refused for separators that are written as escapes, or nothing. `raw` has no query."""
    return "an encoded slash" if _ENCODED.search(raw) else ""


def value_objection(value: str) -> str:
    """Why a decoded value is refused wherever a caller gives it as a part of an address, or nothing."""
    if _UNCLEAR.search(value):
        return "a backslash or a control character"
    if any(segment in (".", "..") for segment in value.split("/")):
        return "a dot segment"
    return "an escape within an escape" if _HIDDEN.search(value) else ""


def path_objection(path: str) -> str:
    """Why a decoded path is refused, or nothing: what it holds could be taken for another path, or for none.

    One slash at the end is no objection: it is the same thing. One at the front is the reader's affair.
    """
    why = value_objection(path)
    if why:
        return why
    segments = path.removeprefix("/").removesuffix("/").split("/")
    if "" in segments and path not in ("", "/"):
        return "an empty segment"
    if any(segment[-1:] in (".", " ") for segment in segments):
        return "a dot or a space at the end of a name"
    return ""
