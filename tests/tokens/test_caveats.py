"""Caveat texts: ends, branches and rules, told apart without judging a rule."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_macaroon_middleware.errors import RuleError, TokenInvalid
from mcp_macaroon_middleware.tokens.caveats import new_branch, read, writable

BRANCH = "branch<" + "b" * 22
OTHER = "branch<" + "c" * 22


def test_the_earliest_end_counts_wherever_it_stands() -> None:
    early, late = "time<20270101T000000Z", "time<20280101T000000Z"
    for texts in ((early, late), (late, early), (late, BRANCH, early)):
        assert read(tuple(text.encode() for text in texts)).expires == datetime(2027, 1, 1, tzinfo=UTC)


def test_a_rule_belongs_to_the_branches_written_before_it() -> None:
    found = read(tuple(text.encode() for text in ("first", BRANCH, "second", OTHER, "third", "second")))
    b, c = BRANCH[7:], OTHER[7:]
    assert found.rules == (("first", ()), ("second", (b,)), ("third", (b, c)), ("second", (b, c)))
    assert found.branches == (b, c)
    assert found.expires is None


@pytest.mark.threat("A15")
@pytest.mark.parametrize("text", ["", "nonsense", "Time<20270101T000000Z", " time<20270101T000000Z", "time", "bf:x"])
def test_any_other_text_is_a_rule_and_left_for_the_engine(text: str) -> None:
    assert read((text.encode(),)).rules == ((text, ()),)


@pytest.mark.threat("A15")
@pytest.mark.parametrize(
    "text",
    [
        *("time<", "time<never", "time<20271301T000000Z", "time<20270101T000000", "time<2027-01-01T00:00:00Z"),
        *(
            "time<20270101T000000Z ",
            "time<20270101T000000Z\n",
            "time<\u0662\u0660\u0662\u0667\u0660\u0661\u0660\u0661T000000Z",
            "time<99999999T999999Z",
        ),
        *("branch<", "branch<x", BRANCH + "b", BRANCH[:-1], BRANCH[:-1] + "=", BRANCH + "\n", BRANCH[:-1] + "é"),
    ],
)
def test_a_malformed_end_or_branch_is_refused(text: str) -> None:
    with pytest.raises(TokenInvalid) as caught:
        read((text.encode(),))
    assert caught.value.code == "token_caveat"


def test_a_caveat_that_is_no_text_is_refused() -> None:
    with pytest.raises(TokenInvalid):
        read((b"\xff",))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=40) | st.text(max_size=40).map(lambda text: b"time<" + text.encode()), max_size=4))
def test_reading_raises_one_exception_only(texts: list[bytes]) -> None:
    try:
        found = read(tuple(texts))
    except TokenInvalid:
        return
    assert [text for text, _ in found.rules] == [text.decode() for text in texts if not text.startswith(b"time<")]


def test_what_is_written_is_read_back() -> None:
    rule = writable("bf:*:tool_access:only:read_*")
    end = writable("time<20270101T000000Z")
    assert read((rule.encode(), end.encode(), new_branch().encode())).rules == ((rule, ()),)


@pytest.mark.parametrize("text", [BRANCH, "time<never", "time<", "", "nonsense", "bf:x:y:allow:time<20270101T000000Z"])
def test_what_would_refuse_or_prohibit_everything_is_not_written(text: str) -> None:
    with pytest.raises(RuleError):
        writable(text)


def test_branches_are_random() -> None:
    assert len({new_branch() for _ in range(100)}) == 100
