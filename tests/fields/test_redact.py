"""What leaves a document for certain: other spellings of JSON, hostile shapes, folded keys, and nothing more."""

from __future__ import annotations

import gc
import json
import sys
import tracemalloc
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_macaroon_middleware.errors import ResultWithheld, RuleError
from mcp_macaroon_middleware.fields import MAX_DEPTH, is_present, parse_path, redact
from mcp_macaroon_middleware.model import Redaction

SECRET = "s3cr3t"


def without(*withhold: str, keep: list[str] | None = None) -> Redaction:
    return Redaction(withhold=withhold, keep=(tuple(keep),) if keep is not None else ())


def quoted(value: Any) -> str:
    return json.dumps(value)


# --- every spelling of JSON in a text -----------------------------------------------------------------------------


@pytest.mark.threat("G12")
@pytest.mark.parametrize(
    "text",
    [
        '{"ssn": "s3cr3t"}',
        ' \n\t{"ssn": "s3cr3t"} ',
        '\ufeff{"ssn": "s3cr3t"}',
        '\xa0{"ssn": "s3cr3t"}',
        '\x1e{"ssn": "s3cr3t"}\n',
        '{"s\\u0073n": "s3cr3t"}',
        '{"ssn": "s3cr3t", "ssn": 1}',
        '{"a": 1}\n{"ssn": "s3cr3t"}',
        '[1] {"ssn": "s3cr3t"} 5',
        '{"n": NaN, "ssn": "s3cr3t"}',
        '{"line": "a\nb", "ssn": "s3cr3t"}',
        quoted('{"ssn": "s3cr3t"}'),
        quoted(quoted('{"ssn": "s3cr3t"}')),
        quoted({"deep": quoted([{"ssn": SECRET}])}),
        '{"\\ud800": 1, "ssn": "s3cr3t"}',
    ],
)
def test_L3_no_spelling_of_json_in_a_text_carries_a_field_out(text: str) -> None:
    left, changed = redact({"body": text, "list": [text]}, without("**.ssn"))
    assert SECRET not in json.dumps(left)
    assert changed
    assert is_present({"body": text}, "**.ssn")
    json.dumps(left).encode()


@pytest.mark.threat("G12", "G17")
def test_L2_a_number_that_is_too_long_to_read_withholds_the_result() -> None:
    with pytest.raises(ResultWithheld):
        redact({"body": '{"n": %s, "ssn": "s3cr3t"}' % ("1" * 5000)}, without("**.ssn"))


@pytest.mark.parametrize("text", ["[INFO] started", "{name}", '"Yes", she said', "[1] first", "", "{", '"quoted"', "7"])
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert redact({"body": text}, without("**.ssn")) == ({"body": text}, False)


@pytest.mark.parametrize("text", ['{ "a":  1.50 }', '{"a":1}\n\n{"b":2}', quoted('{"a": 1}')])
def test_a_text_that_nothing_leaves_keeps_its_spelling(text: str) -> None:
    assert redact({"body": text}, without("**.ssn")) == ({"body": text}, False)


def test_a_key_that_stands_twice_in_a_text_leaves_once_even_where_nothing_else_leaves() -> None:
    assert redact({"j": '{"a": {"b": 1, "b": 2}}'}, without("**.ssn")) == ({"j": '{"a": {"b": 2}}'}, True)


def test_a_text_of_several_values_that_all_leave_is_gone() -> None:
    assert redact({"id": 1, "j": quoted("[1, 2]")}, without("j.*")) == ({"id": 1, "j": '"[]"'}, True)
    assert redact({"id": 1, "j": "[1]"}, without(keep=["id"])) == ({"id": 1}, True)


# --- hostile shapes -----------------------------------------------------------------------------------------------


def nested(levels: int, *, lists: bool) -> Any:
    document: Any = {"ssn": 1}
    for _ in range(levels):
        document = [document] if lists else {"a": document}
    return document


def at_depth(frames: int, call: Any) -> Any:
    return call() if frames == 0 else at_depth(frames - 1, call)


@pytest.mark.threat("G02", "P01")
@pytest.mark.parametrize("lists", [True, False])
def test_every_depth_up_to_the_limit_is_walked_on_a_deep_stack_too(lists: bool) -> None:
    document = {"x": nested(MAX_DEPTH - 2, lists=lists)}
    assert sys.getrecursionlimit() >= 1000
    assert redact(document, without("**.ssn"))[1]
    assert at_depth(400, lambda: redact(document, without("**.ssn")))[1]
    with pytest.raises(ResultWithheld):
        at_depth(800, lambda: redact(document, without("**.ssn")))


@pytest.mark.threat("P01", "G17")
@pytest.mark.parametrize("path", ["**.ssn", "b"])
@pytest.mark.parametrize("lists", [True, False])
def test_L2_100000_levels_are_withheld_wherever_they_are(path: str, lists: bool) -> None:
    document = {"x": nested(100_000, lists=lists)}
    with pytest.raises(ResultWithheld):
        redact(document, without(path))
    with pytest.raises(ResultWithheld):
        redact({"x": document, "y": 1}, without(keep=["x"]))


@pytest.mark.threat("P01")
def test_looking_for_a_field_is_linear_and_needs_no_stack() -> None:
    assert is_present({"x": nested(100_000, lists=True)}, "**.ssn")
    assert not is_present({"x": nested(100_000, lists=False)}, "**.other")


@pytest.mark.threat("G21", "P01")
def test_L2_a_document_that_grows_when_it_is_walked_is_withheld() -> None:
    document: Any = [1]
    for _ in range(60):
        document = [document, document]
    with pytest.raises(ResultWithheld) as caught:
        redact({"x": document}, without("**.ssn"))
    assert caught.value.code == "result_too_large"
    with pytest.raises(ResultWithheld):
        is_present({"x": document}, "**.ssn")


@pytest.mark.threat("G11", "G17")
@pytest.mark.parametrize("value", [{1}, b"x", datetime.now(UTC), Decimal(1), object(), {1: 2}, {None: 1}, range(3)])
@pytest.mark.parametrize("redaction", [without("**.ssn"), without("ssn"), without(keep=["a"])])
def test_L2_what_is_no_json_is_withheld_even_where_no_path_leads(value: Any, redaction: Redaction) -> None:
    with pytest.raises(ResultWithheld):
        redact({"a": {"b": [value]}, "ssn": 1}, redaction)


def test_frozen_data_comes_back_plain_and_new() -> None:
    inner = {"k": 1, "list": [1]}
    frozen = MappingProxyType({"a": MappingProxyType({"ssn": 1}), "t": (1, (2,)), "inner": inner})
    left, _ = redact(frozen, without("a.ssn"))
    assert left == {"a": {}, "t": [1, [2]], "inner": inner}
    assert left["inner"] is not inner
    assert left["inner"]["list"] is not inner["list"]
    json.dumps(left)


@pytest.mark.threat("P03", "P08")
def test_keys_that_callers_choose_are_not_remembered() -> None:
    redaction = without("**.ssn", "rows.*.name", "(?i)**.Mail")
    redact({"warm": 1}, redaction)
    gc.collect()
    tracemalloc.start()
    for number in range(300):
        redact({f"k{number}-{n}": {f"q{number}-{m}": [{}] for m in range(5)} for n in range(10)}, redaction)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert grown < 200_000


@pytest.mark.threat("P08")
def test_L2_paths_that_are_written_to_be_slow_are_bounded() -> None:
    evil = without(*(f"**.a{n}.**.b.*.*.*.*.*.*.*.*.*.*.*.*.c" for n in range(60)))
    document: Any = {"b": 1}
    for level in range(150):
        document = {key: document if key == "b" else level for key in ("b", "a1", "x")}
    left, _ = redact([document] * 3, evil)
    assert left
    with pytest.raises(RuleError):
        parse_path(".".join(["**"] * 65))


# --- folded keys ----------------------------------------------------------------------------------------------------


@pytest.mark.threat("G12")
@pytest.mark.parametrize("key", ["ssn", "SSN", "Ssn", "\uff53\uff33\uff4e", "\u017fsn"])
def test_a_path_may_say_that_case_and_width_do_not_matter(key: str) -> None:
    document = {"x": {key: SECRET, "ssn_x": 1}, "j": json.dumps({key: SECRET})}
    assert redact(document, without("(?i)**.SSN")) == ({"x": {"ssn_x": 1}, "j": "{}"}, True)
    assert is_present(document, "(?i)x.ssN")
    assert redact({key: 1, "z": 2}, without(keep=["(?i)sSn"]))[0] == {key: 1}


@pytest.mark.threat("G12")
@pytest.mark.parametrize("key", ["SSN", "ssn ", "ssn_x", "\uff53\uff33\uff4e", "x.ssn", "ss\u200bn"])
def test_without_that_keys_are_compared_exactly(key: str) -> None:
    assert redact({key: 1}, without("ssn")) == ({key: 1}, False)


def test_a_star_or_a_backslash_in_a_key_can_be_named() -> None:
    document = {"*": 1, "\\": 2, "a.b": 3, "x": 4}
    assert redact(document, without(r"\*", r"\\", r"a\.b")) == ({"x": 4}, True)
    assert parse_path(r"\*.\\.a\.b").steps == ("*", "\\", "a.b")


# --- laws -----------------------------------------------------------------------------------------------------------

keys = st.sampled_from(["a", "b", "c", "A", "0"])
scalars = st.none() | st.booleans() | st.integers() | st.text("ab", max_size=3)
plain = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=8
)
documents = st.recursive(
    scalars | plain.map(json.dumps) | plain.map(json.dumps).map(json.dumps),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=10,
)
paths = st.builds(
    lambda fold, parts: fold + ".".join(parts),
    st.sampled_from(["", "", "(?i)"]),
    st.lists(keys | st.sampled_from(["*", "**", "1"]), min_size=1, max_size=3),
)
redactions = st.builds(
    lambda withhold, keep: Redaction(withhold=tuple(withhold), keep=tuple(tuple(one) for one in keep)),
    st.lists(paths, max_size=3),
    st.lists(st.lists(paths, min_size=1, max_size=3), max_size=2),
)


def opened(value: Any) -> Any:
    """The document with the JSON in its texts opened, so that leaves can be told one by one."""
    if isinstance(value, str):
        try:
            inner = json.loads(value)
        except ValueError:
            return value
        return ["text", opened(inner)] if isinstance(inner, dict | list | str) else value
    if isinstance(value, dict):
        return {key: opened(child) for key, child in value.items()}
    return [opened(child) for child in value] if isinstance(value, list) else value


def within(less: Any, more: Any) -> bool:
    """Whether `less` is `more` with keys and items taken out, in the same order, and nothing else."""
    if isinstance(less, dict) and isinstance(more, dict):
        return all(key in more and within(child, more[key]) for key, child in less.items())
    if isinstance(less, list) and isinstance(more, list):
        rest = iter(more)
        return all(any(within(item, candidate) for candidate in rest) for item in less)
    return type(less) is type(more) and bool(less == more)


def counts(path: str) -> bool:
    """Whether a path may speak of an item by its place in a list."""
    return any(step.isdigit() for step in path.removeprefix("(?i)").split("."))


def left_of(document: Any, redaction: Redaction) -> Any:
    try:
        return redact(document, redaction)[0]
    except ResultWithheld:
        return None


@settings(max_examples=400, deadline=None)
@given(documents, redactions)
def test_redaction_only_removes(document: Any, redaction: Redaction) -> None:
    before = json.dumps(document)
    left = left_of(document, redaction)
    assert left is None or within(opened(left), opened(document))
    assert json.dumps(document) == before


@settings(max_examples=400, deadline=None)
@given(documents, redactions, redactions)
def test_L1_another_edit_never_shows_more(document: Any, first: Redaction, second: Redaction) -> None:
    alone, both = left_of(document, first), left_of(document, first | second)
    assert both is None or (alone is not None and within(opened(both), opened(alone)))


@settings(max_examples=200, deadline=None)
@given(documents, redactions)
def test_redacting_twice_changes_nothing_more_unless_items_moved_up(document: Any, redaction: Redaction) -> None:
    if any(map(counts, (*redaction.withhold, *sum(redaction.keep, ())))):
        return
    left = left_of(document, redaction)
    assert left is None or left_of(left, redaction) in (left, None)


@settings(max_examples=400, deadline=None)
@given(documents, paths)
def test_L3_what_a_path_names_is_not_present_any_more(document: Any, path: str) -> None:
    if counts(path):
        return  # another item moved up to that place
    left = left_of(document, without(path))
    assert left is None or not is_present(left, path)


@settings(max_examples=200, deadline=None)
@given(documents, st.sampled_from(["**.k", "(?i)**.K", "*.k", "x.**.k"]))
def test_L3_a_secret_below_what_is_withheld_is_nowhere_in_what_is_left(document: Any, path: str) -> None:
    planted = {"k": {"deep": [SECRET, document]}}
    whole = {"x": planted, "y": [json.dumps(planted)] if path != "x.**.k" else 0}
    left = left_of({"x": whole["x"], "y": whole["y"]}, without(path))
    assert left is None or SECRET not in json.dumps(left)
