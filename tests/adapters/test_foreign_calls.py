"""Calls of foreign components: what arrives there is what the caller sent, or nothing, whatever rules look at it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from asking import Person
from fastmcp import Client, FastMCP
from fastmcp.server import create_proxy
from fastmcp.tools.base import Tool, ToolResult
from guarded import ERAS, guarded
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_macaroon_middleware.adapters.fastmcp.foreign import facts_of, published_of
from mcp_macaroon_middleware.errors import ArgumentsInvalid

DRAFT_7 = "http://json-schema.org/draft-07/schema#"
DRAFT_4 = "http://json-schema.org/draft-04/schema#"
TEXT = {"type": "string"}


class Foreign(Tool):
    """A tool that is no function of this process, and says what it was sent."""

    async def run(self, arguments: dict[str, Any]) -> ToolResult:
        return ToolResult(content=json.dumps({"sent": arguments}))


async def sent(schema: dict[str, Any], arguments: dict[str, Any], *rules: str, era: str = ERAS[-1]) -> Any:
    """What arrives at the tool; None where the call is refused."""
    server: FastMCP[Any] = FastMCP("front")
    server.add_tool(Foreign(name="t", parameters={"type": "object", **schema}))
    guarded(server, ["bf:*:tool_access:allow", *rules])
    async with Client(server, mode=era, elicitation_handler=Person("once")) as client:
        result = await client.call_tool("t", arguments, raise_on_error=False)
    return None if result.is_error else json.loads(result.content[0].text)["sent"]  # type: ignore[union-attr]


TAKEN: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"properties": {"x": {"type": "string", "default": None}}}, {}),
    ({"properties": {"x": {"enum": ["a"], "default": ""}}}, {}),
    ({"properties": {"x": {"type": "integer", "default": "10"}}}, {}),
    ({"oneOf": [{"properties": {"a": TEXT}, "required": ["a"]}, {"required": ["b"]}]}, {"a": "1"}),
    ({"properties": {"i": TEXT}, "anyOf": [{"properties": {"a": TEXT}}]}, {"a": "1"}),
    ({"allOf": [{"$ref": "#/$defs/A"}], "$defs": {"A": {"properties": {"a": TEXT}}}}, {"a": "1"}),
    ({"$ref": "#/$defs/A", "$defs": {"A": {"properties": {"a": TEXT}}}}, {"a": "1"}),
    ({"properties": {"k": {}}, "if": {}, "then": {"properties": {"a": TEXT}}}, {"a": "1"}),
    ({"properties": {"k": {}}, "dependentSchemas": {"k": {"properties": {"a": TEXT}}}}, {"k": 1, "a": "1"}),
    ({"allOf": [{"properties": {"a": TEXT}}], "unevaluatedProperties": False}, {"a": "1"}),
    ({}, {"a": "1"}),
    ({"properties": {}}, {"a": "1"}),
    (
        {"properties": {"a": {"default": "A"}, "b": {}}, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
        {"b": "1"},
    ),
    ({"properties": {"a": {"default": "A"}, "b": {}}, "not": {"required": ["a", "b"]}}, {"b": "1"}),
    ({"$schema": DRAFT_7, "properties": {"p": {"items": [{"type": "number"}, {"type": "number"}]}}}, {"p": [1, 2]}),
    (
        {
            "$schema": DRAFT_7,
            "properties": {"n": {"$ref": "#/definitions/N", "minLength": 9}},
            "definitions": {"N": TEXT},
        },
        {"n": "a"},
    ),
    ({"$schema": DRAFT_4, "properties": {"n": {"minimum": 0, "exclusiveMinimum": True}}}, {"n": 1}),
    ({"properties": {"n": {"minimum": 0, "exclusiveMinimum": True}}}, {"n": 1}),
    ({"properties": {"n": {"type": "string", "nullable": True}}}, {"n": None}),
    ({"properties": {"n": {"type": "integer"}}, "required": None}, {"n": 1}),
    ({"properties": {"n": {"type": "string", "enum": None}}}, {"n": "x"}),
    ({"properties": None}, {}),
    ({"properties": {"n": {"type": "any"}}}, {"n": 1}),
    ({"properties": {"n": {"type": "file"}}}, {"n": "x"}),
    ({"properties": {"f": {"$ref": "#/$defs/Gone"}}}, {"f": 1}),
    ({"properties": {"n": {"type": "integer"}}}, {"n": 5.0}),
]


@pytest.mark.threat("R06", "R07")
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(("schema", "arguments"), TAKEN)
async def test_reports_mcp_f3_a_call_that_its_server_takes_arrives_as_it_was_sent(
    schema: dict[str, Any], arguments: dict[str, Any], era: str
) -> None:
    assert await sent(schema, arguments, "bf:t:tool_access:elicit", era=era) == arguments


DEFAULTS = {
    "properties": {
        "page": TEXT,
        "trash": {"type": "boolean", "default": True},
        "more": {"$ref": "#/$defs/More"},
        "n": {"type": "integer", "default": 5},
    },
    "$defs": {"More": {"type": "object", "properties": {"force": {"type": "boolean", "default": True}}}},
}


@pytest.mark.threat("R06", "E12")
@pytest.mark.parametrize("era", ERAS)
async def test_reports_mcp_f1_no_rule_adds_what_the_caller_left_out(era: str) -> None:
    arguments = {"page": "p1", "more": {}}
    for rule in ("tool_access:elicit", "argument_allowlist:allow:page:p*", "argument_range:allow:n:1:5"):
        assert await sent(DEFAULTS, arguments, f"bf:t:{rule}", era=era) == arguments
    for rule in ("argument_allowlist:allow:trash:false", "argument_allowlist:allow:more.force:false"):
        assert await sent(DEFAULTS, arguments, f"bf:t:{rule}", era=era) is None
    assert await sent(DEFAULTS, arguments, "bf:t:argument_range:allow:n:1:4", era=era) is None


@pytest.mark.threat("R06")
async def test_every_one_of_several_defaults_is_judged() -> None:
    schema = {"anyOf": [{"properties": {"mode": {"default": "safe"}}}, {"properties": {"mode": {"default": "wipe"}}}]}
    assert await sent(schema, {}, "bf:t:argument_allowlist:allow:mode:safe") is None
    assert await sent(schema, {}, "bf:t:argument_allowlist:allow:mode:safe:wipe") == {}


@pytest.mark.threat("R06")
async def test_a_person_is_shown_what_was_not_given_as_such() -> None:
    server: FastMCP[Any] = FastMCP("front")
    server.add_tool(Foreign(name="t", parameters={"type": "object", **DEFAULTS}))
    guarded(server, ["bf:t:tool_access:elicit"])
    person = Person("once")
    async with Client(server, elicitation_handler=person) as client:
        await client.call_tool("t", {"page": "p1", "more": {}})
    ((text, _),) = person.seen
    assert "trash: not given; the server's schema says true" in text
    assert '"force": not given; the server\'s schema says true' in text


@pytest.mark.threat("R08")
@pytest.mark.parametrize("other", ["Amount", "AMOUNT", "\uff41mount"])
async def test_attacks_h13_a_second_spelling_of_a_judged_name_is_refused_at_any_depth(other: str) -> None:
    schema = {"properties": {"o": {"type": "object"}, "amount": {"type": "integer"}}, "additionalProperties": True}
    rule = "bf:t:argument_range:allow:o.amount:1:9"
    assert await sent(schema, {"o": {"amount": 5, other: 5000}}, rule) is None
    assert await sent(schema, {"o": {"amount": 5, "note": 5000}}, rule) is not None
    assert await sent(schema, {"amount": 5, other: 5000}, "bf:t:argument_range:allow:amount:1:9") is None
    assert await sent(schema, {"amount": 5, other: 5000}, "bf:t:rate_limit:allow:9/hour") is not None


@pytest.mark.threat("R07")
async def test_only_an_untyped_argument_that_a_rule_names_refuses() -> None:
    schema = {"properties": {"n": {"type": "any"}, "s": TEXT}}
    assert await sent(schema, {"n": 1, "s": "a"}, "bf:t:argument_allowlist:allow:s:a") == {"n": 1, "s": "a"}
    assert await sent(schema, {"n": 1, "s": "a"}, "bf:t:argument_allowlist:allow:n:1") is None
    assert await sent(schema, {"n": 1, "s": 2}, "bf:t:argument_allowlist:allow:n:1") is None


@pytest.mark.threat("R07")
def test_a_hostile_schema_is_given_up_within_its_bound() -> None:
    doubling = {f"A{n}": {"allOf": [{"$ref": f"#/$defs/A{n + 1}"}] * 2} for n in range(40)}
    schema = {"properties": {"x": {"$ref": "#/$defs/A0"}, "y": TEXT}, "$defs": {**doubling, "A40": TEXT}}
    started = time.perf_counter()
    assert facts_of(schema, {"x": "a"}).untyped == {"x"}
    circle = {"properties": {"x": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"$ref": "#/$defs/A"}}}
    assert facts_of(circle, {"x": 1}).untyped == {"x"}
    assert facts_of({"properties": {"x": {"pattern": "(a+)+$"}}}, {"x": "a" * 64 + "!"}).untyped == frozenset()
    assert published_of(circle).names
    assert time.perf_counter() - started < 20


NAMES = st.sampled_from(["a", "b", "path"])
LEAVES = st.sampled_from(
    [{"type": "string"}, {"type": "integer"}, {"type": "boolean", "default": True}, {"default": 1}]
)
SCHEMAS = st.recursive(
    st.dictionaries(NAMES, LEAVES, max_size=3).map(lambda found: {"type": "object", "properties": found}),
    lambda inner: st.one_of(
        st.dictionaries(NAMES, inner, max_size=3).map(lambda found: {"type": "object", "properties": found}),
        inner.map(lambda one: {"type": "object", "allOf": [one]}),
    ),
    max_leaves=6,
)
VALUES = st.recursive(
    st.one_of(st.text(max_size=3), st.integers(), st.booleans(), st.none()),
    lambda inner: st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.threat("R06", "R07")
@settings(max_examples=150, deadline=None)
@given(SCHEMAS, st.dictionaries(NAMES, VALUES, max_size=3))
def test_what_came_is_in_every_reading_and_stays_as_it_was(schema: dict[str, Any], arguments: dict[str, Any]) -> None:
    before = json.dumps(arguments)
    try:
        facts = facts_of(schema, arguments)
    except ArgumentsInvalid:
        return
    finally:
        assert json.dumps(arguments) == before
    assert facts.given is arguments
    for reading in facts.readings:
        assert _holds(reading, arguments)


def _holds(reading: Any, came: Any) -> bool:
    if isinstance(came, dict):
        return all(name in reading and _holds(reading[name], value) for name, value in came.items())
    return type(reading) is type(came) and bool(reading == came)


@pytest.mark.threat("R13", "C10")
@pytest.mark.parametrize("mounted", [False, True])
@pytest.mark.parametrize("era", ERAS)
async def test_reports_mcp_f4_a_remote_tool_that_was_redefined_is_asked_about_anew(era: str, mounted: bool) -> None:
    backend: FastMCP[Any] = FastMCP("backend")
    ran: list[str] = []

    def first(x: str = "a") -> str:
        ran.append("first")
        return x

    def second(x: str = "a", wipe: bool = True) -> str:
        ran.append("second")
        return x

    backend.tool(first, name="t")
    server: FastMCP[Any] = create_proxy(backend)
    if mounted:
        outer: FastMCP[Any] = FastMCP("outer")
        outer.mount(server)
        server = outer
    guarded(server, ["bf:*:tool_access:allow", "bf:t:tool_access:elicit"])
    person = Person("period")
    async with Client(server, mode=era, elicitation_handler=person) as client:
        await client.call_tool("t", {})
        await client.call_tool("t", {})
        assert (person.asked, ran) == (1, ["first", "first"])
        backend.local_provider.remove_tool("t")
        backend.tool(second, name="t")
        person.says = "deny"
        result = await client.call_tool("t", {}, raise_on_error=False)
    assert result.is_error
    assert (person.asked, ran) == (2, ["first", "first"])
