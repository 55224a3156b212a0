"""Field paths, redaction and schemas, over random documents and by example."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_macaroon_middleware.errors import ResultWithheld, RuleError
from mcp_macaroon_middleware.fields import is_present, parse_path, redact, relax_schema
from mcp_macaroon_middleware.model import Redaction

keys = st.sampled_from(["a", "b", "c", "key"])
scalars = st.none() | st.booleans() | st.integers() | st.text("ab{}", max_size=3)
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)
paths = st.lists(keys | st.sampled_from(["*", "**", "0"]), min_size=1, max_size=3).map(".".join)
redactions = st.builds(
    lambda withhold, keep: Redaction(withhold=tuple(withhold), keep=tuple(tuple(one) for one in keep)),
    st.lists(paths, max_size=3),
    st.lists(st.lists(paths, min_size=1, max_size=2), max_size=2),
)


def without(*withhold: str, keep: list[str] | None = None) -> Redaction:
    return Redaction(withhold=withhold, keep=(tuple(keep),) if keep is not None else ())


def leaves(document: Any, path: tuple[str, ...] = ()) -> set[tuple[tuple[str, ...], str]]:
    if isinstance(document, dict):
        return set().union(*(leaves(child, (*path, key)) for key, child in document.items()))
    if isinstance(document, list):
        return set().union(*(leaves(item, path) for item in document))
    return {(path, repr(document))}


def strict_schema(document: Any) -> dict[str, Any]:
    """A schema that admits this document and as little else as can be said."""
    if isinstance(document, dict):
        return {
            "type": "object",
            "properties": {key: strict_schema(child) for key, child in document.items()},
            "required": list(document),
            "additionalProperties": False,
            "minProperties": len(document),
        }
    if isinstance(document, list):
        items = {"oneOf": [strict_schema(item) for item in document]} if len(document) == 1 else {}
        return {"type": "array", "items": items, "minItems": len(document)}
    return {"const": document}


@pytest.mark.parametrize(
    ("document", "redaction", "left"),
    [
        ({"a": 1, "ssn": 2}, without("ssn"), {"a": 1}),
        ({"b": {"c": [{"k": 1, "z": 2}]}}, without("b.c.k"), {"b": {"c": [{"z": 2}]}}),
        ([{"ssn": 1}, 5, "x"], without("ssn"), [{}, 5, "x"]),
        ([[{"ssn": 1}]], without("ssn"), [[{}]]),
        ({"a": {"x": 1}, "b": {"x": 1, "y": 2}}, without("*.x"), {"a": {}, "b": {"y": 2}}),
        ({"a": {"b": {"k": 1}}, "k": 2, "l": [{"k": 3}]}, without("**.k"), {"a": {"b": {}}, "l": [{}]}),
        ({"a.b": 1, "a": {"b": 2}}, without(r"a\.b"), {"a": {"b": 2}}),
        ({"a.b": 1, "a": {"b": 2}}, without("a.b"), {"a.b": 1, "a": {}}),
        ({"tags": [1, 2], "x": 1}, without("tags.*"), {"tags": [], "x": 1}),
        ({"tags": [1, 2, 3]}, without("tags.1"), {"tags": [1, 3]}),
        ({"j": '{"ssn": 1, "ssn": 2, "o": 3}'}, without("j.ssn"), {"j": '{"o": 3}'}),
        ({"j": '{"i": "{\\"ssn\\": 1}"}'}, without("**.ssn"), {"j": '{"i": "{}"}'}),
        (
            {"id": 1, "owner": {"login": "x", "mail": "y"}, "z": 3},
            without(keep=["id", "owner.login"]),
            {"id": 1, "owner": {"login": "x"}},
        ),
        ({"id": 1, "body": 2}, Redaction(withhold=("id",), keep=(("id", "body"),)), {"body": 2}),
        ({"a": 1, "b": 2, "c": 3}, Redaction(keep=(("a", "b"), ("b", "c"))), {"b": 2}),
        ({"SSN": 1}, without("ssn"), {"SSN": 1}),
        ({"ssn_x": 1}, without("ssn"), {"ssn_x": 1}),
    ],
)
@pytest.mark.threat("G01", "G02", "G12", "G18")
def test_what_is_withheld_is_removed_and_the_rest_stays(document: Any, redaction: Redaction, left: Any) -> None:
    assert redact(document, redaction) == (left, left != document)


@pytest.mark.threat("G02")
def test_fifty_levels_down_is_not_too_deep() -> None:
    document: Any = {"ssn": 1}
    for level in range(50):
        document = {"a": document} if level % 2 else [document]
    assert "ssn" not in json.dumps(redact(document, without("**.ssn"))[0])


def deep(levels: int) -> Any:
    document: Any = {}
    for _ in range(levels):
        document = {"a": document}
    return document


@pytest.mark.threat("G17", "P01")
@pytest.mark.parametrize(
    ("document", "redaction"),
    [
        (deep(100_000), without("**.ssn")),
        ({"j": "[" * 100_000}, without("j.ssn")),
        ({"a": {1, 2}}, without("a.ssn")),
        ({"a": b"x"}, without("a.ssn")),
        ({1: 2}, without("ssn")),
        ({"a": 1}, without("**")),
        ({"a": 1}, Redaction(everything=True)),
        ("plain", without(keep=["a"])),
    ],
    ids=["deep", "deep-text", "set", "bytes", "key", "root", "everything", "leaf-under-keep"],
)
def test_L2_what_cannot_be_walked_is_withheld_whole(document: Any, redaction: Redaction) -> None:
    if isinstance(document, dict) and isinstance(document.get("j"), str):
        try:
            left, _ = redact(document, redaction)
        except ResultWithheld:
            return
        assert left == document  # not JSON at all: a text without fields
        return
    with pytest.raises(ResultWithheld):
        redact(document, redaction)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(keys, documents, max_size=4), redactions)
@pytest.mark.threat("G13")
def test_every_redacted_document_fits_the_relaxed_schema(document: Any, redaction: Redaction) -> None:
    schema = strict_schema(document)
    jsonschema.Draft202012Validator(schema).validate(document)
    try:
        left, _ = redact(document, redaction)
    except ResultWithheld:
        return
    jsonschema.Draft202012Validator(relax_schema(schema, redaction)).validate(left)


@settings(max_examples=300, deadline=None)
@given(documents, redactions, redactions)
def test_L1_withholding_more_never_shows_more(document: Any, first: Redaction, second: Redaction) -> None:
    try:
        both = redact(document, first | second)[0]
    except ResultWithheld:
        return
    assert leaves(both) <= leaves(redact(document, first)[0])


@settings(max_examples=300, deadline=None)
@given(documents, st.lists(keys, min_size=1, max_size=3))
def test_L3_a_withheld_value_is_nowhere_in_what_is_left(document: Any, where: list[str]) -> None:
    planted: Any = "s3cr3t"
    for key in reversed(where):
        planted = {key: planted, "also": json.dumps({key: planted}) if isinstance(planted, str) else 0}
    redaction = without("**." + where[-1])
    assert "s3cr3t" not in json.dumps(redact({"x": document, "y": [planted]}, redaction)[0])


@given(documents, paths)
def test_a_path_is_present_exactly_where_withholding_it_changes_something(document: Any, path: str) -> None:
    try:
        changed = redact(document, without(path))[1]
    except ResultWithheld:
        changed = True
    assert is_present(document, path) == changed


def test_references_stay_references_and_recursion_goes_on() -> None:
    schema = {
        "$defs": {
            "Node": {
                "type": "object",
                "properties": {"k": {"type": "integer"}, "n": {"$ref": "#/$defs/Node"}},
                "required": ["k"],
            }
        },
        "type": "object",
        "properties": {"root": {"$ref": "#/$defs/Node"}},
        "required": ["root"],
    }
    relaxed = relax_schema(schema, without("**.k"))
    validator = jsonschema.Draft202012Validator(relaxed)
    validator.validate({"root": {"n": {"n": {}}}})
    assert not validator.is_valid({"root": {"n": {"n": 5}}})
    assert relaxed["properties"]["root"] == {"$ref": "#/$defs/Node"}
    assert list(relaxed["$defs"]) == ["Node"]


def test_the_wrapper_of_a_plain_result_stays() -> None:
    schema = {
        "type": "object",
        "properties": {
            "result": {"type": "array", "items": {"type": "object", "required": ["k"], "properties": {"k": {}}}}
        },
        "required": ["result"],
        "x-fastmcp-wrap-result": True,
    }
    relaxed = relax_schema(schema, without("k"))
    jsonschema.Draft202012Validator(relaxed).validate({"result": [{}]})
    assert relaxed["required"] == ["result"]
    assert relaxed["x-fastmcp-wrap-result"] is True
    assert relax_schema(schema, None) == {"type": "object", "x-fastmcp-wrap-result": True}


@pytest.mark.parametrize("text", ["", "a..b", ".a", "a.", "a*", "a.***", "a\\x", "a\\"])
def test_a_wrong_path_says_where(text: str) -> None:
    with pytest.raises(RuleError):
        parse_path(text)


@pytest.mark.threat("G21")
def test_a_large_document_is_walked_in_one_pass() -> None:
    document = {"rows": [{"id": n, "ssn": "x", "name": "y"} for n in range(70_000)]}
    left, changed = redact(document, without("rows.ssn"))
    assert changed
    assert len(left["rows"]) == 70_000
    assert all("ssn" not in row for row in left["rows"])
