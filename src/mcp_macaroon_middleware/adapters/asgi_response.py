"""A response of the application, taken whole before any of it leaves, so that fields can be taken out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Message

from ..errors import ArgumentsInvalid, ResultWithheld
from ..fields import LARGE, redact_document, redact_text
from ..model import Redaction, Result
from . import asgi_http as web

LARGEST: Final = 5 << 20
"""Bytes of a response that output rules may look at."""
OF_THE_WHOLE: Final = frozenset({b"etag", b"content-md5", b"digest", b"repr-digest", b"content-digest"})
"""Headers that speak of a response's very bytes."""


@dataclass(slots=True)
class Captured:
    """A response, whole. `overflow`: it was too large to be looked at, and its body is not kept."""

    status: int = 500
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray, repr=False)
    overflow: bool = False
    ended: bool = False

    async def __call__(self, message: Message) -> None:
        """Takes one message of the application."""
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message.get("headers", ()))
        elif message["type"] == "http.response.body":
            if len(self.body) + len(message.get("body", b"")) > LARGEST:
                self.overflow = True
            if not self.overflow:
                self.body += message.get("body", b"")
            self.ended = not message.get("more_body", False)

    @property
    def is_empty(self) -> bool:
        """Whether it has no body at all, as answers to HEAD, 204 and 304 have none: nothing can be withheld of it."""
        return self.ended and not self.overflow and not self.body

    @property
    def document(self) -> Any:
        """The JSON document that it is. Raises `ResultWithheld` for anything else."""
        found = {name.lower(): value for name, value in self.headers}
        kind = found.get(b"content-type", b"").split(b";")[0].strip().lower()
        plain = kind == b"application/json" or kind.endswith(b"+json")
        if self.overflow or not self.ended or not plain or found.get(b"content-encoding", b"identity") != b"identity":
            raise ResultWithheld("the response is no JSON that can be looked at", code="no_fields")
        try:
            return web.parsed(bytes(self.body))
        except ArgumentsInvalid:
            raise ResultWithheld("the response is no JSON that can be looked at", code="no_fields") from None

    @property
    def result(self) -> Result:
        """The response as rules see it: a document, or a text that has no fields."""

        def build() -> tuple[tuple[Any, ...], tuple[str, ...]]:
            if self.is_empty:
                return (), ()
            try:
                return (self.document,), ()
            except ResultWithheld:
                return (), (bytes(self.body).decode("utf-8", "replace"),)

        return Result(build, large=lambda: len(self.body) > LARGE)

    def response(self, redaction: Redaction) -> Response:
        """The response without what the redaction withholds. Raises `ResultWithheld`."""
        if redaction.is_empty and not self.overflow:
            return raw(self.status, self.headers, bytes(self.body))
        kept = [pair for pair in self.headers if pair[0].lower() not in OF_THE_WHOLE]
        if self.is_empty:
            return raw(self.status, kept, b"")
        redact_document(self.document, redaction)  # the same walk: what it refuses has no text that could leave
        left, _ = redact_text(bytes(self.body).decode("utf-8"), redaction)
        if left is None:
            raise ResultWithheld("the whole result is withheld", code="withheld")
        return raw(self.status, kept, left.encode())


def raw(status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> Response:
    """A response of these very parts. Its length is that of its body; an empty one has it only if it is said to."""
    response = Response(status_code=status)
    said = [(b"content-length", b"0")] if (b"content-length", b"0") in headers else []
    length = [(b"content-length", str(len(body)).encode())] if body else said
    response.raw_headers = [pair for pair in headers if pair[0].lower() != b"content-length"] + length
    response.body = body
    return response
