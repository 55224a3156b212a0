"""Whatever a redaction leaves is valid against the schema that is published for it (THREATS G13)."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_macaroon_middleware.errors import ResultWithheld
from mcp_macaroon_middleware.fields import redact, relax_schema
from mcp_macaroon_middleware.model import Redaction

keys = st.sampled_from(["a", "b", "c", "A"])
texts = st.text("ab{}", max_size=3) | st.sampled_from(['{"a": 1}', '[{"b": "x"}, 2]', '{"a": {"b": [1]}}'])
scalars = st.none() | st.booleans() | st.integers(-9, 9) | texts
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=10
)
steps = keys | st.sampled_from(["*", "**", "0", "1"])
paths = st.builds(
    lambda fold, parts: fold + ".".join(parts),
    st.sampled_from(["", "", "(?i)"]),
    st.lists(steps, min_size=1, max_size=3),
)
redactions = st.builds(
    lambda withhold, keep: Redaction(withhold=tuple(withhold), keep=tuple(tuple(one) for one in keep)),
    st.lists(paths, max_size=3),
    st.lists(st.lists(paths, min_size=1, max_size=3), max_size=2),
)


def valid(document: Any, schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(document)


class Schemas:
    """Draws schemas that admit one document and forbid, by many keywords, most others."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.definitions: dict[str, Any] = {}

    def chance(self) -> bool:
        return bool(self.draw(st.booleans()))

    def of(self, document: Any) -> Any:
        schema = self.plain(document)
        return self.draw(st.sampled_from([self.bare, self.bare, self.referred, self.branched]))(schema, document)

    def bare(self, schema: Any, document: Any) -> Any:
        return schema

    def referred(self, schema: Any, document: Any) -> Any:
        name = f"D/{len(self.definitions)}"
        self.definitions[name] = schema
        reference: dict[str, Any] = {"$ref": "#/$defs/" + name.replace("/", "~1")}
        return {**reference, "enum": [document]} if self.chance() else reference

    def branched(self, schema: Any, document: Any) -> Any:
        word = self.draw(st.sampled_from(["allOf", "anyOf", "oneOf"]))
        other = {"not": {"const": document}}
        return {word: [schema, {"if": other, "then": False}] if word == "allOf" else [schema, other]}

    def plain(self, document: Any) -> dict[str, Any]:
        if isinstance(document, dict):
            return self.object(document)
        if isinstance(document, list):
            return self.array(document)
        return {"const": document} if self.chance() else {"enum": [document], "minLength": 0, "pattern": ""}

    def object(self, document: dict[str, Any]) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "object", "properties": {}, "minProperties": len(document)}
        schema["maxProperties"] = len(document)
        if self.chance():
            schema["required"] = list(document)
        if document and self.chance():
            schema["dependentRequired"] = {next(iter(document)): list(document)}
        for key, child in document.items():
            where = self.draw(st.sampled_from(["properties", "pattern", "rest"]))
            if where == "pattern":
                schema.setdefault("patternProperties", {})[f"^{key}$"] = self.of(child)
            elif where == "properties":
                schema["properties"][key] = self.of(child)
        others = [key for key in document if key not in schema["properties"]]
        others = [key for key in others if f"^{key}$" not in schema.get("patternProperties", {})]
        if len(others) == 1:
            schema["additionalProperties"] = self.of(document[others[0]])
        elif not others:
            schema[self.draw(st.sampled_from(["additionalProperties", "unevaluatedProperties"]))] = False
        return schema

    def array(self, document: list[Any]) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "array", "minItems": len(document)}
        if len(document) == 1 and self.chance():
            schema |= {"contains": self.of(document[0]), "maxContains": 1}
        if document and self.chance():
            schema |= {"prefixItems": [self.of(item) for item in document], "items": False}
        else:
            schema["items"] = {"anyOf": [self.of(item) for item in document] or [{}]}
        return schema


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data(), st.dictionaries(keys, documents, max_size=4), redactions, st.booleans())
@pytest.mark.threat("G13")
def test_what_a_redaction_leaves_is_valid_against_the_relaxed_schema(
    data: st.DataObject, document: Any, redaction: Redaction, wrapped: bool
) -> None:
    schemas = Schemas(data.draw)
    schema = schemas.of(document)
    if wrapped:
        schema = {"type": "object", "properties": {"result": schema}, "required": ["result"]}
        schema["x-fastmcp-wrap-result"] = True
    schema["$defs"] = schemas.definitions
    valid({"result": document} if wrapped else document, schema)
    try:
        left = redact(document, redaction)[0]
    except ResultWithheld:
        return
    relaxed = relax_schema(schema, redaction)
    valid({"result": left} if wrapped else left, relaxed)
    valid({"result": document} if wrapped else document, relaxed)
    assert len(json.dumps(relaxed)) <= max(3 * len(json.dumps(schema)), 120)
    assert relaxed.get("type") == "object" or redaction.is_empty or not {"type", "properties", "$ref"} & set(schema)


def test_a_list_of_lists_of_itself_ends() -> None:
    schema = {
        "$defs": {"Tree": {"type": "array", "items": {"anyOf": [{"$ref": "#/$defs/Tree"}, {"type": "object"}]}}},
        "type": "object",
        "properties": {"tree": {"$ref": "#/$defs/Tree"}},
    }
    relaxed = relax_schema(schema, Redaction(withhold=("tree.a.b",)))
    valid({"tree": [[[[[{"a": {}}]]]]]}, relaxed)


@pytest.mark.parametrize(
    "reference", ["#name", "https://elsewhere/schema", "#/$defs/missing", "#/$defs/list/9", 7, "other.json#/$defs/x"]
)
def test_a_reference_that_leads_nowhere_we_know_admits_anything(reference: Any) -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": reference}}, "$defs": {"list": []}, "required": ["a"]}
    assert relax_schema(schema, Redaction(withhold=("a.b",)))["properties"] == {"a": {}}


@pytest.mark.parametrize("name", ["List[int]", "a/b", "a~b", "a%b", "é"])
def test_a_reference_is_read_as_a_json_pointer(name: str) -> None:
    from urllib.parse import quote

    pointer = quote(name.replace("~", "~0").replace("/", "~1"))
    schema = {"type": "object", "properties": {"a": {"$ref": f"#/$defs/{pointer}"}}, "$defs": {name: {"type": "array"}}}
    relaxed = relax_schema(schema, Redaction(withhold=("a.b",)))
    assert list(relaxed["$defs"].values()) == [{"type": "array"}]
    valid({"a": []}, relaxed)
    assert not jsonschema.Draft202012Validator(relaxed).is_valid({"a": {}})


def test_a_part_with_an_identity_of_its_own_admits_anything() -> None:
    inner = {"$id": "https://here/inner", "$defs": {"x": {"type": "string"}}, "$ref": "#/$defs/x"}
    schema = {"type": "object", "properties": {"a": {"allOf": [{"$id": "x", "properties": {}}]}, "b": inner}}
    relaxed = relax_schema(schema, Redaction(withhold=("a.b",)))
    valid({"a": 1, "b": {"any": "thing"}}, relaxed)


def test_the_dialect_stays_and_its_own_words_are_known() -> None:
    draft7 = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "definitions": {"T": {"type": "string"}},
        "type": "object",
        "properties": {"a": {"$ref": "#/definitions/T", "minLength": 9}, "l": {"items": [{"type": "integer"}]}},
        "dependencies": {"a": ["b"]},
        "additionalProperties": False,
    }
    relaxed = relax_schema(draft7, Redaction(withhold=("b", "l.*")))
    assert relaxed["$schema"] == draft7["$schema"]
    jsonschema.Draft7Validator.check_schema(relaxed)
    jsonschema.Draft7Validator(relaxed).validate({"a": "x", "l": []})


@pytest.mark.threat("P01")
def test_a_schema_without_end_is_cut_off() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5_000):
        deep = {"type": "object", "properties": {"a": deep}, "required": ["a"]}
    assert relax_schema(deep, Redaction(withhold=("**.b",)))["type"] == "object"
    assert relax_schema(deep, Redaction(withhold=("b",)))["type"] == "object"
    wide: dict[str, Any] = {"$defs": {"d0": {"type": "string"}}}
    for number in range(1, 30):
        child = {"$ref": f"#/$defs/d{number - 1}"}
        wide["$defs"][f"d{number}"] = {"type": "object", "properties": {"l": child, "r": child}}
    wide |= {"type": "object", "properties": {"a": {"$ref": "#/$defs/d29"}}}
    assert relax_schema(wide, Redaction(withhold=("**.x",)))["type"] == "object"


def test_nothing_withheld_changes_nothing_and_everything_admits_any_object() -> None:
    schema = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}
    assert relax_schema(schema, Redaction()) == schema
    assert relax_schema(schema, None) == {"type": "object"}
    assert relax_schema(schema, Redaction(everything=True)) == {"type": "object"}


def test_what_no_path_reaches_stays_as_strict_as_it_was() -> None:
    schema = {
        "type": "object",
        "properties": {"id": {"type": "integer", "minimum": 1}, "ssn": {"type": "string"}, "tag": {"enum": ["x"]}},
        "required": ["id", "ssn"],
        "additionalProperties": False,
    }
    relaxed = relax_schema(schema, Redaction(withhold=("ssn",)))
    assert relaxed["required"] == ["id"]
    assert relaxed["properties"]["id"] == {"type": "integer", "minimum": 1}
    assert relaxed["properties"]["tag"] == {"enum": ["x"]}
    assert relaxed["additionalProperties"] is False


@pytest.mark.parametrize(
    ("root", "kind"),
    [
        ({"type": "array", "items": {"type": "object"}}, {"type": "array"}),
        ({"type": ["array", "null"]}, {"type": ["array", "null"]}),
        ({"type": ["object", "null"]}, {"type": "object"}),
        ({"properties": {"a": {}}}, {"type": "object"}),
        ({"$ref": "#/$defs/rows", "$defs": {"rows": {"type": "array"}}}, {"type": "array"}),
        ({"$ref": "#", "$defs": {}}, {}),
        ({"anyOf": [{"type": "object"}]}, {}),
    ],
)
def test_what_a_result_is_stays_as_its_schema_says(root: dict[str, Any], kind: dict[str, Any]) -> None:
    assert relax_schema(root, None) == kind
    relaxed = relax_schema(root, Redaction(withhold=("a",)))
    assert relaxed.get("type") == kind.get("type")


# --- one definition for each standing ---------------------------------------------------------------------------------


def mutual(kinds: int, **notes: Any) -> dict[str, Any]:
    """A schema of as many types, each of which refers to all of them (reports-mcp F5)."""
    to = {f"to{number}": {"$ref": f"#/$defs/K{number}"} for number in range(kinds)}
    node = {
        "type": "object",
        "required": ["id", "note"],
        "properties": {"id": {"type": "string"}, "note": {"type": "string", **notes}, **to},
    }
    return {
        "type": "object",
        "properties": {"top": {"$ref": "#/$defs/K0"}},
        "$defs": {f"K{number}": json.loads(json.dumps(node)) for number in range(kinds)},
    }


@pytest.mark.threat("R12")
@pytest.mark.parametrize("kinds", [1, 3, 9, 30])
@pytest.mark.parametrize(
    "redaction",
    [
        Redaction(withhold=("**.note",)),
        Redaction(keep=(("top.id",),)),
        Redaction(withhold=("top.to0.to0.to0.note", "top.*.*.*.*.id", "**.to0.note")),
        Redaction(withhold=tuple(f"**.to{n}.*.to{n}.*.note" for n in range(8))),
    ],
)
def test_F5_a_schema_of_types_that_refer_to_each_other_stays_near_its_own_size(
    kinds: int, redaction: Redaction
) -> None:
    schema = mutual(kinds)
    value: Any = {"id": "a", "note": "n"}
    for number in (0, kinds - 1, 0, kinds - 1):
        value = {"id": "a", "note": "n", f"to{number}": value}
    valid({"top": value}, schema)
    for never in (None, redaction):
        relaxed = relax_schema(schema, redaction, never)
        assert len(json.dumps(relaxed)) <= 3 * len(json.dumps(schema))
        valid(redact({"top": value}, redaction)[0], relaxed)


PLANTED = st.integers(0, 10**9).map(lambda number: f"planted{number}")


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), st.integers(1, 4), st.lists(paths, min_size=1, max_size=3), st.booleans(), st.booleans())
@pytest.mark.threat("R12", "H09")
def test_L3_B7_what_may_leave_or_is_never_there_tells_no_value_and_the_size_holds(
    data: st.DataObject, kinds: int, withhold: list[str], always: bool, seventh: bool
) -> None:
    """Every place that the paths reach is planted with values; an own walk over the schema looks for them."""
    draw = data.draw
    word = "definitions" if seventh else "$defs"
    definitions: dict[str, Any] = {}

    def leaf() -> dict[str, Any]:
        secret = draw(PLANTED)
        told = {"default": secret, "examples": [secret], "enum": [secret, "x"], "description": secret, "title": secret}
        return {"type": "string", **told, "pattern": secret, "x-example": secret, "$comment": secret}

    def member() -> Any:
        kind = draw(st.sampled_from(["leaf", "leaf", "ref", "list", "either"]))
        reference = {"$ref": f"#/{word}/K{draw(st.integers(0, kinds - 1))}"}
        if kind == "ref":
            return reference
        if kind == "list":
            return {"type": "array", "items": reference, "default": [{"a": draw(PLANTED)}]}
        return {"anyOf": [reference, leaf()]} if kind == "either" else leaf()

    def node() -> dict[str, Any]:
        names = draw(st.lists(keys, min_size=1, unique=True, max_size=4))
        return {"type": "object", "properties": {name: member() for name in names}, "additionalProperties": False}

    for number in range(kinds):
        definitions[f"K{number}"] = node()
    schema = {**node(), word: definitions}
    if seventh:
        schema["$schema"] = "http://json-schema.org/draft-07/schema#"
    redaction = Redaction(withhold=tuple(withhold))
    relaxed = relax_schema(schema, redaction, redaction if always else None)
    assert len(json.dumps(relaxed)) <= 3 * len(json.dumps(schema))
    for steps, shown in places(relaxed, word, 4):
        leaves = redacted_at(steps, redaction) and bool(steps)
        if leaves:
            assert "planted" not in json.dumps({w: v for w, v in shown.items() if w not in ("properties", "items")})
        assert not (leaves and always)


def redacted_at(steps: list[str], redaction: Redaction) -> bool:
    """Whether a value at this place leaves; by the walker of documents, not of schemas."""
    value: Any = "here"
    for step in reversed(steps):
        value = {step: value}
    try:
        return "here" not in json.dumps(redact(value, redaction)[0])
    except ResultWithheld:
        return True


def places(schema: dict[str, Any], word: str, depth: int) -> list[tuple[list[str], dict[str, Any]]]:
    """Every place with its steps, references followed, without the items of lists; written for these schemas alone."""
    found: list[tuple[list[str], dict[str, Any]]] = []
    waiting: list[tuple[list[str], Any]] = [([], schema)]
    while waiting:
        steps, part = waiting.pop()
        if "$ref" in part:
            waiting.append((steps, schema[word][part["$ref"].split("/")[-1]]))
            continue
        found.append((steps, {key: value for key, value in part.items() if key not in (word, "anyOf")}))
        waiting.extend((steps, branch) for branch in part.get("anyOf", ()))
        if len(steps) < depth:
            waiting.extend(([*steps, name], child) for name, child in part.get("properties", {}).items())
    return found


@pytest.mark.threat("R12")
def test_B7_a_field_that_is_never_there_is_not_named_and_one_that_may_leave_tells_no_value() -> None:
    secret = {"type": "string", "default": "S3", "examples": ["S3"], "const": "S3", "description": "S3", "title": "S3"}
    schema = {
        "type": "object",
        "properties": {"ssn": secret, "other": secret, "owner": {"type": "object", "properties": {"ssn": secret}}},
        "required": ["ssn", "other"],
        "additionalProperties": False,
        "examples": [{"ssn": "S3"}],
        "default": {"ssn": "S3"},
    }
    both = Redaction(withhold=("ssn", "owner.ssn"))
    absent = relax_schema(schema, both, both)
    assert set(absent["properties"]) == {"other", "owner"}
    assert absent["properties"]["owner"] == {"type": "object", "properties": {}}
    valid({"other": "S3", "ssn": 5}, absent)  # who holds this schema when the rule has gone refuses nothing
    asked = relax_schema(schema, both)
    assert asked["properties"]["ssn"] == asked["properties"]["owner"]["properties"]["ssn"] == {"type": "string"}
    for made in (absent, asked):
        assert made["properties"].pop("other") == secret
        assert "S3" not in json.dumps(made)


@pytest.mark.parametrize("word", ["$defs", "definitions"])
def test_a_definition_that_only_a_withheld_field_refers_to_is_not_published(word: str) -> None:
    schema = {
        "type": "object",
        "properties": {
            "a": {"$ref": f"#/{word}/Secret"},
            "b": {"type": "object", "properties": {"c": {"$ref": f"#/{word}/Open"}}, word: {"Secret": {"const": "S3"}}},
        },
        word: {"Secret": {"type": "string", "default": "S3"}, "Open": {"type": "string", "default": "fine"}},
    }
    relaxed = relax_schema(schema, Redaction(withhold=("a",)), Redaction(withhold=("a",)))
    assert "S3" not in json.dumps(relaxed)
    assert list(relaxed["$defs"].values()) == [{"type": "string", "default": "fine"}]


def test_what_nothing_reaches_keeps_every_word_with_its_references_moved() -> None:
    schema = {
        "type": "object",
        "properties": {
            "ssn": {"type": "string"},
            "rest": {
                "oneOf": [{"$ref": "#/$defs/T"}, {"not": {"$ref": "#/$defs/T"}}],
                "if": {"$ref": "#/properties/ssn"},
                "then": False,
                "properties": {"definitions": {"type": "null"}},
                "examples": [{"a": 1}],
            },
        },
        "$defs": {"T": {"enum": [1, 2]}},
    }
    relaxed = relax_schema(schema, Redaction(withhold=("ssn",)))
    rest = relaxed["properties"]["rest"]
    assert rest["oneOf"] == [{"$ref": "#/$defs/T"}, {"not": {"$ref": "#/$defs/T"}}]
    assert rest["if"] == {"$ref": "#/$defs/ssn"}
    assert (rest["then"], rest["examples"], rest["properties"]["definitions"]) == (False, [{"a": 1}], {"type": "null"})
    assert relaxed["$defs"] == {"T": {"enum": [1, 2]}, "ssn": {"type": "string"}}


def test_past_its_size_a_schema_tells_less_and_still_admits_everything() -> None:
    redaction = Redaction(withhold=tuple(f"**.to{n}.*.*.to{m}.*.note" for n in range(6) for m in range(6)))
    schema = mutual(6, default="S3")
    value: Any = {"id": "a", "note": "n"}
    for number in (0, 5, 3, 1, 2, 0, 4):
        value = {"id": "a", "note": "n", f"to{number}": value}
    for never in (None, redaction):
        relaxed = relax_schema(schema, redaction, never)
        assert len(json.dumps(relaxed)) <= 3 * len(json.dumps(schema))
        assert "S3" not in json.dumps(relaxed)
        assert len(relaxed["$defs"]) == 6
        valid(redact({"top": value}, redaction)[0], relaxed)
