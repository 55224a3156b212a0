"""Takes a redaction through the parts of a result: documents, texts, content blocks, `_meta`. It only takes out.

What has no fields is passed or withheld whole, as the file's `unstructured` says; what may have fields, and cannot be
read, is always withheld. Links, images and blobs are never looked into, except that a blob which is JSON is a document.
`_meta` is no document: whatever shape it has is its own, so that it passes or goes whole.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import mcp_types

from ...errors import ResultWithheld
from ...fields import has_fields, may_hide, redact, redact_text
from ...model import Redaction
from .documents import MAX_TEXT, plain, read, too_large

WITHHELD: Final = "[withheld]"
WITHHELD_URI: Final = "withheld:resource"
PREFAB: Final = "$prefab"

_NOTHING: Final = object()


class Blocks:
    """One redaction at work on one result. `withheld` says whether a part without fields was left out, `size` how many
    characters were walked.

    Raises `ResultWithheld` where everything is withheld, where nothing can be told apart, and past the size bound.
    """

    def __init__(self, redaction: Redaction, *, passes: bool) -> None:
        redact({}, redaction)  # raises where the whole result is withheld, whatever it holds
        self.withheld = False
        self._redaction = redaction
        self._passes = passes
        self._unfinished = False
        self.size = 0

    # --- data ---------------------------------------------------------------------------------------------------

    @property
    def passes(self) -> bool:
        """Whether what has no fields passes."""
        return self._passes

    def plain(self, value: Any) -> Any:
        """A value as plain data in its wire form. Raises `ResultWithheld` where it has none, or is too large."""
        document, size = plain(value)
        self._grow(size)
        return document

    def document(self, document: Any) -> Any:
        """A plain document without what leaves. Raises `ResultWithheld` for one without any field."""
        left = self._cut(document)
        if left is _NOTHING:
            raise no_fields()
        return left

    def inside(self, value: Any) -> Any:
        """The same for what may be a wrapped document or a field: what is withheld leaves it a second time."""
        if isinstance(value, dict) or (isinstance(value, list | str) and (self._passes or self._has_fields(value))):
            left = self._redacted(value, Redaction(withhold=self._redaction.withhold))
        else:
            left = value if value is None or self._passes or self._redaction.keep else _NOTHING
        if left is _NOTHING:
            raise no_fields()
        return left

    def meta(self, meta: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """`_meta` without what leaves where the file passes what has no fields; else only FastMCP's mark of a wrapped
        result, which clients need.
        """
        if meta is None:
            return None
        left: dict[str, Any] = self._redacted(self.plain(dict(meta)), self._redaction) if self._passes else {}
        if is_marked(meta):
            left["fastmcp"] = {**left.get("fastmcp", {}), "wrap_result": True}
        return left or None

    def text(self, text: str) -> str | None:
        """A text without what leaves: what stays of JSON is as it came, any other text passes or is withheld."""
        self._grow(len(text))
        documents = read(text)
        if documents is None:
            hides = not self._passes or self._unfinished or may_hide(text, self._redaction)
            self._unfinished = hides  # what follows a text that was cut off may be the rest of it
            self.withheld = self.withheld or hides
            return None if hides else text
        self._unfinished = False
        fielded = self._passes or any(map(self._has_fields, documents))
        left = self._redacted_text(text) if fielded else None
        if left is None:
            self.withheld = True
        return left

    def bytes(self, data: bytes) -> bytes | None:
        """Bytes that are JSON as a document, any others as they are or not at all."""
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return data if self._passes else self._none()
        left = self.text(text)
        return left.encode() if left is not None else None

    # --- content blocks -----------------------------------------------------------------------------------------

    def block(self, block: Any) -> Any | None:
        """A content block without what leaves, built anew; None where it is withheld."""
        if isinstance(block, mcp_types.TextContent):
            return self._text_block(block)
        if isinstance(block, mcp_types.EmbeddedResource):
            return self._embedded(block)
        _known(block)
        return block.model_copy(update={"meta": self.meta(block.meta)}) if self._passes else self._none()

    def leave_out(self, block: Any) -> None:
        """Leaves a content block out. Raises `ResultWithheld` for one of an unknown kind, as `block` does."""
        if not isinstance(block, mcp_types.TextContent | mcp_types.EmbeddedResource):
            _known(block)
        self.withheld = True

    def _text_block(self, block: mcp_types.TextContent) -> Any | None:
        text = self.text(block.text)
        if text is None:
            return None
        return mcp_types.TextContent(
            type="text", text=text, annotations=self._annotations(block.annotations), _meta=self.meta(block.meta)
        )

    def _embedded(self, block: mcp_types.EmbeddedResource) -> Any | None:
        resource = self._resource(block.resource)
        if resource is None:
            return None
        return mcp_types.EmbeddedResource(
            type="resource",
            resource=resource,
            annotations=self._annotations(block.annotations),
            _meta=self.meta(block.meta),
        )

    def _resource(self, resource: Any) -> Any | None:
        common: dict[str, Any] = {
            "uri": resource.uri if self._passes else WITHHELD_URI,
            "mime_type": self._media_type(resource.mime_type),
            "_meta": self.meta(resource.meta),
        }
        if isinstance(resource, mcp_types.TextResourceContents):
            text = self.text(resource.text)
            return None if text is None else mcp_types.TextResourceContents(text=text, **common)
        blob = _decoded(resource.blob)
        data = self.bytes(blob) if blob is not None else self._none()
        return None if data is None else mcp_types.BlobResourceContents(blob=base64.b64encode(data).decode(), **common)

    def _annotations(self, annotations: mcp_types.Annotations | None) -> mcp_types.Annotations | None:
        """For whom a block is and how much it matters; a date is free text, which has no fields."""
        if annotations is None or self._passes:
            return annotations
        return mcp_types.Annotations(audience=annotations.audience, priority=annotations.priority)

    def _media_type(self, media_type: str | None) -> str | None:
        return media_type if media_type is None or self._passes else media_type.partition(";")[0]

    # --- within -------------------------------------------------------------------------------------------------

    def _grow(self, size: int) -> None:
        self.size += size
        if self.size > MAX_TEXT:
            raise too_large(self.size)

    def _none(self) -> Any:
        self.withheld = True
        return None

    def _cut(self, document: Any) -> Any:
        """A plain document without what leaves; `_NOTHING` for one without any field."""
        if document is None:
            return None
        if isinstance(document, str) and not self._passes and read(document) is None:
            return _NOTHING
        if not self._passes and not self._has_fields(document):
            return _NOTHING
        return self._redacted(document, self._redaction)

    def _has_fields(self, document: Any) -> bool:
        """Whether something in a document has a name that a path could tell apart.

        What a user interface shows stands under names of its own, so that it has none.
        """
        if isinstance(document, list):
            return not document or any(map(self._has_fields, document))
        return has_fields(document) and not (isinstance(document, dict) and PREFAB in document)

    def _redacted_text(self, text: str) -> str | None:
        left: str | None = self._sized(lambda: redact_text(text, self._redaction)[0])
        return left

    def _redacted(self, value: Any, redaction: Redaction) -> Any:
        return self._sized(lambda: redact(value, redaction)[0])

    def _sized(self, work: Callable[[], Any]) -> Any:
        """What `work` returns. A refusal of too many values says how many characters they were."""
        try:
            return work()
        except ResultWithheld as error:
            error.size = self.size if error.code == "result_too_large" else None
            raise


def _known(block: Any) -> None:
    if not isinstance(block, mcp_types.ImageContent | mcp_types.AudioContent | mcp_types.ResourceLink):
        raise ResultWithheld("the result holds a block of an unknown kind", code="result_unknown")


def _decoded(blob: str) -> bytes | None:
    try:
        return base64.b64decode(blob, validate=True)
    except (binascii.Error, ValueError):
        return None


def is_marked(meta: Mapping[str, Any] | None) -> bool:
    """Whether `_meta` says that the structured content is wrapped as `{"result": …}`."""
    fastmcp = (meta or {}).get("fastmcp")
    return isinstance(fastmcp, Mapping) and fastmcp.get("wrap_result") is True


def no_fields() -> ResultWithheld:
    """The refusal of a result in which no field can be told apart."""
    return ResultWithheld("the result has no fields that could be told apart", code="no_fields")


def note() -> mcp_types.TextContent:
    """What stands for all that was withheld of a result: constant, so that it tells nothing."""
    return mcp_types.TextContent(type="text", text=WITHHELD)


def texts_of(block: Any) -> Sequence[str]:
    """Every text in a content block or a resource's content, bytes that are text among them."""
    if isinstance(block, mcp_types.TextContent):
        return (block.text,)
    if isinstance(block, mcp_types.EmbeddedResource):
        resource = block.resource
        if isinstance(resource, mcp_types.TextResourceContents):
            return (resource.text,)
        return _text_of(_decoded(resource.blob))
    content = getattr(block, "content", None)
    if isinstance(content, str):
        return (content,)
    return _text_of(content) if isinstance(content, bytes) else ()


def _text_of(data: bytes | None) -> Sequence[str]:
    try:
        return (data.decode(),) if data is not None else ()
    except UnicodeDecodeError:
        return ()
