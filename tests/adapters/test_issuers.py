"""A subject without its issuer, where several issuers can bring one, does not start: `attacks H4`, its third part."""

from __future__ import annotations

from typing import Any

import pytest
from fastmcp import FastMCP
from fastmcp.server.auth import MultiAuth
from fastmcp.server.auth.providers.jwt import JWTVerifier, StaticTokenVerifier
from guarded import policy
from starlette.applications import Starlette

from mcp_macaroon_middleware.adapters.asgi import MacaroonASGIMiddleware
from mcp_macaroon_middleware.adapters.fastapi import Macaroon
from mcp_macaroon_middleware.adapters.fastmcp import MacaroonAuth, guard
from mcp_macaroon_middleware.config.runtime import load_runtime
from mcp_macaroon_middleware.errors import BindError

CORP, OTHER = "https://corp.example", "https://other.example"


def jwt(issuer: Any) -> JWTVerifier:
    return JWTVerifier(public_key="a shared secret of thirty-two bytes", algorithm="HS256", issuer=issuer)


def static() -> StaticTokenVerifier:
    return StaticTokenVerifier({"t": {"client_id": "c", "sub": "alice", "scopes": []}})


def rule(**selector: Any) -> dict[str, Any]:
    return {"before": "vault", "policy": "tool_access", "action": "allow", "for": selector}


def runtime(selector: dict[str, Any], **config: Any) -> Any:
    return load_runtime(policy([rule(**selector)], config={"audience": "a", **config}))


def bound(auth: Any, made: Any) -> None:
    server: FastMCP[Any] = FastMCP("s", auth=auth)
    server.tool(lambda: 1, name="vault")
    guard(server, made)


SEVERAL: dict[str, tuple[Any, dict[str, Any]]] = {
    "two providers": (lambda _: MultiAuth(verifiers={"one": jwt(CORP), "two": jwt(OTHER)}), {}),
    "one of two names none": (lambda _: MultiAuth(verifiers={"one": jwt(CORP), "two": static()}), {}),
    "a provider of two issuers": (lambda _: jwt([CORP, OTHER]), {}),
    "tokens beside a provider": (lambda made: MacaroonAuth(made, jwt(CORP)), {"tokens": {}}),
    "tokens of another issuer": (
        lambda made: MacaroonAuth(made, jwt(CORP)),
        {"tokens": {}, "identity": {"token_namespace": OTHER}},
    ),
}
ONE: dict[str, tuple[Any, dict[str, Any]]] = {
    "nobody signs in": (lambda _: None, {}),
    "one provider": (lambda _: jwt(CORP), {}),
    "one without an issuer": (lambda _: static(), {}),
    "one that the file names": (lambda _: static(), {"identity": {"issuer": CORP}}),
    "tokens alone": (lambda made: MacaroonAuth(made), {"tokens": {}}),
    "tokens of the same issuer": (
        lambda made: MacaroonAuth(made, jwt(CORP)),
        {"tokens": {}, "identity": {"token_namespace": CORP}},
    ),
    "tokens of the issuer that the file names": (
        lambda made: MacaroonAuth(made, static()),
        {"tokens": {}, "identity": {"token_namespace": CORP, "issuer": CORP}},
    ),
}
SAID = [{"subject": "alice", "issuer": CORP}, {"subject": "alice", "issuer": "any"}, {"client": "alice"}]


@pytest.mark.threat("R14")
@pytest.mark.parametrize("kind", SEVERAL)
@pytest.mark.parametrize("role", [False, True])
def test_attacks_h4_a_subject_without_its_issuer_does_not_start_where_several_can_bring_one(
    kind: str, role: bool
) -> None:
    auth, config = SEVERAL[kind]
    roles = {"roles": {"owner": {"subject": "alice"}}} if role else {}
    made = runtime({"role": "owner"} if role else {"subject": "alice"}, **config, **roles)
    with pytest.raises(BindError, match="issuer: NAME") as caught:
        bound(auth(made), made)
    assert CORP in str(caught.value)
    assert "'alice'" in str(caught.value)


@pytest.mark.parametrize("kind", SEVERAL)
@pytest.mark.parametrize("selector", SAID)
def test_a_subject_whose_issuer_is_said_starts(kind: str, selector: dict[str, Any]) -> None:
    auth, config = SEVERAL[kind]
    made = runtime(selector, **config)
    bound(auth(made), made)


@pytest.mark.parametrize("kind", ONE)
def test_a_subject_starts_where_one_issuer_alone_can_bring_it(kind: str) -> None:
    auth, config = ONE[kind]
    made = runtime({"subject": "alice"}, **config)
    bound(auth(made), made)


@pytest.mark.threat("R14")
@pytest.mark.parametrize("host", [lambda made, auth: MacaroonASGIMiddleware(Starlette(), made, auth=auth), Macaroon])
def test_web_applications_are_held_to_the_same(host: Any) -> None:
    for auth, config in ((jwt([CORP, OTHER]), {}), (jwt(CORP), {"tokens": {}})):
        with pytest.raises(BindError, match="issuer: NAME"):
            host(runtime({"subject": "alice"}, **config), auth=auth)
        host(runtime({"subject": "alice", "issuer": CORP}, **config), auth=auth)
