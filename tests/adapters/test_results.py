from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import json
from collections.abc import Callable
from typing import Any

import mcp_types
import pytest
import wire
from fastmcp import FastMCP
from fastmcp.prompts.base import Message, PromptResult
from fastmcp.resources.base import ResourceContent, ResourceResult
from fastmcp.tools.base import InputRequiredToolResult, ToolResult
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp_types import (
    Annotations,
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)
from pydantic import BaseModel

from mcp_macaroon_middleware.adapters.fastmcp import results
from mcp_macaroon_middleware.adapters.fastmcp.blocks import WITHHELD
from mcp_macaroon_middleware.adapters.fastmcp.schemas import published_tool
from mcp_macaroon_middleware.errors import ResultWithheld
from mcp_macaroon_middleware.model import Redaction

ERAS = pytest.mark.parametrize("era", wire.ERAS)
SECRET = "123-45-6789"
SSN = Redaction(withhold=("ssn", "**.ssn"))
ROW = {"id": 1, "ssn": SECRET}


class Person(BaseModel):
    id: int
    ssn: str
    born: datetime.date = datetime.date(2000, 1, 2)


@dataclasses.dataclass
class Account:
    id: int
    ssn: str
    balance: decimal.Decimal = decimal.Decimal("1.20")


class Redacting(wire.Answering):
    """Redacts what tools, resources and prompts return, and publishes their schemas so."""

    def __init__(self, redaction: Redaction, unstructured: str = "withhold") -> None:
        super().__init__(self._redact)
        self.redaction = redaction
        self.unstructured: Any = unstructured
        self.codes: list[str] = []
        self.schema: Any = None

    async def on_list_tools(self, context: Any, call_next: Any) -> Any:
        return [published_tool(tool, self.redaction) for tool in await call_next(context)]

    async def on_call_tool(self, context: Any, call_next: Any) -> Any:
        tool = await context.fastmcp_context.fastmcp.get_tool(context.message.name)
        self.schema = published_tool(tool, self.redaction).output_schema
        return await super().on_call_tool(context, call_next)

    def _redact(self, result: Any) -> Any:
        try:
            if isinstance(result, ResourceResult):
                return results.redact_resource_result(result, self.redaction, unstructured=self.unstructured)
            if isinstance(result, PromptResult):
                return results.redact_prompt_result(result, self.redaction, unstructured=self.unstructured)
            return results.redact_tool_result(
                result, self.redaction, unstructured=self.unstructured, output_schema=self.schema
            )
        except ResultWithheld as error:
            self.codes.append(error.code)
            if isinstance(result, ResourceResult | PromptResult):
                raise
            return ToolResult(content=[TextContent(type="text", text="withheld")], is_error=True)


def serving(
    tool: Callable[..., Any], redaction: Redaction = SSN, *, unstructured: str = "withhold", **options: Any
) -> tuple[FastMCP[Any], Redacting]:
    guard = Redacting(redaction, unstructured)
    mcp: FastMCP[Any] = FastMCP("lab", middleware=[guard])
    mcp.tool(tool, name="tool", **options)
    return mcp, guard


def text(value: str, **more: Any) -> TextContent:
    return TextContent(type="text", text=value, **more)


def embedded(value: str, uri: str = "data://x", **more: Any) -> EmbeddedResource:
    return EmbeddedResource(type="resource", resource=TextResourceContents(uri=uri, text=value, **more))


def blob(data: bytes) -> EmbeddedResource:
    encoded = base64.b64encode(data).decode()
    return EmbeddedResource(type="resource", resource=BlobResourceContents(uri="data://x", blob=encoded))


IMAGE = ImageContent(type="image", data=base64.b64encode(SECRET.encode()).decode(), mime_type="image/png")
AUDIO = AudioContent(type="audio", data=base64.b64encode(SECRET.encode()).decode(), mime_type="audio/wav")
LINK = ResourceLink(
    type="resource_link", uri=f"data://x?ssn={SECRET}", name="row", title=f"ssn {SECRET}", description=f"ssn {SECRET}"
)


def model() -> Person:
    return Person(id=1, ssn=SECRET)


def dataclass() -> Account:
    return Account(id=1, ssn=SECRET)


def models() -> list[Person]:
    return [Person(id=1, ssn=SECRET), Person(id=2, ssn=SECRET)]


def tables() -> dict[str, list[dict[str, Any]]]:
    return {"rows": [ROW, {"deep": {"deeper": [[ROW]]}}]}


def fifty() -> dict[str, Any]:
    nested: dict[str, Any] = dict(ROW)
    for _ in range(50):
        nested = {"in": nested, "list": [[nested]] if len(json.dumps(nested)) < 500 else []}
    return nested


SHAPES: dict[str, Any] = {
    "G01 dict": lambda: dict(ROW),
    "G02 list of dicts": lambda: [ROW, ROW],
    "R1 nested": lambda: {"user": {"ssn": SECRET, "name": "A"}},
    "R2 nested same key": lambda: {"user": {"ssn": SECRET}, "ssn": SECRET},
    "G02 lists in lists": tables,
    "G02 tuple": lambda: {"rows": (ROW, [ROW])},
    "G02 fifty levels": fifty,
    "R3 second block": lambda: [text('{"a":1}'), text(json.dumps(ROW))],
    "R4 image first": lambda: [IMAGE, text(json.dumps(ROW))],
    "R5 bare items before": lambda: [5, "x", ROW],
    "G05 R6 plain text": lambda: f"ssn: {SECRET}",
    "R7 meta": lambda: ToolResult(content=[text('{"a":1}')], meta={"ssn": SECRET, "fastmcp": {"x": {"ssn": SECRET}}}),
    "meta of a block": lambda: [text('{"a":1}', _meta={"ssn": SECRET})],
    "annotations of a block": lambda: [text('{"a":1}', annotations=Annotations(last_modified=f"ssn {SECRET}"))],
    "G06 embedded JSON": lambda: [embedded(json.dumps(ROW)), text('{"a":1}')],
    "G06 embedded text": lambda: [embedded(f"ssn {SECRET}"), text('{"a":1}')],
    "G06 embedded URI": lambda: [embedded('{"a":1}', uri=f"data://x?ssn={SECRET}")],
    "G06 embedded media type": lambda: [embedded('{"a":1}', mime_type=f"application/json; ssn={SECRET}")],
    "G06 embedded meta": lambda: [embedded('{"a":1}', _meta={"ssn": SECRET})],
    "G06 blob": lambda: [blob(SECRET.encode()), text('{"a":1}')],
    "G06 JSON blob": lambda: [blob(json.dumps(ROW).encode())],
    "G06 bad blob": lambda: [
        EmbeddedResource(type="resource", resource=BlobResourceContents(uri="data://x", blob=f"!{SECRET}")),
        text('{"a":1}'),
    ],
    "G06 image and audio": lambda: [IMAGE, AUDIO, text('{"a":1}')],
    "G06 link": lambda: [LINK, text('{"a":1}')],
    "G08 raw result": lambda: CallToolResult(
        content=[text(json.dumps(ROW))], structured_content=dict(ROW), _meta={"ssn": SECRET}
    ),
    "G08 raw subclass of a result": lambda: ToolResult.from_mcp_result(
        CallToolResult(content=[text(json.dumps(ROW))], structured_content=dict(ROW))
    ),
    "G09 error result": lambda: ToolResult(content=[text(f"ssn {SECRET}")], is_error=True),
    "G09 error result with data": lambda: ToolResult(
        content=[text(f"ssn {SECRET}")], structured_content=dict(ROW), is_error=True
    ),
    "G11 model": model,
    "G11 models": models,
    "G11 dataclass": dataclass,
    "G11 bytes": lambda: json.dumps(ROW).encode(),
    "G11 odd bytes": lambda: b"\xff" + SECRET.encode(),
    "G12 escaped key": lambda: [text('{"a":1,"\\u0073sn":"' + SECRET + '"}')],
    "G12 duplicate keys": lambda: [text('{"ssn":"' + SECRET + '","a":1,"ssn":"x"}')],
    "G02 JSON in a string": lambda: {"body": json.dumps(ROW), "more": [json.dumps({"x": json.dumps(ROW)})]},
    "JSON lines": lambda: [text(json.dumps(ROW) + "\n" + json.dumps(ROW))],
    "JSON in quotes": lambda: [text(json.dumps(json.dumps(ROW)))],
    "JSON after JSON": lambda: [text(json.dumps({"a": 1}) + " " + json.dumps(ROW))],
    "JSON with a raw line break": lambda: [text('{"a":"x\ny","ssn":"' + SECRET + '"}')],
    "JSON after a byte order mark": lambda: [text("\ufeff" + json.dumps(ROW))],
    "foreign wrapper": lambda: ToolResult(content=[text(json.dumps(ROW))], structured_content={"result": [ROW]}),
    "foreign wrapper around text": lambda: ToolResult(
        content=[text(f"ssn {SECRET}")], structured_content={"result": f"ssn {SECRET}"}
    ),
    "foreign wrapper around JSON": lambda: ToolResult(
        content=[text(json.dumps(ROW))], structured_content={"result": json.dumps(ROW)}
    ),
    "user interface": lambda: ToolResult(
        content=[text("[Rendered Prefab UI]")],
        structured_content={"$prefab": {"version": "1"}, "view": {"type": "Text", "content": SECRET}},
    ),
}


@ERAS
@pytest.mark.threat("G01", "G02", "G04", "G05", "G06", "G08", "G09", "G11", "G12")
@pytest.mark.parametrize("shape", SHAPES)
async def test_a_withheld_value_leaves_in_no_shape_and_in_no_part_of_the_result(era: str, shape: str) -> None:
    mcp, guard = serving(SHAPES[shape], output_schema=None)
    wired = json.dumps(await wire.called(mcp, era))
    assert SECRET not in wired
    assert base64.b64encode(SECRET.encode()).decode() not in wired
    assert not [code for code in guard.codes if code not in ("no_fields",)]


@ERAS
@pytest.mark.threat("G13")
@pytest.mark.parametrize("tool", [model, dataclass, models, tables])
async def test_what_is_left_keeps_its_shape_and_is_valid_for_a_client_that_validates(era: str, tool: Any) -> None:
    mcp, guard = serving(tool)
    data = await wire.validated(mcp, era)
    assert SECRET not in json.dumps(data)
    assert guard.codes == []
    plain = json.loads(json.dumps(await wire.validated(serving(tool, Redaction())[0], era)))
    assert data == json.loads(json.dumps(plain, sort_keys=True), object_hook=_without_ssn)


def _without_ssn(found: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key != "ssn"}


@ERAS
@pytest.mark.threat("G13")
@pytest.mark.parametrize("tool", [model, dataclass, models, tables])
async def test_only_named_fields_leave_and_stay_valid(era: str, tool: Any) -> None:
    mcp, guard = serving(tool, Redaction(keep=(("id", "rows.*.id"),)))
    data = await wire.validated(mcp, era)
    assert SECRET not in json.dumps(data)
    assert guard.codes == []
    assert '"id": 1' in json.dumps(data) or tool is tables


@ERAS
@pytest.mark.threat("G13")
async def test_a_result_that_an_older_schema_forbids_is_refused_as_schema_changed(era: str) -> None:
    class Stale(Redacting):
        async def on_call_tool(self, context: Any, call_next: Any) -> Any:
            tool = await context.fastmcp_context.fastmcp.get_tool(context.message.name)
            self.schema = tool.output_schema
            return await wire.Answering.on_call_tool(self, context, call_next)

    guard = Stale(SSN)
    mcp: FastMCP[Any] = FastMCP("lab", middleware=[guard])
    mcp.tool(model, name="tool")
    assert (await wire.called(mcp, era))["isError"] is True
    assert guard.codes == ["schema_changed"]


def redacted(result: ToolResult, redaction: Redaction = SSN, **options: Any) -> Any:
    return results.redact_tool_result(result, redaction, **options)


def wrapped(value: Any) -> ToolResult:
    return ToolResult(
        content=[text(json.dumps(value))],
        structured_content={"result": value},
        meta={"fastmcp": {"wrap_result": True}},
    )


@pytest.mark.threat("G01")
def test_the_text_that_repeats_the_data_is_written_anew_from_it() -> None:
    left = redacted(ToolResult(structured_content={"id": 1, "ssn": SECRET, "n": "ü"}))
    assert left.structured_content == {"id": 1, "n": "ü"}
    assert [block.text for block in left.content] == ['{"id":1,"n":"ü"}']


def test_a_prose_text_beside_data_gives_way_to_the_data_and_a_constant_note() -> None:
    left = redacted(ToolResult(content=[text(f"The ssn is {SECRET}")], structured_content=ROW))
    assert [block.text for block in left.content] == ['{"id":1}', WITHHELD]


def test_paths_begin_inside_the_wrapper_and_the_wrapper_keeps_its_mark() -> None:
    left = redacted(wrapped([ROW]), Redaction(withhold=("ssn",)))
    assert left.structured_content == {"result": [{"id": 1}]}
    assert left.meta == {"fastmcp": {"wrap_result": True}}
    assert redacted(wrapped([ROW]), Redaction(withhold=("result",))).structured_content == {"result": [ROW]}


def test_the_mark_of_the_wrapper_outlives_any_redaction_of_meta() -> None:
    for redaction in (Redaction(withhold=("**.wrap_result", "fastmcp")), Redaction(keep=(("id",),))):
        assert redacted(wrapped([{"id": 1}]), redaction).meta == {"fastmcp": {"wrap_result": True}}


def test_where_a_wrapper_does_not_say_so_paths_begin_outside_and_inside() -> None:
    for path in ("ssn", "result.ssn"):
        left = redacted(ToolResult(structured_content={"result": [ROW]}), Redaction(withhold=(path,)))
        assert left.structured_content == {"result": [{"id": 1}]}
    left = redacted(ToolResult(structured_content={"result": "fine"}), Redaction(keep=(("result",),)))
    assert left.structured_content == {"result": "fine"}


def test_bare_items_of_a_list_stay_beside_items_with_fields_and_leave_where_there_are_none() -> None:
    left = redacted(wrapped([5, "x", None, ROW, [7, ROW], '{"ssn":1,"a":2}']), Redaction(withhold=("ssn",)))
    assert left.structured_content == {"result": [5, "x", None, {"id": 1}, [7, {"id": 1}], '{"a":2}']}
    with pytest.raises(ResultWithheld) as caught:
        redacted(wrapped(["x", 5]))
    assert caught.value.code == "no_fields"


@pytest.mark.parametrize("value", ["text", 5, 1.5, True, "5"])
@pytest.mark.threat("G05")
def test_a_bare_value_is_withheld_unless_the_file_lets_it_pass(value: Any) -> None:
    with pytest.raises(ResultWithheld) as caught:
        redacted(wrapped(value))
    assert caught.value.code == "no_fields"
    assert redacted(wrapped(value), unstructured="pass").structured_content == {"result": value}


@pytest.mark.threat("G05")
@pytest.mark.parametrize("meta", [{"fastmcp": {"wrap_result": True}}, None])
def test_a_bare_value_is_withheld_also_where_no_text_repeats_it(meta: Any) -> None:
    for value in (f"ssn {SECRET}", [f"ssn {SECRET}"]):
        with pytest.raises(ResultWithheld) as caught:
            redacted(ToolResult(content=[], structured_content={"result": value}, meta=meta))
        assert caught.value.code == "no_fields"


def test_nothing_is_nothing_that_could_leave() -> None:
    empty = ToolResult(content=[], structured_content={"result": None}, meta={"fastmcp": {"wrap_result": True}})
    assert redacted(empty).structured_content == {"result": None}
    assert redacted(ToolResult(content=[])).content == []


def test_with_pass_what_has_no_fields_stays_and_what_has_them_is_redacted() -> None:
    blocks = [text("prose"), IMAGE, AUDIO, LINK, blob(b"\xff"), blob(json.dumps(ROW).encode()), text(json.dumps(ROW))]
    left = redacted(ToolResult(content=blocks), unstructured="pass").content
    assert left[:4] == blocks[:4]
    assert left[4] == blocks[4]
    assert base64.b64decode(left[5].resource.blob) == b'{"id": 1}'
    assert left[6].text == '{"id": 1}'
    assert len(left) == len(blocks)


def test_with_pass_the_meta_of_what_stays_is_redacted_all_the_same() -> None:
    image = ImageContent(type="image", data="AA==", mime_type="image/png", _meta={"ssn": SECRET, "a": 1})
    assert redacted(ToolResult(content=[image]), unstructured="pass").content[0].meta == {"a": 1}
    assert image.meta == {"ssn": SECRET, "a": 1}


@pytest.mark.threat("G12")
@pytest.mark.parametrize("name", [name for name in SHAPES if "JSON" in name or "G12" in name])
def test_with_pass_json_in_every_spelling_is_redacted_all_the_same(name: str) -> None:
    from fastmcp.tools.base import Tool

    result = Tool.from_function(lambda: None, name="t", output_schema=None).convert_result(SHAPES[name]())
    assert SECRET not in repr(redacted(result, unstructured="pass").to_mcp_result())


@pytest.mark.threat("G09")
def test_an_error_result_in_which_nothing_can_be_told_apart_becomes_one_fixed_text() -> None:
    left = redacted(ToolResult(content=[text(f"no row for {SECRET}")], is_error=True))
    assert left.is_error
    assert [block.text for block in left.content] == [results.ERROR_WITHHELD]
    assert redacted(ToolResult(content=[text("no")], is_error=True), unstructured="pass").content[0].text == "no"


@pytest.mark.threat("G14")
def test_a_result_of_another_kind_is_withheld() -> None:
    now = "2026-01-01T00:00:00Z"
    task = mcp_types.CreateTaskResult(
        task=mcp_types.Task(task_id="1", status="working", created_at=now, last_updated_at=now, ttl=None)
    )
    for other in (task, None, {"ssn": SECRET}, CallToolResult(content=[])):
        for redact in (results.redact_tool_result, results.redact_resource_result, results.redact_prompt_result):
            with pytest.raises(ResultWithheld) as caught:
                redact(other, SSN)
            assert caught.value.code == "result_unknown"


def asking(message: str) -> InputRequiredToolResult:
    params = mcp_types.ElicitRequestFormParams(message=message, requested_schema={"type": "object", "properties": {}})
    request = mcp_types.ElicitRequest(params=params)
    return InputRequiredToolResult(mcp_types.InputRequiredResult(input_requests={"q": request}))


@pytest.mark.threat("G15")
def test_a_tool_that_asks_the_client_is_held_to_the_rule_for_plain_text() -> None:
    plain = asking(f"Is {SECRET} right?")
    assert redacted(plain, Redaction()) is plain
    assert redacted(plain, unstructured="pass") is plain
    for result, options in ((plain, {}), (asking(json.dumps(ROW)), {"unstructured": "pass"})):
        with pytest.raises(ResultWithheld) as caught:
            redacted(result, **options)
        assert caught.value.code == "question_withheld"


@pytest.mark.threat("G17")
def test_what_cannot_be_walked_is_withheld_with_a_code() -> None:
    deep: Any = {}
    for _ in range(400):
        deep = {"a": deep}
    loop: dict[str, Any] = {}
    loop["loop"] = loop
    cases = [
        (ToolResult(content=[text("[" * 100_000)]), "redaction_failed"),
        (ToolResult(content=[text('{"ssn2":' * 300 + "1" + "}" * 300)]), "redaction_failed"),
        (ToolResult(content=[text('{"n":' + "1" * 5000 + "}")]), "redaction_failed"),
    ]
    for value in (deep, loop, {"a": object()}, {"a": "\ud800"}):
        result = ToolResult(content=[], structured_content={})
        result.structured_content = value
        cases.append((result, "result_unserialisable"))
    for result, code in cases:
        with pytest.raises(ResultWithheld) as caught:
            redacted(result, Redaction(withhold=("**.ssn",)))
        assert caught.value.code == code
        assert "\ud800" not in str(caught.value)


@pytest.mark.threat("G21", "FI25")
def test_a_large_result_is_redacted_within_the_bound_and_withheld_past_it() -> None:
    many = {f"f{number}": number for number in range(200_000)} | {"ssn": SECRET}
    left = redacted(ToolResult(content=[], structured_content=many))
    assert len(left.structured_content) == 200_000
    for content in ([text('{"a":"' + "x" * 5_000_000 + '"}')], [text('{"a":"' + "x" * 1_700_000 + '"}')] * 3):
        with pytest.raises(ResultWithheld) as caught:
            redacted(ToolResult(content=content))
        assert caught.value.code == "result_too_large"


@pytest.mark.threat("G18")
def test_what_stands_for_withheld_parts_is_constant() -> None:
    short = redacted(ToolResult(content=[text("a"), text('{"a":1}')]))
    long = redacted(ToolResult(content=[text("b" * 500), text("c"), IMAGE, text('{"a":1}')]))
    assert [block.text for block in short.content] == [block.text for block in long.content] == ['{"a":1}', WITHHELD]


@pytest.mark.parametrize("everything", [Redaction(everything=True), Redaction(withhold=("**",))])
def test_where_everything_is_withheld_nothing_leaves_whatever_it_is(everything: Redaction) -> None:
    for result in (ToolResult(content=[]), ToolResult(content=[text("x")]), wrapped(None), asking("?")):
        with pytest.raises(ResultWithheld):
            redacted(result, everything, unstructured="pass")


def test_an_empty_redaction_changes_nothing() -> None:
    result = ToolResult(content=[text("x"), IMAGE], meta={"a": 1})
    assert redacted(result, Redaction()) is result


@pytest.mark.threat("G08")
def test_the_result_that_was_given_is_not_changed_and_the_new_one_carries_no_raw_one() -> None:
    raw = ToolResult.from_mcp_result(CallToolResult(content=[text(json.dumps(ROW))], structured_content=dict(ROW)))
    left = redacted(raw)
    assert raw.structured_content == ROW
    assert left._raw_mcp_result is None
    assert SECRET not in repr(left.to_mcp_result())


def test_whom_a_block_is_for_is_kept() -> None:
    block = text(json.dumps(ROW), annotations=Annotations(audience=["user"], priority=0.5, last_modified="x"))
    left = redacted(ToolResult(content=[block])).content[0].annotations
    assert (left.audience, left.priority, left.last_modified) == (["user"], 0.5, None)


# --- what checks see ------------------------------------------------------------------------------------------------


def test_a_view_shows_the_data_first_then_every_json_text_and_meta_and_the_plain_texts_apart() -> None:
    view = results.tool_view(
        ToolResult(
            content=[text("prose"), text('[{"b":2}]'), embedded('{"c":3}'), blob(b'{"d":4}'), text("7")],
            structured_content={"result": {"a": 1}},
            meta={"fastmcp": {"wrap_result": True}, "m": 5},
        )
    )
    first, *others = view.documents
    assert first == {"a": 1}
    assert [dict(d) for d in others[1:3]] == [{"c": 3}, {"d": 4}]
    assert others[-1]["m"] == 5
    assert view.texts == ("prose", "7")
    assert view.is_error is False


def test_a_view_is_built_only_when_it_is_looked_at() -> None:
    result = ToolResult(content=[])
    result.structured_content = {"a": object()}
    view = results.tool_view(result)
    with pytest.raises(ResultWithheld):
        _ = view.documents


def test_a_field_that_is_only_in_meta_is_seen() -> None:
    from mcp_macaroon_middleware.fields import is_present

    for result in (
        ToolResult(content=[], meta={"ssn": SECRET}),
        ToolResult(content=[text("x", _meta={"ssn": SECRET})]),
        ToolResult(content=[embedded("x", _meta={"ssn": SECRET})]),
    ):
        assert any(is_present(document, "ssn") for document in results.tool_view(result).documents)


# --- resources and prompts ------------------------------------------------------------------------------------------


@ERAS
@pytest.mark.threat("I04")
@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ROW),
        json.dumps([ROW]),
        f"ssn {SECRET}",
        SECRET.encode(),
        json.dumps(ROW).encode(),
        b"\xff" + SECRET.encode(),
        ResourceResult([ResourceContent(f"ssn {SECRET}"), ResourceContent(ROW), ResourceContent(SECRET.encode())]),
        ResourceResult([ResourceContent({"a": 1}, meta={"ssn": SECRET})], meta={"ssn": SECRET}),
    ],
)
async def test_a_withheld_value_leaves_in_no_content_of_a_resource(era: str, content: Any) -> None:
    mcp: FastMCP[Any] = FastMCP("lab", middleware=[Redacting(SSN)])
    mcp.resource("data://x", name="x")(lambda: content)
    async with wire.client_of(mcp, era) as client:
        try:
            wired = repr(await client.read_resource_mcp("data://x"))
        except Exception as error:
            wired = repr(error)
    assert SECRET not in wired
    assert base64.b64encode(SECRET.encode()).decode() not in wired


def test_a_resource_keeps_what_can_be_told_apart_and_says_that_something_is_withheld() -> None:
    given = ResourceResult([ResourceContent(ROW), ResourceContent("prose"), ResourceContent(json.dumps(ROW).encode())])
    left = results.redact_resource_result(given, SSN)
    assert [content.content for content in left.contents] == ['{"id":1}', b'{"id": 1}', WITHHELD]
    assert left.contents[0].mime_type == "application/json"
    with pytest.raises(ResultWithheld):
        results.redact_resource_result(ResourceResult("prose"), SSN)
    passed = results.redact_resource_result(ResourceResult("prose"), SSN, unstructured="pass")
    assert passed.contents[0].content == "prose"


@ERAS
@pytest.mark.threat("I05")
@pytest.mark.parametrize(
    "messages",
    [
        [Message(f"ssn {SECRET}"), Message('{"a":1}')],
        [Message(ROW), Message([ROW], role="assistant")],
        [Message(IMAGE), Message(embedded(json.dumps(ROW)))],
        [Message(embedded(f"ssn {SECRET}", uri=f"data://{SECRET}")), Message('{"a":1}')],
        [Message(f"ssn {SECRET}")],
    ],
)
async def test_a_withheld_value_leaves_in_no_message_of_a_prompt(era: str, messages: list[Message]) -> None:
    mcp: FastMCP[Any] = FastMCP("lab", middleware=[Redacting(SSN)])
    result = PromptResult(messages, description=f"ssn {SECRET}", meta={"ssn": SECRET, "a": 1})
    mcp.prompt(lambda: result, name="p")
    async with wire.client_of(mcp, era) as client:
        try:
            wired = repr(await client.get_prompt_mcp("p"))
        except Exception as error:
            wired = repr(error)
    assert SECRET not in wired
    assert base64.b64encode(SECRET.encode()).decode() not in wired


def test_a_withheld_message_keeps_its_turn() -> None:
    given = PromptResult([Message("prose", role="assistant"), Message(ROW)])
    left = results.redact_prompt_result(given, SSN)
    assert [(message.role, message.content.text) for message in left.messages] == [
        ("assistant", WITHHELD),
        ("user", '{"id":1}'),
    ]


# --- the law --------------------------------------------------------------------------------------------------------

MARKER = "Zq7-marker-91"
KEYS = st.sampled_from(["a", "b", "user", "x.y", "ssn_last", "result", "\u00fc", ""])
SAFE = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.sampled_from(["", "text", "[", "{", '"', "5"]))
PUBLIC = st.recursive(
    SAFE, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)
HOLDING = st.recursive(
    st.just(MARKER),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=2),
        st.dictionaries(KEYS, inner, min_size=1, max_size=2),
        inner.map(json.dumps),
        inner.map(lambda value: json.dumps({"k": value})),
    ),
    max_leaves=4,
)
ROWS = st.builds(lambda public, held: {**public, "ssn": held}, st.dictionaries(KEYS, PUBLIC, max_size=3), HOLDING)
DOCUMENTS = st.recursive(
    ROWS,
    lambda inner: st.one_of(
        st.lists(inner | PUBLIC, max_size=3).filter(bool),
        st.dictionaries(KEYS, inner | PUBLIC, min_size=1, max_size=3),
        st.dictionaries(KEYS, inner.map(json.dumps), min_size=1, max_size=2),
    ),
    max_leaves=4,
).filter(lambda document: isinstance(document, dict | list))


def _as_model(document: Any) -> Any:
    class Anything(BaseModel):
        data: Any

    return Anything(data=document)


RETURNS: dict[str, Callable[[Any], Any]] = {
    "itself": lambda d: d,
    "model": _as_model,
    "text": lambda d: json.dumps(d, indent=2),
    "bytes": lambda d: json.dumps(d).encode(),
    "blocks": lambda d: [text("prose " + MARKER), text(json.dumps(d)), IMAGE, text('{"a":1}'), text(MARKER)],
    "raw": lambda d: CallToolResult(
        content=[text(json.dumps(d))], structured_content={"data": d}, _meta={"ssn": MARKER, "m": d}
    ),
    "error": lambda d: ToolResult(content=[text(MARKER), text(json.dumps(d))], is_error=True),
    "embedded": lambda d: [embedded(json.dumps(d), uri=f"data://{MARKER}"), blob(json.dumps(d).encode())],
    "meta": lambda d: ToolResult(content=[text('{"a":1}', _meta={"m": d})], meta={"m": d}),
    "foreign wrapper": lambda d: ToolResult(content=[text(json.dumps(d))], structured_content={"result": d}),
    "lines": lambda d: [text(json.dumps(d) + "\n" + json.dumps(d))],
    "link": lambda d: [
        ResourceLink(type="resource_link", uri=f"data://{MARKER}", name=MARKER, _meta={"m": d}),
        text(json.dumps(d)),
    ],
}


@pytest.mark.threat("G01", "G02", "G04", "G06", "G08")
@pytest.mark.parametrize("era", wire.ERAS)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(document=DOCUMENTS, returns=st.sampled_from(sorted(RETURNS)))
def test_L3_a_withheld_value_never_reaches_the_wire(era: str, document: Any, returns: str) -> None:
    import asyncio

    mcp, guard = serving(lambda: RETURNS[returns](document), Redaction(withhold=("**.ssn",)), output_schema=None)
    wired = json.dumps(asyncio.run(wire.called(mcp, era)), ensure_ascii=False)
    assert MARKER not in wired
    assert all(code in ("no_fields", "withheld") for code in guard.codes)


@pytest.mark.threat("G01", "G13")
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(document=DOCUMENTS, returns=st.sampled_from(sorted(RETURNS)), unstructured=st.sampled_from(["withhold", "pass"]))
def test_L3_only_what_is_named_leaves(document: Any, returns: str, unstructured: Any) -> None:
    from fastmcp.tools.base import Tool

    tool = Tool.from_function(lambda: None, name="t", output_schema=None)
    result = tool.convert_result(RETURNS[returns](document))
    try:
        left = redacted(result, Redaction(keep=(("nothing.here",),)), unstructured=unstructured)
    except ResultWithheld:
        return
    if unstructured == "withhold":
        assert MARKER not in left.model_dump_json()
    assert MARKER not in json.dumps([left.structured_content, left.meta])
