"""Looks at results as plain data and rebuilds them without what leaves: one result, one document.

Structured content is the document. A text that is the same data is cut by the same paths; any other rendering of it
(text, image, embedded resource, link, `_meta`) has a shape of its own, in which no path of the document means anything,
and gives way to the document's own text, unless the file says `unstructured: pass`. Without structured content each
text that is data is a document; what has no fields is withheld.

A redacted result is always a new object: FastMCP's own can carry the raw one along, which in-place edits and copies do
not touch. What cannot be rebuilt with certainty raises `ResultWithheld`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import mcp_types
from fastmcp.prompts.base import InputRequiredPromptResult, Message, PromptResult
from fastmcp.resources.base import InputRequiredResourceResult, ResourceContent, ResourceResult
from fastmcp.tools.base import InputRequiredToolResult, ToolResult

from ...errors import ResultWithheld
from ...fields import is_large
from ...model import JSON, Redaction, Result
from .blocks import WITHHELD, Blocks, is_marked, no_fields, note, texts_of
from .copies import tool_result
from .documents import plain, read, write
from .schemas import conforms, is_wrapped

Unstructured = Literal["withhold", "pass"]
Parts = tuple[tuple[JSON, ...], tuple[str, ...]]
ASKING: Final = (InputRequiredToolResult, InputRequiredResourceResult, InputRequiredPromptResult)
MAX_HELD: Final = 250_000
"""The most characters of a result that are held against the published schema here, since that costs far more than the
redaction. A larger one is valid by the construction of the schema alone; its client validates it anyway."""

ERROR_WITHHELD: Final = "The call failed, and its error cannot be shown. [error_withheld]"


# --- looking --------------------------------------------------------------------------------------------------------


def tool_view(result: ToolResult) -> Result:
    """A tool's result as checks see it: structured content without its wrapper, every JSON text, every `_meta`."""

    def build() -> Parts:
        metas = (result.meta, *(_meta_of(block) for block in result.content))
        return _parts(_structured_of(result), (text for block in result.content for text in texts_of(block)), metas)

    return Result(build, is_error=result.is_error, large=lambda: _is_large(result.content, result.structured_content))


def resource_view(result: ResourceResult) -> Result:
    """A resource's contents as checks see them."""

    def build() -> Parts:
        metas = (result.meta, *(content.meta for content in result.contents))
        return _parts((), (text for content in result.contents for text in texts_of(content)), metas)

    return Result(build, large=lambda: _is_large(result.contents))


def prompt_view(result: PromptResult) -> Result:
    """A prompt's messages as checks see them."""

    def build() -> Parts:
        blocks = [message.content for message in result.messages]
        metas = (result.meta, *map(_meta_of, blocks))
        return _parts((), (text for block in blocks for text in texts_of(block)), metas)

    return Result(build, large=lambda: _is_large([message.content for message in result.messages]))


def _is_large(blocks: Sequence[Any], structured: Any = None) -> bool:
    texts = [
        getattr(getattr(block, "resource", block), name, None)
        for block in blocks
        for name in ("text", "content", "blob")
    ]
    return is_large([texts, structured])


def _parts(structured: Iterable[Any], texts: Iterable[str], metas: Iterable[Any]) -> Parts:
    found: list[Any] = []
    bare: list[str] = []
    for value in structured:
        (bare if isinstance(value, str) and read(value) is None else found).append(value)
    for text in texts:
        documents = read(text)
        if documents is None:
            bare.append(text)
        else:
            found.extend(documents)
    found.extend(plain(meta)[0] for meta in metas if meta)
    return tuple(found), tuple(bare)


def _structured_of(result: ToolResult) -> Iterator[Any]:
    """The structured content without its wrapper; where that cannot be told, with and without it."""
    if result.structured_content is None:
        return
    structured = plain(result.structured_content)[0]
    if not _is_lone(structured):
        yield structured
    elif is_marked(result.meta):
        yield structured["result"]
    else:
        yield from (structured, structured["result"])


def _is_lone(structured: Any) -> bool:
    return isinstance(structured, Mapping) and set(structured) == {"result"}


def _meta_of(block: Any) -> Any:
    """A block's `_meta`, and that of the resource in it."""
    inner = getattr(getattr(block, "resource", None), "meta", None)
    return [meta for meta in (getattr(block, "meta", None), inner) if meta]


# --- rebuilding -----------------------------------------------------------------------------------------------------


def redact_tool_result(
    result: Any,
    redaction: Redaction,
    *,
    unstructured: Unstructured = "withhold",
    output_schema: Mapping[str, Any] | None = None,
) -> Any:
    """A new `ToolResult` without what leaves; with an empty redaction the very result.

    Paths begin inside FastMCP's wrapper of results that are no objects. `output_schema` is the schema as published: a
    result that a client would refuse under it is withheld with the code `schema_changed`. A tool that asks the client
    for input is held to the rule for plain text.
    """
    if not isinstance(result, ToolResult):
        raise _unknown()
    if redaction.is_empty:
        return result
    blocks = Blocks(redaction, passes=unstructured == "pass")
    if isinstance(result, InputRequiredToolResult):
        return _asking(result, passes=unstructured == "pass")
    if result.structured_content is None:
        structured, content = None, _texts(result, blocks)
    else:
        structured, content = _documented(result, blocks, output_schema)
    if structured is not None and output_schema is not None and not result.is_error and blocks.size <= MAX_HELD:
        _hold(structured, output_schema)
    return tool_result(result, content, structured, blocks.meta(result.meta))


def _texts(result: ToolResult, blocks: Blocks) -> list[Any]:
    """The content blocks that are left where there is no structured content: each is a document of its own, or none."""
    left = [kept for block in result.content if (kept := blocks.block(block)) is not None]
    if result.content and not left:
        if not result.is_error:
            raise no_fields()
        return [mcp_types.TextContent(type="text", text=ERROR_WITHHELD)]
    return [*left, note()] if blocks.withheld else left


def _documented(result: ToolResult, blocks: Blocks, schema: Mapping[str, Any] | None) -> tuple[Any, list[Any]]:
    """The structured content without what leaves, and the content blocks beside it."""
    structured = blocks.plain(result.structured_content)
    if not _is_lone(structured):
        document, left = structured, blocks.document(structured)
        shown = left
    elif is_marked(result.meta) or is_wrapped(schema):
        document, shown = structured["result"], blocks.document(structured["result"])
        left = {"result": shown}
    else:  # a wrapper or a field: what is withheld leaves it in both readings, so that no text is the same data
        document, left = _NONE, blocks.document(structured)
        left = {"result": blocks.inside(left["result"])} if _is_lone(left) else left
        shown = left
    kept = [_rendering(block, blocks, document) for block in result.content]
    content = [block for block in kept if block is not None]
    if len(content) < len(kept) and not any(map(_is_text, content)):
        told = shown if isinstance(shown, str) else write(shown)
        content.insert(0, mcp_types.TextContent(type="text", text=told))
    return left, [*content, note()] if blocks.withheld else content


_NONE: Final = object()
"""No document: nothing is the same data as this."""


def _rendering(block: Any, blocks: Blocks, document: Any) -> Any | None:
    """A content block beside a document: a text that is the same data, cut by the same paths, or what passes."""
    if blocks.passes or (_is_text(block) and _is_same(block.text, document)):
        return blocks.block(block)
    blocks.leave_out(block)
    return None


def _is_same(text: str, document: Any) -> bool:
    """Whether a text is the very data of a document, and nothing else."""
    if isinstance(document, str) and text == document:
        return True
    documents = read(text)
    return documents is not None and len(documents) == 1 and bool(documents[0] == document)


def _is_text(block: Any) -> bool:
    return isinstance(block, mcp_types.TextContent)


def _hold(structured: Any, schema: Mapping[str, Any]) -> None:
    if not conforms(structured, schema):
        raise ResultWithheld("the redacted result is not valid against the published schema", code="schema_changed")


def redact_resource_result(result: Any, redaction: Redaction, *, unstructured: Unstructured = "withhold") -> Any:
    """A new `ResourceResult` without what leaves; with an empty redaction the very result."""
    if not isinstance(result, ResourceResult):
        raise _unknown()
    if redaction.is_empty:
        return result
    blocks = Blocks(redaction, passes=unstructured == "pass")
    if isinstance(result, InputRequiredResourceResult):
        return _asking(result, passes=unstructured == "pass")
    left = [kept for content in result.contents if (kept := _resource_content(content, blocks)) is not None]
    _something(result.contents, left)
    if len(left) < len(result.contents):
        left.append(ResourceContent(WITHHELD, mime_type="text/plain"))
    return ResourceResult(contents=left, meta=blocks.meta(result.meta))


def _resource_content(content: ResourceContent, blocks: Blocks) -> ResourceContent | None:
    given = content.content
    left = blocks.text(given) if isinstance(given, str) else blocks.bytes(given)
    if left is None:
        return None
    return ResourceContent(left, mime_type=content.mime_type, meta=blocks.meta(content.meta))


def redact_prompt_result(result: Any, redaction: Redaction, *, unstructured: Unstructured = "withhold") -> Any:
    """A new `PromptResult` without what leaves; with an empty redaction the very result.

    A message that is withheld stays as a constant one, so that the conversation keeps its turns.
    """
    if not isinstance(result, PromptResult):
        raise _unknown()
    if redaction.is_empty:
        return result
    passes = unstructured == "pass"
    blocks = Blocks(redaction, passes=passes)
    if isinstance(result, InputRequiredPromptResult):
        return _asking(result, passes=passes)
    left = [(message.role, blocks.block(message.content)) for message in result.messages]
    _something(left, [block for _, block in left if block is not None])
    return PromptResult(
        messages=[Message(note() if block is None else block, role=role) for role, block in left],
        description=result.description if passes else None,
        meta=blocks.meta(result.meta),
    )


def _something(given: Sequence[Any], left: Sequence[Any]) -> None:
    """A result of which nothing is left is withheld as a whole."""
    if given and not left:
        raise no_fields()


def _asking(result: Any, *, passes: bool) -> Any:
    """A component that asks the client: its question is plain text, and data in it has no place that a path names."""
    question = plain(result.input_required.model_dump(mode="json", by_alias=True))[0]
    if passes and not any(read(text) for text in _strings(question)):
        return result
    raise ResultWithheld("the component asks for input while an output rule applies", code="question_withheld")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, child in value.items():
            yield from (key, *_strings(child))
    elif isinstance(value, list):
        for child in value:
            yield from _strings(child)


def _unknown() -> ResultWithheld:
    return ResultWithheld("the result is of a kind that cannot be redacted", code="result_unknown")
