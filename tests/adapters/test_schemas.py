from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
import wire
from fastmcp import FastMCP
from fastmcp.tools.base import Tool, ToolResult
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from mcp_macaroon_middleware.adapters.fastmcp import results, schemas
from mcp_macaroon_middleware.adapters.fastmcp.foreign import facts_of
from mcp_macaroon_middleware.errors import ArgumentsInvalid, ResultWithheld
from mcp_macaroon_middleware.model import Redaction

DRAFT = "https://json-schema.org/draft/2020-12/schema"
SSN = Redaction(withhold=("**.ssn",))


class Inner(BaseModel):
    ssn: int
    name: str


class Outer(BaseModel):
    id: int
    ssn: str
    inner: Inner
    others: list[Inner]
    maybe: Inner | None = None
    named: dict[str, Inner]


def one() -> Outer:
    inner = Inner(ssn=5, name="n")
    return Outer(id=1, ssn="x", inner=inner, others=[inner], maybe=inner, named={"a": inner})


def many() -> list[Outer]:
    return [one()]


def tool_of(function: Any, **options: Any) -> Tool:
    return Tool.from_function(function, name="tool", **options)


@pytest.mark.threat("G13")
@pytest.mark.parametrize("function", [one, many])
@pytest.mark.parametrize(
    "redaction", [SSN, Redaction(keep=(("id", "inner.name"),)), Redaction(withhold=("inner",)), None]
)
def test_a_redacted_result_is_valid_against_the_published_schema(function: Any, redaction: Redaction | None) -> None:
    tool = tool_of(function)
    published = schemas.published_tool(tool, redaction).output_schema
    result = tool.convert_result(function())
    applied = redaction or Redaction(withhold=("id", "inner.ssn", "named"))
    left = results.redact_tool_result(result, applied, output_schema=published)
    assert left.structured_content != result.structured_content
    jsonschema.Draft202012Validator(published).validate(left.structured_content)
    jsonschema.Draft202012Validator(published).validate(result.structured_content)


@pytest.mark.threat("G13")
@pytest.mark.parametrize("function", [one, many])
def test_without_the_published_schema_the_tools_own_would_forbid_the_result(function: Any) -> None:
    tool = tool_of(function)
    with pytest.raises(ResultWithheld) as caught:
        results.redact_tool_result(tool.convert_result(function()), SSN, output_schema=tool.output_schema)
    assert caught.value.code == "schema_changed"


def test_a_tool_that_nothing_leaves_is_published_as_the_same_object() -> None:
    for tool in (tool_of(one), tool_of(lambda: "x", output_schema=None)):
        assert schemas.published_tool(tool, Redaction()) is tool
    bare = tool_of(lambda: "x", output_schema=None)
    assert schemas.published_tool(bare, SSN) is bare


def test_a_published_tool_is_the_same_tool_with_another_schema_and_the_tool_itself_stays() -> None:
    tool = tool_of(one, description="d", tags={"t"})
    before = json.dumps(tool.output_schema)
    published = schemas.published_tool(tool, SSN)
    assert type(published) is type(tool)
    assert (published.name, published.description, published.tags) == ("tool", "d", {"t"})
    assert json.dumps(tool.output_schema) == before
    assert json.dumps(published.output_schema).count('"$ref"') == before.count('"$ref"')


def test_a_schema_is_widened_once_for_each_schema_object_and_redaction() -> None:
    tool = tool_of(one)
    first = schemas.published_tool(tool, SSN).output_schema
    assert schemas.published_tool(tool.model_copy(), SSN).output_schema is first
    assert schemas.published_tool(tool, Redaction(withhold=("id",))).output_schema is not first


def test_the_memory_is_bounded_and_never_takes_one_schema_for_another() -> None:
    memory = schemas.Memory()
    for number in range(schemas.REMEMBERED + 100):
        memory.keep({"n": number}, None, number)
    assert len(memory._known) == schemas.REMEMBERED
    kept, other = {"a": 1}, {"a": 1}
    memory.keep(kept, None, "kept")
    memory._known[id(other), None] = memory._known[id(kept), None]
    assert memory.get(kept, None) == "kept"
    assert memory.get(other, None) is None


@pytest.mark.threat("G13")
@pytest.mark.parametrize("redaction", [Redaction(withhold=("ssn",)), Redaction(withhold=("result.ssn",))])
def test_a_wrapper_that_does_not_say_so_is_published_for_both_readings(redaction: Redaction) -> None:
    row = {"type": "object", "properties": {"ssn": {"type": "string"}}, "required": ["ssn"]}
    schema = {"type": "object", "properties": {"result": row}, "required": ["result"]}
    published = schemas.published_schema(schema, redaction)
    result = ToolResult(structured_content={"result": {"ssn": "x"}})
    left = results.redact_tool_result(result, redaction, output_schema=published)
    assert left.structured_content == {"result": {}}
    assert "x-fastmcp-wrap-result" not in published


def test_a_schema_that_cannot_be_used_accepts_nothing_and_fetches_nothing() -> None:
    for schema in ({"type": "nonsense"}, {"$ref": "https://example.invalid/schema"}, {"$ref": "#/$defs/absent"}):
        assert schemas.conforms({"a": 1}, schema) is False
    assert schemas.conforms({"a": 1}, {"type": "object"}) is True
    assert schemas.conforms({"a": 1}, {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"}) is True


@pytest.mark.threat("E09", "P08")
def test_a_foreign_pattern_costs_nothing_here() -> None:
    slow = "^(a+)+$"
    text = "a" * 60 + "!"
    for schema in (
        {"properties": {"a": {"pattern": slow}}, "additionalProperties": True},
        {"patternProperties": {slow: {}}, "additionalProperties": False},
        {"patternProperties": {slow: {}}, "unevaluatedProperties": False},
        {"properties": {"a": {"$schema": DRAFT, "pattern": slow}}, "additionalProperties": True},
    ):
        assert schemas.conforms({"a": text, text: 1}, {"type": "object", **schema}) is True
        given = {"a": text, text: 1}
        assert facts_of({"type": "object", **schema}, given).given == given
    closed = {"type": "object", "properties": {"a": {}}, "additionalProperties": False}
    assert schemas.conforms({"b": 1}, closed) is False


def test_no_schema_inside_a_schema_makes_arguments_lenient() -> None:
    whole = {"$schema": DRAFT, "type": "object", "properties": {"n": {"$schema": DRAFT, "type": "integer"}}}
    for value in (True, 5.5, "5"):
        with pytest.raises(ArgumentsInvalid):
            facts_of(whole, {"n": value})
    assert facts_of(whole, {"n": 5}).given == {"n": 5}


@pytest.mark.parametrize("era", wire.ERAS)
@pytest.mark.threat("G13")
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    paths=st.sets(
        st.sampled_from(
            ["id", "ssn", "inner", "inner.ssn", "others", "others.name", "named.*.ssn", "**.name", "maybe"]
        ),
        min_size=1,
        max_size=4,
    ),
    keeps=st.booleans(),
    many_=st.booleans(),
)
def test_L3_a_client_that_validates_accepts_every_redaction(
    era: str, paths: set[str], keeps: bool, many_: bool
) -> None:
    import asyncio

    redaction = Redaction(keep=(tuple(sorted(paths)),)) if keeps else Redaction(withhold=tuple(sorted(paths)))

    class Publishing(wire.Answering):
        async def on_list_tools(self, context: Any, call_next: Any) -> Any:
            return [schemas.published_tool(tool, redaction) for tool in await call_next(context)]

    mcp: FastMCP[Any] = FastMCP("lab", middleware=[Publishing(lambda r: results.redact_tool_result(r, redaction))])
    mcp.tool(many if many_ else one, name="tool")
    data = asyncio.run(wire.validated(mcp, era))
    assert isinstance(data, dict)
