from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest
from mcp_macaroon_arguments import (
    Allowed,
    Paths,
    Range,
    Repositories,
    argument_allowlist,
    argument_range,
    path_allowlist,
    path_whitelist,
    repo_whitelist,
)
from mcp_macaroon_arguments.finding import words
from mcp_macaroon_arguments.paths import is_path_name
from pydantic import ValidationError

from mcp_macaroon_middleware.plugin import Action, Effect, EnforcerType, Phase
from mcp_macaroon_middleware.testing import Case, EnforcerContract
from mcp_macaroon_middleware.testing.cases import trial

PASSES = {"allow": "allow", "elicit": "allow"}
REFUSES = {"allow": "deny", "elicit": "ask"}


async def verdict(enforcer: EnforcerType, params: Any, arguments: dict[str, Any], **settings: Any) -> Any:
    made = trial(Case(params=params, arguments=arguments, settings=settings), enforcer, Phase.BEFORE, Action.ALLOW)
    assert made is not None
    return await made.verdict()


def judged(enforcer: EnforcerType, params: Any, arguments: dict[str, Any], **settings: Any) -> Any:
    import asyncio

    return asyncio.run(verdict(enforcer, params, arguments, **settings))


def passes(enforcer: EnforcerType, params: Any, arguments: dict[str, Any], **settings: Any) -> bool:
    return judged(enforcer, params, arguments, **settings).effect is Effect.ALLOW


class TestArgumentAllowlist(EnforcerContract):
    enforcer = argument_allowlist
    cases = (
        Case(params=("label", "bug", "docs-*"), arguments={"label": "docs-de"}, expect=PASSES),
        Case(params=("label", "bug"), arguments={"label": "feature"}, expect=REFUSES),
        Case(params=("label", "bug"), arguments={"label": ["bug", "bug"]}, expect=PASSES),
        Case(params=("filter.owner", "me"), arguments={"filter": {"owner": "me"}}, expect=PASSES),
        Case(params={"argument": "n", "patterns": [1, True]}, arguments={"n": 1}, expect=PASSES),
    )


class TestArgumentRange(EnforcerContract):
    enforcer = argument_range
    cases = (
        Case(params=("amount", "0", "100"), arguments={"amount": 100}, expect=PASSES),
        Case(params=("amount", "0", "100"), arguments={"amount": 100.5}, expect=REFUSES),
        Case(params=("amount", "*", "0.1"), arguments={"amount": [0.1, -5]}, expect=PASSES),
        Case(params={"argument": "amount", "maximum": 3}, arguments={"amount": 3}, expect=PASSES),
    )


class TestPathAllowlist(EnforcerContract):
    enforcer = path_allowlist
    cases = (
        Case(params="docs/*:*.md", arguments={"path": "docs/a.txt", "content": "x"}, expect=PASSES),
        Case(params="docs/*:*.md", arguments={"path": "readme.md"}, expect=PASSES),
        Case(params="docs/*:*.md", arguments={"path": "docs/deep/a.txt"}, expect=REFUSES),
        Case(params="docs/**", arguments={"source": "docs/a", "destination": "other/a"}, expect=REFUSES),
        Case(params={"patterns": ["a/*"], "argument": "name"}, arguments={"name": "a/b"}, expect=PASSES),
        Case(params="a/*", arguments={"doc": "a/b"}, settings={"path_arguments": ["doc"]}, expect=PASSES),
    )


class TestPathWhitelist(TestPathAllowlist):
    enforcer = path_whitelist


class TestRepoWhitelist(EnforcerContract):
    enforcer = repo_whitelist
    cases = (
        Case(params=("website", "docs-*"), arguments={"owner": "acme", "repo": "Website"}, expect=PASSES),
        Case(params=("acme/website",), arguments={"repository": "ACME/website"}, expect=PASSES),
        Case(params=("acme/website",), arguments={"owner": "evil", "repo": "website"}, expect=REFUSES),
        Case(params=("acme/website",), arguments={"repo": "website"}, expect=REFUSES),
        Case(params={"names": ["acme/*"], "argument": "slug"}, arguments={"slug": "acme/x"}, expect=PASSES),
    )


# --- E12: missing and ill-typed arguments ----------------------------------------------------------------------------

NEEDING: dict[str, tuple[EnforcerType, Any, str]] = {
    "allowlist": (argument_allowlist, ("value", "*"), "value"),
    "range": (argument_range, ("value", "*", "1000000"), "value"),
    "path": (path_allowlist, ("**",), "path"),
    "repository": (repo_whitelist, ("*",), "repo"),
}


@pytest.mark.threat("E12", "E14")
@pytest.mark.parametrize("which", NEEDING)
@pytest.mark.parametrize("arguments", [{}, {"other": 1}, {"": "x"}], ids=repr)
def test_a_missing_argument_is_refused_and_named(which: str, arguments: dict[str, Any]) -> None:
    enforcer, params, _ = NEEDING[which]
    answer = judged(enforcer, params, arguments)
    assert (answer.effect, answer.code) == (Effect.DENY, "argument_required")
    assert "required by policy" in answer.reason


class Opaque:
    """A value of no known type, whose text is the same in every process, as two that run tests need it."""

    def __repr__(self) -> str:
        return "Opaque()"


@pytest.mark.threat("E12")
@pytest.mark.parametrize("which", NEEDING)
@pytest.mark.parametrize("value", [None, [], [[]], {}, {"a": 1}, [None], [{}], Opaque(), b"x"], ids=repr)
def test_null_empty_and_ill_typed_values_are_refused(which: str, value: Any) -> None:
    enforcer, params, name = NEEDING[which]
    assert not passes(enforcer, params, {name: value})


@pytest.mark.threat("P05")
@pytest.mark.parametrize("which", NEEDING)
def test_more_values_than_can_be_judged_are_refused(which: str) -> None:
    enforcer, params, name = NEEDING[which]
    assert judged(enforcer, params, {name: ["x"] * 20_000}).code == "arguments_too_large"


# --- argument_allowlist ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bug", True),
        ("BUG", False),
        ("bug ", False),
        ("bug\x00", False),
        (["bug", "docs-x"], True),
        (["bug", "other"], False),
        (5, True),
        (5.0, False),
        (True, True),
        (1, False),
        (10**400, False),
        (math.nan, False),
    ],
)
def test_values_are_compared_as_json_writes_them(value: Any, expected: bool) -> None:
    params = {"argument": "x", "patterns": ["bug", "docs-*", 5, True]}
    assert passes(argument_allowlist, params, {"x": value}) is expected


def test_a_name_with_dots_means_the_argument_of_that_name_and_the_nested_one_and_both_must_pass() -> None:
    params = ("a.b", "ok")
    assert passes(argument_allowlist, params, {"a": {"b": "ok"}})
    assert passes(argument_allowlist, params, {"a.b": "ok"})
    assert not passes(argument_allowlist, params, {"a.b": "ok", "a": {"b": "no"}})
    assert passes(argument_allowlist, params, {"a": [{"b": "ok"}, {"b": "ok"}]})
    assert not passes(argument_allowlist, params, {"a": [{"b": "ok"}, {}]})
    assert not passes(argument_allowlist, params, {"a": "b"})


# --- argument_range --------------------------------------------------------------------------------------------------


NO_NUMBERS = (True, False, "5", math.nan, math.inf, -math.inf, 10**400, 101, -1, 100.0000001, 1 + 2j)


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_what_is_no_number_within_the_bounds_is_refused(value: Any) -> None:
    assert not passes(argument_range, ("n", "0", "100"), {"n": value})


@pytest.mark.parametrize("value", [0, 100, 0.0, 99.99, Decimal("5.5"), -0.0, [1, [2, 3]]])
def test_numbers_within_the_bounds_pass(value: Any) -> None:
    assert passes(argument_range, ("n", "0", "100"), {"n": value})


def test_a_decimal_fraction_is_not_above_its_own_bound() -> None:
    assert passes(argument_range, ("n", "0.1", "0.3"), {"n": [0.1, 0.2, 0.3]})


@pytest.mark.parametrize(
    "params",
    [{"argument": "n"}, {"argument": "n", "minimum": 2, "maximum": 1}, {"argument": "n", "minimum": "x"}]
    + [{"argument": "n", "minimum": bad} for bad in ("nan", "inf", True, "*", [], "")],
)
def test_bounds_that_say_nothing_are_an_error(params: Any) -> None:
    with pytest.raises(ValidationError):
        Range.model_validate(params)


# --- repo_whitelist --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"repo": "acme/docs"}, True),
        ({"repository": "docs", "owner": "Acme"}, True),
        ({"repo_name": "docs", "org": "acme"}, True),
        ({"repoName": "docs", "repoOwner": "acme"}, True),
        ({"full_name": "acme/docs"}, True),
        ({"repos": ["acme/docs", "acme/docs"]}, True),
        ({"input": {"repo": "docs", "owner": "acme"}}, True),
        ({"repo": "docs"}, False),
        ({"repo": "docs", "owner": None}, False),
        ({"repo": "docs", "owner": 5}, False),
        ({"repo": "docs", "owner": "acme/x"}, False),
        ({"repo": "docs", "owner": "acme", "org": "evil"}, False),
        ({"repo": "acme/docs", "owner": "evil"}, False),
        ({"repo": "evil/docs", "owner": "acme"}, False),
        ({"repos": ["acme/docs", "evil/docs"]}, False),
        ({"repo": "acme/docs", "head_repo": "evil/docs"}, False),
        ({"repo": "acme/docs.git"}, False),
        ({"repo": "https://github.com/acme/docs"}, False),
        ({"repo": "acme/docs/../../evil/x"}, False),
        ({"repo": "acme/.."}, False),
        ({"repo": "acme%2fdocs"}, False),
        ({"repo": " acme/docs"}, False),
        ({"repo": "acme/docs\n"}, False),
        ({"repo": "acme/d\u043ecs"}, False),
    ],
)
def test_owner_and_name_must_both_be_those_named(arguments: dict[str, Any], expected: bool) -> None:
    assert passes(repo_whitelist, ("acme/docs",), arguments) is expected


@pytest.mark.parametrize("name", ["a/b/c", "", "a b", "https://x", "a/", "/a", "a/..", "ä"])
def test_an_entry_that_is_no_repository_is_an_error(name: str) -> None:
    with pytest.raises(ValidationError):
        Repositories(names=(name,))


# --- path_allowlist: which arguments ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, True) for name in ("path", "newPath", "file_names", "FILE", "dst", "rootDir", "XMLFile", "to2")),
        *((name, False) for name in ("profile", "content", "pathology", "filter", "total", "", "1", "\u0440ath")),
    ],
)
def test_an_argument_is_a_path_if_one_of_its_words_says_so(name: str, expected: bool) -> None:
    assert is_path_name(words(name)) is expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"path": "docs/a"}, True),
        ({"paths": ["docs/a", "docs/b"]}, True),
        ({"paths": ["docs/a", "etc/b"]}, False),
        ({"paths": ["docs/a", 5]}, False),
        ({"source": "docs/a", "destination": "docs/b"}, True),
        ({"source": "docs/a", "destination": "etc/b"}, False),
        ({"edits": [{"file": "docs/a"}, {"file": "etc/b"}]}, False),
        ({"files": [{"path": "docs/a", "content": "x"}]}, False),  # no schema says that the caller chose no key there
        ({"files": [{"path": "docs/a"}, {"name": "x"}]}, False),
        ({"file": {"name": "x"}}, False),
        ({"path": "docs/a", "file_count": 3, "is_file": True}, True),
        ({"path": "docs/a", "cwd": None}, False),
        ({"file_count": 3}, False),
    ],
)
def test_every_path_in_the_call_must_pass(arguments: dict[str, Any], expected: bool) -> None:
    assert passes(path_allowlist, ("docs/*",), arguments) is expected


def test_named_arguments_must_all_be_there() -> None:
    params = {"patterns": ["docs/*"], "argument": ["one", "other.path"]}
    assert passes(path_allowlist, params, {"one": "docs/a", "other": {"path": "docs/b"}, "path": "etc/x"})
    assert not passes(path_allowlist, params, {"one": "docs/a"})


def test_settings_replace_the_guess_and_one_of_the_names_must_be_there() -> None:
    settings = {"path_arguments": ["document", "folder"]}
    assert passes(path_allowlist, ("docs/*",), {"document": "docs/a", "path": "etc/x"}, **settings)
    assert not passes(path_allowlist, ("docs/*",), {"path": "docs/a"}, **settings)
    assert not passes(path_allowlist, ("docs/*",), {"document": "docs/a", "folder": "etc/x"}, **settings)


@pytest.mark.parametrize("params", [{}, {"patterns": []}, {"patterns": ["a"], "arg": "x"}, {"patterns": ["../a"]}])
def test_params_without_a_usable_pattern_are_an_error(params: Any) -> None:
    with pytest.raises(ValidationError):
        Paths.model_validate(params)
    with pytest.raises(ValidationError):
        Allowed.model_validate({"argument": "", **params})
