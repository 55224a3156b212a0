"""Limits that no cluster could charge at once stop the start, where one call may meet both; others begin."""

from __future__ import annotations

import random
from typing import Any

import pytest

from mcp_macaroon_middleware.builtin.memory import MemoryStore
from mcp_macaroon_middleware.config.compile import Compiled, compile_file
from mcp_macaroon_middleware.config.counting import may_meet
from mcp_macaroon_middleware.model import Target
from mcp_macaroon_middleware.plugin import StoreType
from mcp_macaroon_middleware.rules import glob_matches, parse_target

PARTS = StoreType(scheme="parts", open=lambda *_: MemoryStore(), partitioned=True)


def limit(target: Any, per: Any = "principal") -> dict[str, Any]:
    return {"before": target, "policy": "rate_limit", "action": "allow", "params": {"limits": "5/minute", "per": per}}


def compiled(policies: list[Any], store: str = "parts://here", **config: Any) -> Compiled:
    settings = {"secret_key": "k" * 40, "audience": "x", "default": "deny", "store": store, **config}
    return compile_file({"config": settings, "policies": policies}, application=[PARTS])


@pytest.mark.parametrize(
    ("one", "other", "refused"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a", "*", True),
        ("*", "a", True),
        ("get_*", "get_mail", True),
        ("get_*", "set_mail", False),
        ("get_*", "*_mail", True),
        ("get_*", "set_*", False),
        ("*_mail", "*_file", False),
        ("tool=*", "prompt=*", False),
        ("tool=a", "prompt=a", False),
        ("resource=db://users/{id}", "resource=db://users/7", True),
        ("resource=db://users/{id}", "resource=db://rows/{id}", False),
        ("resource=db://users/{id}", "resource=db://users/{id}", True),
        ("resource=db://{table}/1", "resource=db://users/{id}", True),
        ("resource=db://users/7", "resource=db://users/8", False),
    ],
)
def test_a_limit_for_all_is_refused_beside_one_for_each_where_one_call_may_meet_both(
    one: str, other: str, refused: bool
) -> None:
    for each, every in ((one, other), (other, one)):
        found = compiled([limit(each), limit(every, "server")])
        assert [d.code for d in found.errors] == ["limits_apart"] * refused
        if refused:
            said = "on parts:// this cannot be charged at once with a limit of each principal's own on the same call"
            assert found.errors[0].message == f"policies[1]: {said}"
            assert "let per name the principal" in found.errors[0].hint


@pytest.mark.parametrize("per", ["server", "tenant", ["client", "component"]])
def test_where_tokens_are_accepted_every_limit_for_all_is_refused_since_a_holder_may_add_his_own(per: Any) -> None:
    found = compiled([limit("a", per), limit("b")], tokens={})
    assert [d.code for d in found.errors] == ["limits_apart"]
    assert "a token may carry" in found.errors[0].message
    assert "accept no tokens" in found.errors[0].hint
    assert compiled([limit("a"), limit("b", ["principal", "tenant"])], tokens={}).errors == ()


def test_a_store_in_one_part_takes_all_of_them() -> None:
    assert compiled([limit("*"), limit("*", "server")], store="memory", tokens={}).errors == ()


def test_limits_of_one_kind_are_no_matter() -> None:
    assert compiled([limit("*", "server"), limit("a", "tenant"), "bf:b:tool_access:allow"]).errors == ()
    assert compiled([limit("*"), "bf:a:allow_attempts:allow:3"]).errors == ()


def test_globs_meet_exactly_where_some_text_fits_both() -> None:
    chance = random.Random(5)
    words = ["".join(chance.choices("ab*", weights=(3, 3, 2), k=chance.randrange(1, 6))) for _ in range(120)]
    texts = [""] + ["".join(chance.choices("ab", k=n)) for n in range(1, 12) for _ in range(min(400, 2**n * 2))]
    for one in words:
        fits = [text for text in texts if glob_matches(one, text)]
        for other in words:
            if any(glob_matches(other, text) for text in fits):
                assert may_meet(parse_target(one), parse_target(other)), (one, other)
    assert not may_meet(parse_target("a*"), parse_target("b*"))
    assert may_meet(Target(kind=None, pattern="*"), parse_target("resource=a://b"))
