"""Arguments as the leaf gets them: local values by its own signature, remote ones strictly by schema."""

from __future__ import annotations

import enum
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastmcp import Context, FastMCP
from fastmcp.dependencies import Depends
from fastmcp.prompts import Prompt
from fastmcp.resources import ResourceTemplate
from fastmcp.tools import Tool
from fastmcp.tools.tool_transform import ArgTransform
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, SecretStr

from mcp_macaroon_middleware.adapters.fastmcp.arguments import coerced, through
from mcp_macaroon_middleware.adapters.fastmcp.foreign import facts_of
from mcp_macaroon_middleware.errors import ArgumentsInvalid

SERVER: FastMCP[Any] = FastMCP("s")


class Options(BaseModel):
    """A nested model with an alias and a secret."""

    user_id: int = Field(alias="userId")
    password: SecretStr = SecretStr("none")


class Colour(enum.Enum):
    """A choice."""

    RED = "red"


def function(
    amount: int,
    options: Options,
    context: Context,
    colour: Colour = Colour.RED,
    path: Annotated[Path, Field(description="a path")] = Path("docs"),
    day: date = date(2026, 1, 2),
    hidden: str = Depends(lambda: "injected"),
) -> int:
    """A function with everything that FastMCP takes."""
    raise AssertionError("it must not run")


def test_a_local_tools_arguments_are_its_values_with_defaults_and_without_injected_ones() -> None:
    tool = Tool.from_function(function)
    found = coerced(tool, {"amount": "5_000", "options": {"userId": "7", "password": "x"}}, SERVER)
    assert found == {
        "amount": 5000,
        "options": {"userId": 7, "password": "x"},
        "colour": "red",
        "path": "docs",
        "day": "2026-01-02",
    }


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"amount": "x", "options": {"userId": 1}},
        {"amount": 1, "options": {"userId": 1}, "hidden": "mine"},
        {"amount": 1, "options": {"userId": 1}, "more": 1},
    ],
)
def test_what_does_not_fit_is_said(arguments: dict[str, Any]) -> None:
    with pytest.raises(ArgumentsInvalid):
        coerced(Tool.from_function(function), arguments, SERVER)


def test_strict_input_validation_is_honoured() -> None:
    strict: FastMCP[Any] = FastMCP("strict", strict_input_validation=True)
    tool = Tool.from_function(lambda amount: amount, name="f")
    typed = Tool.from_function(_typed, name="f")
    assert coerced(tool, {"amount": "1"}, strict) == {"amount": "1"}
    assert coerced(typed, {"amount": "1"}, SERVER) == {"amount": 1}
    with pytest.raises(ArgumentsInvalid):
        coerced(typed, {"amount": "1"}, strict)


def _typed(amount: int) -> int:
    return amount


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(
        st.integers(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=6), st.none()
    )
)
def test_what_is_judged_is_what_the_function_gets(value: Any) -> None:
    import asyncio

    got: list[Any] = []

    async def f(amount: int | str | None) -> int:
        got.append(amount)
        return 1

    tool = Tool.from_function(f)
    try:
        judged = coerced(tool, {"amount": value}, SERVER)
    except ArgumentsInvalid:
        with pytest.raises(Exception, match="amount"):
            asyncio.run(tool.run({"amount": value}))
        assert got == []
        return
    asyncio.run(tool.run({"amount": value}))
    assert [judged["amount"]] == got
    assert type(judged["amount"]) is type(got[0])


def test_a_prompts_texts_are_converted() -> None:
    def prompt(count: int, names: list[str] = [], note: str = "n") -> str:  # noqa: B006
        return ""

    made = Prompt.from_function(prompt)
    assert coerced(made, {"count": "3", "names": '["x"]', "other": "y"}, SERVER) == {
        "count": 3,
        "names": ["x"],
        "note": "n",
    }
    with pytest.raises(ArgumentsInvalid):
        coerced(made, {}, SERVER)
    with pytest.raises(ArgumentsInvalid):
        coerced(made, {"count": "many"}, SERVER)


def test_a_templates_parameters_are_converted() -> None:
    def read(id: int, flag: bool = False, tags: list[str] = []) -> str:  # noqa: B006
        return ""

    template = ResourceTemplate.from_function(read, "x://{id}{?flag,tags}")
    params = template.matches("x://07?flag=yes&tags=a,b")
    assert params is not None
    assert coerced(template, params, SERVER) == {"id": 7, "flag": True, "tags": ["a", "b"]}


SCHEMA = {
    "type": "object",
    "properties": {
        "n": {"type": "integer", "default": 3},
        "s": {"type": "string"},
        "o": {"type": "object", "properties": {"deep": {"type": "boolean", "default": False}}},
    },
    "required": ["n"],
}


def test_a_remote_tool_is_judged_by_its_schemas_defaults_and_given_none() -> None:
    facts = facts_of(SCHEMA, {"n": 1, "s": "x", "o": {}})
    assert facts.given == {"n": 1, "s": "x", "o": {}}
    assert facts.readings == ({"n": 1, "s": "x", "o": {"deep": False}},)


@pytest.mark.parametrize("arguments", [{"n": "3"}, {"n": 3.5}, {"n": True}, {"s": 3}, {"more": 1}, {"o": []}])
def test_another_json_type_is_refused_for_a_remote_tool(arguments: dict[str, Any]) -> None:
    with pytest.raises(ArgumentsInvalid):
        facts_of(SCHEMA, {"n": 1, **arguments})


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "https://example.invalid/s.json"},
        {"type": "object", "properties": {"n": {"$ref": "#/nowhere"}}},
        {"type": "object", "properties": {"n": {"type": "any"}}},
    ],
)
def test_what_cannot_be_evaluated_is_called_untyped(schema: dict[str, Any]) -> None:
    assert facts_of(schema, {"n": 1}).untyped == {"n"}


def test_pure_transforms_are_followed_and_computing_ones_are_not() -> None:
    parent = Tool.from_function(_two)
    pure: Any = Tool.from_tool(
        parent, name="p", transform_args={"a": ArgTransform(name="x"), "b": ArgTransform(hide=True, default=9)}
    )
    twice: Any = Tool.from_tool(pure, name="q", transform_args={"x": ArgTransform(name="y", default=4)})
    made: Any = Tool.from_tool(
        parent, name="r", transform_args={"b": ArgTransform(hide=True, default_factory=lambda: 1)}
    )
    assert through((pure,), {"x": 1}) == {"a": 1, "b": 9}
    assert through((twice, pure), {}) == {"a": 4, "b": 9}
    assert through((made,), {"a": 1}) is None
    with pytest.raises(ArgumentsInvalid):
        through((pure,), {"a": 1})
    with pytest.raises(ArgumentsInvalid):
        through((pure,), {})


def _two(a: int, b: int = 2) -> int:
    return a + b
