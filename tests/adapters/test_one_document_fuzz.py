"""Values that stand in one place only, in results of every shape; a walker of its own looks for every withheld one in
everything that reached the client: the very bytes of both protocol eras, read and decoded in whatever way.

Nothing here uses the product's reader, paths or schemas: what a path names is worked out by `withheld` below.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import quote

import mcp_types as mt
import pytest
import yaml
from fastmcp import Context, FastMCP
from fastmcp.client.elicitation import ElicitResult
from fastmcp.exceptions import ToolError
from fastmcp.prompts.base import Message
from fastmcp.resources.base import ResourceContent, ResourceResult
from fastmcp.tools.base import Tool, ToolResult
from fastmcp.utilities.tests import asgi_client
from guarded import guarded, tokens
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mcp.shared.exceptions import MCPError

ERAS = ("auto", "legacy")
pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
NAMES = ["id", "note", "rows", "owner", "ssn", "a b"]
names = st.sampled_from(NAMES)
steps = names | st.sampled_from(["*", "**"])
paths = st.lists(steps, min_size=1, max_size=3).filter(lambda path: any(step in NAMES for step in path)).map(tuple)
shapes = st.recursive(
    st.sampled_from(["text", "number", "json"]),
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(names, inner, min_size=1, max_size=4),
    max_leaves=8,
)
objects = st.dictionaries(names, shapes, min_size=1, max_size=4)


# --- documents whose every value stands in one place, and what of it is withheld --------------------------------------


class Planting:
    """Fills a shape with values that stand nowhere else."""

    def __init__(self) -> None:
        self.number = 0

    def value(self, shape: Any) -> Any:
        """The document of a shape."""
        if isinstance(shape, dict):
            return {name: self.value(child) for name, child in shape.items()}
        if isinstance(shape, list):
            return [self.value(child) for child in shape]
        self.number += 1
        if shape == "number":
            return 7_104_000_000_000_000 + self.number * 7919
        if shape == "json":
            return json.dumps(
                {"note": f"Vq{self.number:03}zj{self.number:03}yx", "id": 81_000_000_000_000 + self.number * 6007}
            )
        return f"Vq{self.number:03}zk{self.number:03}yw"


def leaves(value: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every value with the keys that lead to it; JSON in a text is looked into."""
    if isinstance(value, dict):
        for name, child in value.items():
            yield from leaves(child, (*at, name))
    elif isinstance(value, list):
        for number, child in enumerate(value):
            yield from leaves(child, (*at, f"#{number}"))
    elif isinstance(value, str) and value.startswith("{"):
        yield from leaves(json.loads(value), at)
    else:
        yield at, str(value)


def withheld(at: tuple[str, ...], path: tuple[str, ...]) -> bool:
    """Whether a path names this place or one that holds it. A list's numbers may be left out, or be one step."""
    if not path:
        return True
    if path[0] == "**":
        return withheld(at, path[1:]) or (bool(at) and withheld(at[1:], path))
    if not at:
        return False
    if at[0].startswith("#"):
        return withheld(at[1:], path) or (path[0] in ("*", at[0][1:]) and withheld(at[1:], path[1:]))
    return path[0] in ("*", at[0]) and withheld(at[1:], path[1:])


def parted(document: Any, chosen: list[tuple[str, ...]]) -> tuple[set[str], set[str]]:
    """The values that must be nowhere, and those that must be there."""
    hidden = {value for at, value in leaves(document) if any(withheld(at, path) for path in chosen)}
    return hidden, {value for _, value in leaves(document)} - hidden


# --- everything that reached the client, in every reading -------------------------------------------------------------


def readings(raw: str) -> tuple[str, ...]:
    """The text as it is, and without its escapes, whatever the depth of quoting; the values need no other decoding."""
    bare = re.sub(r"\\+u([0-9a-fA-F]{4})", lambda at: chr(int(at[1], 16)), raw)
    return raw, bare, re.sub(r"[\\\s]|\\n", "", bare)


def needles(value: str) -> Iterator[str]:
    """A value, each half of it, and what it is in base64 (also twice) wherever it stands in it."""
    yield from (value, *([value[:7], value[-7:]] if value.startswith("Vq") else ()))
    once = list(in_base64(value.encode()))
    yield from once
    yield from (twice for one in once for twice in in_base64(one.encode()))


def in_base64(value: bytes) -> Iterator[str]:
    """The characters that the bytes alone decide, at each of the three places where they can begin."""
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + value)
        yield encoded[-(-before * 4 // 3) : (before + len(value)) * 4 // 3].decode()


class Wire:
    """The bytes that a server sent, all of them."""

    def __init__(self) -> None:
        self.raw = b""

    def around(self, app: Any) -> Any:
        """The application, with what it sends noted."""

        async def noted(scope: Any, receive: Any, send: Any) -> None:
            async def sending(message: Any) -> None:
                self.raw += message.get("body", b"") + repr(message.get("headers", "")).encode()
                await send(message)

            await app(scope, receive, sending)

        return noted


@asynccontextmanager
async def listening(server: FastMCP[Any], era: str, **options: Any) -> Any:
    """A client over HTTP, and the wire between them."""
    wire = Wire()
    made = server.http_app
    server.http_app = lambda *rest, **more: _noted(made(*rest, **more), wire)  # type: ignore[method-assign]
    async with asgi_client(server, auth="alice", mode=era, **options) as client:
        yield client, wire


def _noted(app: Any, wire: Wire) -> Any:
    app.middleware_stack = None
    inner = app.build_middleware_stack

    app.build_middleware_stack = lambda: wire.around(inner())
    return app


# --- renderings -------------------------------------------------------------------------------------------------------


def text(value: str) -> mt.TextContent:
    return mt.TextContent(type="text", text=value)


def blob(value: bytes) -> mt.EmbeddedResource:
    inner = mt.BlobResourceContents(uri="x:y", blob=base64.b64encode(value).decode(), mime_type="application/json")
    return mt.EmbeddedResource(type="resource", resource=inner)


def embedded(value: str) -> mt.EmbeddedResource:
    return mt.EmbeddedResource(type="resource", resource=mt.TextResourceContents(uri="x:y", text=value))


Rendering = Callable[[Any], list[Any]]
SAME: dict[str, Rendering] = {
    "json": lambda d: [text(json.dumps(d))],
    "indented": lambda d: [text(json.dumps(d, indent=2))],
    "escaped": lambda d: [text(re.sub(r"[a-z]", lambda at: f"\\u{ord(at[0]):04x}", json.dumps(d)))],
}
OTHER: dict[str, Rendering] = {
    "payload": lambda d: [text(json.dumps({"payload": d}))],
    "list": lambda d: [text(json.dumps([[d]]))],
    "values": lambda d: [text(json.dumps(list(d.values())))],
    "lines": lambda d: [text("\n".join(json.dumps({name: value}) for name, value in d.items()))],
    "dotted": lambda d: [text(json.dumps({f"x.{name}": value for name, value in d.items()}))],
    "repr": lambda d: [text(repr(d))],
    "yaml": lambda d: [text(yaml.safe_dump(d))],
    "prose": lambda d: [text("They said: " + ", ".join(value for _, value in leaves(d)))],
    "fence": lambda d: [text(f"```json\n{json.dumps(d)}\n```")],
    "stream": lambda d: [text(f"data: {json.dumps(d)}\n\n")],
    "cut": lambda d: [text(json.dumps(d)[:-1])],
    "note": lambda d: [text(json.dumps(d) + "\n(1 row)")],
    "comma": lambda d: [text(json.dumps(d)[:-1] + ",}")],
    "base64": lambda d: [text(base64.b64encode(json.dumps(d).encode()).decode())],
    "query": lambda d: [text("&".join(f"{quote(name)}={quote(str(value))}" for name, value in d.items()))],
    "halves": lambda d: [
        text(json.dumps(d)[: len(json.dumps(d)) // 2]),
        text(json.dumps(d)[len(json.dumps(d)) // 2 :]),
    ],
    "image": lambda d: [
        mt.ImageContent(type="image", data=base64.b64encode(repr(d).encode()).decode(), mime_type="i/x")
    ],
    "audio": lambda d: [
        mt.AudioContent(type="audio", data=base64.b64encode(repr(d).encode()).decode(), mime_type="i/x")
    ],
    "link": lambda d: [
        mt.ResourceLink(type="resource_link", name=str(d)[:200], uri="x:" + quote(json.dumps(d)), description=repr(d))
    ],
    "embedded": lambda d: [embedded(json.dumps({"other": d}))],
    "blob": lambda d: [blob(json.dumps({"other": d}).encode())],
    "meta": lambda d: [mt.TextContent(type="text", text="see", _meta={"x": d, "y": repr(d)})],
}
REFUSING = ["deny", "decline", "cancel"]


def serve(document: Any, content: list[Any], chosen: list[tuple[str, ...]], *, asks: bool, structured: bool) -> Any:
    """A guarded server whose every component shows this document."""
    server: FastMCP[Any] = FastMCP("lab", auth=tokens(alice={}))
    lone = [] if structured else content  # there each text is a document of its own, with paths of its own
    mark = {"where": document, "said": repr(document)}

    async def tool(ctx: Context, fails: bool = False) -> ToolResult:
        await ctx.info(repr(document))
        await ctx.report_progress(1, 2, json.dumps(document))
        if fails:
            raise ToolError(repr(document))
        return ToolResult(content=content, structured_content=document if structured else None, meta=mark)

    def prompt() -> Any:
        return [Message(json.dumps(document)), *(Message(block) for block in lone)]

    def resource() -> ResourceResult:
        texts = [block.text for block in lone if isinstance(block, mt.TextContent)]
        return ResourceResult([ResourceContent(given) for given in (json.dumps(document), *texts)], meta=mark)

    first = next(value for _, value in leaves(document))
    told = {"default": first, "examples": [first], "enum": [*document.values(), None], "description": repr(document)}
    properties: dict[str, Any] = {name: told for name in document if withheld((name,), chosen[0])}
    schema = {"type": "object", "properties": properties, "examples": [document], "default": document}
    server.add_tool(Tool.from_function(tool, output_schema=schema if structured else None))
    server.prompt(prompt)
    server.resource("x://document")(resource)
    action = "elicit" if asks else "deny"
    fields = ":".join(".".join(path) for path in chosen)
    return guarded(server, [f"af:*:field_access:{action}:{fields}"], config={"default": "allow"})


async def everything(server: FastMCP[Any], era: str, answer: str) -> tuple[str, Any]:
    """All bytes that the server sent, and the result of the tool's call."""

    async def asked(message: str, kind: Any, params: Any, context: Any) -> Any:
        if answer == "deny":
            schema = getattr(params, "requested_schema", None) or {}
            return ElicitResult(action="accept", content=dict.fromkeys(schema.get("properties", {}), "deny"))
        return ElicitResult(action=answer)

    async with listening(server, era, elicitation_handler=asked) as (client, wire):
        await client.list_tools()
        shown = None
        for fails in (False, True):
            level = {"io.modelcontextprotocol/logLevel": "debug"}
            answered = await client.call_tool("tool", {"fails": fails}, raise_on_error=False, meta=level)
            shown = shown or answered
        for request in (lambda: client.get_prompt("prompt"), lambda: client.read_resource("x://document")):
            with suppress(MCPError):
                await request()
    assert b"tool" in wire.raw
    return wire.raw.decode("utf-8", "replace"), shown


@pytest.mark.threat("R09", "R10", "R11", "R12", "G01", "G05", "G06", "G09", "G10")
@pytest.mark.parametrize("era", ERAS)
@settings(max_examples=50, deadline=None, phases=(Phase.reuse, Phase.generate), suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_L3_F2_a_withheld_value_is_nowhere_in_what_reached_the_client(era: str, data: st.DataObject) -> None:
    """reports-mcp F2, reports-policy B5: one result in several shapes; a question refused shows no more than `deny`."""
    document = Planting().value(data.draw(objects))
    chosen = data.draw(st.lists(paths, min_size=1, max_size=2))
    structured = data.draw(st.booleans())
    same = data.draw(st.sampled_from([*SAME, ""]))
    others = data.draw(st.lists(st.sampled_from(list(OTHER)), max_size=2, unique=True))
    if not structured:  # without it each text is a document of its own, with paths of its own
        others = [
            name for name in others if name not in ("payload", "list", "values", "lines", "dotted", "embedded", "blob")
        ]
    content = [*(SAME[same](document) if same else []), *(block for name in others for block in OTHER[name](document))]
    asks = data.draw(st.booleans())
    hidden, open_ = parted(document, chosen)
    made = serve(document, content, chosen, asks=asks, structured=structured)
    raw, shown = asyncio.run(everything(made.server, era, data.draw(st.sampled_from(REFUSING))))
    seen = readings(raw)
    for value in hidden:
        assert not any(needle in text for needle in needles(value) for text in seen), (value, same, others)
    assert "The call failed" not in repr(shown)  # a tool that fails shows nothing, and would prove nothing
    if structured and shown.structured_content is not None:
        for value in open_:
            assert value in json.dumps(shown.structured_content)


@pytest.mark.threat("R09", "R10", "G01", "G05", "G06")
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("other", OTHER)
async def test_F2_every_other_rendering_gives_way_to_the_document(era: str, other: str) -> None:
    """reports-mcp F2: each rendering was held to the paths of the document, in coordinates of its own."""
    document = {"rows": [{"id": "Vq001zk001yw", "note": "Vq002zk002yw"}], "owner": "Vq003zk003yw"}
    for asks in (False, True):
        content = OTHER[other](document)
        made = serve(document, content, [("rows", "note")], asks=asks, structured=True)
        raw, shown = await everything(made.server, era, "decline")
        assert not any(needle in text for needle in needles("Vq002zk002yw") for text in readings(raw))
        assert shown.structured_content == {"rows": [{"id": "Vq001zk001yw"}], "owner": "Vq003zk003yw"}
        told = [block.text for block in shown.content if isinstance(block, mt.TextContent)]
        assert json.loads(told[0]) == shown.structured_content
