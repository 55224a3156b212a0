"""The laws of `for` and `except`: whom a rule reaches, over principals of every kind and claims of every type."""

from __future__ import annotations

from typing import Any

import pytest
from fastmcp.server.auth import AccessToken
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_macaroon_middleware.adapters.callers import signed_in
from mcp_macaroon_middleware.config.settings import IdentitySettings
from mcp_macaroon_middleware.core.principals import applies, selects
from mcp_macaroon_middleware.errors import RuleError
from mcp_macaroon_middleware.model import Principal, RequestContext
from mcp_macaroon_middleware.rules import parse_selector, rule_from_mapping, rule_to_mapping
from mcp_macaroon_middleware.tokens import KeyRing, mint

NAMES = ("alice", "bob")
ISSUERS = ("https://one", "https://two")
PRINCIPALS = st.builds(
    lambda kind, issuer, subject, tenant: Principal(kind=kind, namespace=issuer, subject=subject, tenant=tenant),
    st.sampled_from(("user", "client", "local", "anonymous")),
    st.sampled_from(ISSUERS),
    st.sampled_from(NAMES),
    st.sampled_from((None, "acme")),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(("ops", "read ops", "ops\twrite", "", "Ops", "true", "1", 1, 1.0, 2.5, float("inf"))),
)
JSON: st.SearchStrategy[Any] = st.one_of(
    SCALARS, st.lists(SCALARS, max_size=3), st.just({"ops": True}), st.just([["ops"]])
)
RING = KeyRing.from_secret("".join(map(chr, range(65, 105))))
WANTED = ("ops", "true", "1", "2.5")


def meant(selector: dict[str, Any], request: RequestContext) -> bool | None:
    return selects(parse_selector(selector), request, {})


@pytest.mark.threat("R14")
@given(principal=PRINCIPALS, subject=st.sampled_from(NAMES), issuer=st.sampled_from((None, *ISSUERS)))
def test_a_subject_is_a_user_or_local_of_the_named_issuer_and_nobody_else(
    principal: Principal, subject: str, issuer: str | None
) -> None:
    """attacks H4: `for: {subject: alice}` also admitted a machine and any other issuer's alice."""
    selector = {"subject": subject} | ({"issuer": issuer} if issuer else {})
    request = RequestContext(principal=principal, client="alice")
    reached = principal.kind in ("user", "local") and principal.subject == subject
    reached = reached and issuer in (None, principal.namespace)
    assert meant(selector, request) is reached
    allow = rule_from_mapping({"before": "t", "policy": "tool_access", "action": "allow", "for": selector})
    deny = rule_from_mapping({"before": "t", "policy": "tool_access", "action": "deny", "except": selector})
    assert applies(allow, request, {}) is reached
    assert applies(deny, request, {}) is not reached


def test_a_machine_is_named_by_client() -> None:
    machine = Principal(kind="client", namespace="https://one", subject="alice")
    assert meant({"client": "alice"}, RequestContext(principal=machine, client="alice")) is True
    assert meant({"client": "alice"}, RequestContext(principal=machine)) is True
    assert meant({"client": "bob"}, RequestContext(principal=machine)) is False


def test_issuer_any_is_whoever_and_an_unknown_tenant_cannot_be_told() -> None:
    request = RequestContext(principal=Principal(kind="user", namespace="", subject="alice"))
    assert meant({"subject": "alice", "issuer": "any"}, request) is True
    assert meant({"subject": "alice", "issuer": "https://one"}, request) is None
    assert meant({"tenant": "acme"}, request) is None


def reference(value: Any, wanted: str, *, words: bool) -> bool | None:
    """What a claim says of one value, written without the library."""
    items = value if isinstance(value, list) else [value]
    doubt = False
    for item in items:
        if item is True or item is False:
            texts = ["true" if item else "false"]
        elif isinstance(item, (int, float)) and item != float("inf"):
            texts = [f"{item:g}"]
        elif isinstance(item, str):
            texts = [text for text in item.split(" ") if text] if words else [item]
            doubt = doubt or (words and any("\t" in text for text in texts))
        else:
            texts, doubt = [], True
        if wanted in texts:
            return True
    return None if doubt else False


@pytest.mark.threat("R15")
@settings(max_examples=200)
@given(value=JSON, wanted=st.sampled_from(WANTED), name=st.sampled_from(("groups", "scope", "scp")))
def test_a_claim_is_the_set_of_its_values(value: Any, wanted: str, name: str) -> None:
    """reports-policy B3."""
    told = reference(value, wanted, words=name != "groups")
    assert meant({"claim": {name: wanted}}, RequestContext(claims={name: value})) is told
    assert meant({"claim": [{"path": ["a", name], "is": wanted}]}, RequestContext(claims={"a": {name: value}})) is told
    assert meant({"claim": {f"a.{name}": wanted}}, RequestContext(claims={"a": {name: value}})) is told
    if name != "groups":
        assert meant({"scope": wanted}, RequestContext(claims={name: value})) is told


@pytest.mark.threat("R15")
@given(verbatim=JSON, nested=JSON, wanted=st.sampled_from(WANTED))
def test_two_readings_grant_only_together_and_restrict_apart(verbatim: Any, nested: Any, wanted: str) -> None:
    both = {reference(verbatim, wanted, words=False), reference(nested, wanted, words=False)}
    request = RequestContext(claims={"a.b": verbatim, "a": {"b": nested}})
    assert meant({"claim": {"a.b": wanted}}, request) is (both.pop() if len(both) == 1 else None)


@pytest.mark.threat("R15")
def test_a_scope_among_others_is_denied() -> None:
    """reports-policy B3: the denying rule did not hold for `"scope": "read write"`."""
    deny = {"before": "t", "policy": "tool_access", "action": "deny", "for": {"claim": {"scope": "write"}}}
    assert applies(rule_from_mapping(deny), RequestContext(claims={"scope": "read write"}), {}) is True
    assert applies(rule_from_mapping(deny), RequestContext(claims={}), {}) is None


BAD = (
    "guest-*",
    "*",
    " alice",
    "alice\t",
    "ali\u200bce",
    "al\u202eice",
    "a\u00a0b",
    "\ue000",
    "a\x00b",
    "alice\n",
    "\u2028",
)


@pytest.mark.parametrize("text", BAD)
@pytest.mark.parametrize("key", ["subject", "client", "issuer", "tenant", "scope", "claim"])
def test_names_that_are_globs_or_cannot_be_seen_are_errors(key: str, text: str) -> None:
    """reports-policy B4: `subject: "guest-*"` was a literal, so that a denying rule let guests run."""
    with pytest.raises(RuleError, match="compared whole"):
        parse_selector({key: {"groups": text} if key == "claim" else text})


@pytest.mark.parametrize("text", BAD)
def test_no_token_is_minted_for_a_name_that_cannot_be_told_from_another(text: str) -> None:
    with pytest.raises(ValueError, match="compared whole"):
        mint(RING, subject=text, audience="here")


@pytest.mark.parametrize("text", ["Ann Lee", "a?b", "[x]", "günther", "auth0|1", "a@b.c"])
def test_other_names_stand(text: str) -> None:
    assert parse_selector({"subject": text}).subject == (text,)
    assert mint(RING, subject=text, audience="here")


def test_the_long_form_keeps_every_key() -> None:
    selector = {
        "subject": ["a"],
        "role": ["r"],
        "client": ["c"],
        "issuer": ["i"],
        "tenant": ["t"],
        "scope": ["s"],
        "claim": [{"path": ["x", "y"], "is": ["1.5"]}, {"path": "z.w", "is": ["v"]}],
    }
    rule = rule_from_mapping({"before": "t", "policy": "tool_access", "action": "deny", "for": selector})
    assert rule_to_mapping(rule)["for"] == selector
    assert rule_from_mapping(rule_to_mapping(rule)).for_ == rule.for_


@pytest.mark.threat("C02")
def test_a_provider_without_an_issuer_bears_the_name_that_the_file_gives_it() -> None:
    token = AccessToken(token="t", client_id="c", scopes=["ops"], subject="ann", claims={})
    named = IdentitySettings(issuer="https://one")
    assert signed_in(token, named, "auth:X").principal.namespace == "https://one"
    assert signed_in(token, IdentitySettings(), "auth:X").principal.namespace == "auth:X"
    other = token.model_copy(update={"claims": {"iss": "https://two"}})
    assert signed_in(other, named, "auth:X").principal.namespace == "https://two"
    assert signed_in(token, named, "auth:X").claims["scope"] == ["ops"]


@pytest.mark.parametrize("claim", [[], {}, [{"path": []}], [{"path": [], "is": "x"}], [{"path": ["a"], "is": []}], "x"])
def test_claims_that_say_nothing_are_errors(claim: Any) -> None:
    with pytest.raises(RuleError):
        parse_selector({"claim": claim})
