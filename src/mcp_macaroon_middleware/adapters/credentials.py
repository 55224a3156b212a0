"""How many credentials an HTTP request bears: the header is a singleton (RFC 9110, 11.6.2), and two are none.

Servers, gateways and proxies differ in which of two they read, so that one could be judged and another counted. It
verifies no credential.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import parse_qsl

HEADER: Final = b"authorization"
QUERY: Final = "access_token"
_SINGLE: Final = re.compile(rb"\s*(?:bearer|basic)\b[^,]*\Z", re.IGNORECASE)
_SCHEMES: Final = re.compile(rb"\s*(?:bearer|basic)\b|.*,\s*(?:bearer|basic|mm_)", re.IGNORECASE | re.DOTALL)


def has_several(headers: Iterable[tuple[bytes, bytes]], query: bytes = b"") -> bool:
    """Whether a request bears two credentials: two lines, two in one line, or a line and one in the query.

    `headers` are ASGI's, with names in small letters.
    """
    found = [value for name, value in headers if name == HEADER]
    in_query = _in_query(query) if query else 0
    return len(found) + in_query > 1 or (len(found) == 1 and _is_joined(found[0]))


def _is_joined(value: bytes) -> bool:
    """Whether a line holds two: neither a bearer's nor a basic credential has a comma (RFC 6750, 2.1; RFC 9110)."""
    return b"," in value and _SCHEMES.match(value) is not None and _SINGLE.match(value) is None


def _in_query(query: bytes) -> int:
    names = [name for name, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True)]
    return names.count(QUERY)
