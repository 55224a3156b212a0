"""An answer counts once: repeated, changed, kept, moved to another server, answered after a restart or too late."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import mcp_types
import pytest
from asking import RULES, Person, asking_server
from fastmcp import Client
from guarded import ERAS, KEY, Guarded, guarded, tokens
from redis_server import any_kind, running
from serving import serving

ONCE = {"choice": "once"}


@asynccontextmanager
async def office(way: str = "memory", **config: Any) -> AsyncIterator[tuple[Client[Any], Guarded]]:
    """A guarded office and a modern client that can show forms, whose questions the test answers by hand."""
    made = guarded(asking_server(auth=tokens(alice={}) if way == "http" else None), RULES, config=config)
    async with AsyncExitStack() as stack:
        target: Any = made.server if way == "memory" else await stack.enter_async_context(serving(made.server))
        auth = "alice" if way == "http" else None
        client = await stack.enter_async_context(Client(target, auth=auth, elicitation_handler=Person()))
        yield client, made


async def ask(client: Client[Any], tool: str = "send", **arguments: Any) -> mcp_types.InputRequiredResult:
    """The question that a call is answered with."""
    found = await client.session.call_tool(tool, arguments or {"to": "bob"}, allow_input_required=True)
    assert isinstance(found, mcp_types.InputRequiredResult)
    return found


def answers(question: mcp_types.InputRequiredResult, says: str = "once") -> dict[str, Any]:
    """The answer of a person, in every field."""
    given: dict[str, Any] = {}
    for key, request in (question.input_requests or {}).items():
        fields = request.params.requested_schema["properties"]  # type: ignore[union-attr]
        given[key] = mcp_types.ElicitResult(action="accept", content=dict.fromkeys(fields, says))
    return given


async def repeat(
    client: Client[Any],
    question: mcp_types.InputRequiredResult,
    *,
    tool: str = "send",
    says: str = "once",
    given: Any = None,
    state: str | None = None,
    **arguments: Any,
) -> str:
    """The call again with the answer: its text, or the code of its refusal."""
    result = await client.session.call_tool(
        tool,
        arguments or {"to": "bob"},
        input_responses=answers(question, says) if given is None else given,
        request_state=question.request_state if state is None else state,
        allow_input_required=True,
    )
    if isinstance(result, mcp_types.InputRequiredResult):
        return "asked again"
    return ((result.meta or {}).get("mcp-macaroon") or {}).get("code") or result.content[0].text


async def ran(client: Client[Any]) -> list[str]:
    """What has run."""
    result = await client.session.call_tool("ran", {})
    return result.content[0].text.split() if result.content else []


@pytest.mark.parametrize("way", ["memory", "http"])
@pytest.mark.threat("D01")
async def test_an_approved_call_repeated_in_sequence_or_at_once_runs_once(way: str) -> None:
    async with office(way) as (client, made):
        question = await ask(client)
        first = [await repeat(client, question) for _ in range(3)]
        assert first == ["sent to bob", "grant_used", "grant_used"]
        question = await ask(client)
        at_once = await asyncio.gather(*(repeat(client, question) for _ in range(8)))
        assert sorted(at_once) == ["grant_used"] * 7 + ["sent to bob"]
        assert await ran(client) == ["send-bob", "send-bob"]
        assert made.exactly_one_end_each()


@pytest.mark.parametrize("way", ["memory", "http"])
@pytest.mark.threat("D01")
async def test_a_result_that_waits_for_an_answer_is_given_out_once_and_its_tool_runs_once(way: str) -> None:
    async with office(way) as (client, _):
        question = await ask(client, "user", id=1)
        at_once = await asyncio.gather(*(repeat(client, question, tool="user", id=1) for _ in range(6)))
        assert sum("bob@example.com" in answer for answer in at_once) == 1
        assert [answer for answer in at_once if "bob@example.com" not in answer] == ["grant_used"] * 5
        assert await ran(client) == ["user-1"]


@pytest.mark.threat("D05")
async def test_a_state_without_its_answer_and_an_answer_without_its_state_ask_again() -> None:
    async with office() as (client, _):
        question = await ask(client)
        assert await repeat(client, question, given={}) in ("asked again", "approval_cancelled", "approval_invalid")
        question = await ask(client)
        result = await client.session.call_tool(
            "send", {"to": "bob"}, input_responses=answers(question), allow_input_required=True
        )
        assert isinstance(result, mcp_types.InputRequiredResult)
        assert await ran(client) == []
        held = await ask(client, "user", id=1)
        assert "bob@example.com" not in await repeat(client, held, tool="user", given={}, id=1)
        assert await ran(client) == ["user-1"]


@pytest.mark.threat("D05")
async def test_an_answer_to_one_question_is_none_to_another() -> None:
    async with office() as (client, _):
        first, second = await ask(client, to="ann"), await ask(client, to="bob")
        assert await repeat(client, second, given=answers(first), to="bob") != "sent to bob"
        assert await ran(client) == []


@pytest.mark.threat("D10")
async def test_two_first_calls_at_once_are_two_questions_and_each_approval_is_for_its_own() -> None:
    async with office() as (client, _):
        one, other = await asyncio.gather(ask(client), ask(client))
        assert one.request_state != other.request_state
        assert await repeat(client, one) == "sent to bob"
        assert await repeat(client, one) == "grant_used"
        assert await ran(client) == ["send-bob"]
        assert await repeat(client, other, says="deny") == "declined"
        assert await ran(client) == ["send-bob"]


@pytest.mark.threat("F10")
async def test_arguments_or_a_tool_that_change_between_question_and_repeat_are_refused() -> None:
    for changed in ({"to": "eve"}, {"to": "bob", "confirm": True}, {"to": "bob", "note": "x"}):
        async with office() as (client, _):
            question = await ask(client)
            assert await repeat(client, question, **changed) in ("request_changed", "approval_stale")
            assert await ran(client) == []
    async with office() as (client, _):
        question = await ask(client)
        assert await repeat(client, question, tool="fails") in ("request_changed", "approval_stale")
        assert await ran(client) == []


@pytest.mark.parametrize("bit", [5, 60, 200])
@pytest.mark.threat("D03", "F10")
async def test_a_state_that_was_tampered_with_says_ask_again(bit: int) -> None:
    async with office() as (client, _):
        question = await ask(client)
        state = question.request_state or ""
        place = min(bit, len(state) - 2)
        other = "A" if state[place] != "A" else "B"
        assert await repeat(client, question, state=state[:place] + other + state[place + 1 :]) == "approval_stale"
        assert await ran(client) == []


@pytest.mark.threat("D03", "F17")
async def test_after_a_restart_with_another_key_or_without_the_store_the_question_is_asked_again() -> None:
    async with office() as (client, _):
        question = await ask(client)
    for key in (KEY, secrets.token_hex(32)):  # the store was memory: it went with the process
        async with office(secret_key=key) as (client, _):
            assert await repeat(client, question) == "approval_stale"
            assert await ran(client) == []
            assert await repeat(client, await ask(client)) == "sent to bob"


@pytest.mark.threat("D03", "F15")
async def test_a_question_of_an_old_policy_is_asked_again_and_one_that_is_forbidden_now_is_refused() -> None:
    async with office() as (client, made):
        question, other = await ask(client), await ask(client, to="ann")
        config = {"secret_key": KEY, "default": "deny", "audit": [{"sink": "log"}]}
        longer = [*RULES, "bf:send:rate_limit:allow:100/hour"]
        assert await made.guard.runtime.reload({"config": config, "policies": longer})
        assert await repeat(client, question) in ("sent to bob", "asked again", "approval_stale")
        before = await ran(client)
        forbidden = [rule for rule in RULES if "send" not in str(rule)]
        assert await made.guard.runtime.reload({"config": config, "policies": forbidden})
        assert await repeat(client, other, to="ann") == "Unknown tool: 'send'"
        assert await ran(client) == before


# --- several servers -----------------------------------------------------------------------------------------------


@pytest.mark.threat("D02")
async def test_the_same_answer_at_two_servers_at_once_runs_once() -> None:
    with running(any_kind()) as server:
        shared = {"store": server.url(), "audience": "office"}
        async with office("http", **shared) as (here, one), office("http", **shared) as (there, other):
            for number in range(5):
                name = f"bob{number}"
                question = await ask(here, to=name)
                tries = [repeat(client, question, to=name) for client in (here, there) * 4]
                got = sorted(await asyncio.gather(*tries))
                assert got[-1] == f"sent to {name}"
                assert set(got[:-1]) <= {"grant_used", "approval_stale"}
            assert len(await ran(here) + await ran(there)) == 5
            assert one.exactly_one_end_each()
            assert other.exactly_one_end_each()
            await one.guard.runtime.store.close()
            await other.guard.runtime.store.close()


@pytest.mark.threat("D02", "F17")
async def test_any_server_takes_any_leg_and_a_restart_loses_no_question() -> None:
    with running(any_kind()) as server:
        shared = {"store": server.url(), "audience": "office"}
        async with office("http", **shared) as (here, one):
            question, held = await ask(here), await ask(here, "user", id=1)
            assert await ran(here) == ["user-1"]
            await one.guard.runtime.store.close()
        async with office("http", **shared) as (there, other):
            assert await repeat(there, question) == "sent to bob"
            assert "bob@example.com" in await repeat(there, held, tool="user", id=1)
            assert await repeat(there, question) == "grant_used"
            assert await ran(there) == ["send-bob"]  # the other's result was kept: nothing ran again
            await other.guard.runtime.store.close()
        async with office("http", secret_key=secrets.token_hex(32), **shared) as (stranger, third):
            assert await repeat(stranger, question) == "approval_stale"
            await third.guard.runtime.store.close()


# --- a client that goes away ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["memory", "http"])
@pytest.mark.threat("F13")
async def test_a_client_that_goes_away_while_a_question_is_open_leaves_nothing_behind(way: str) -> None:
    made = guarded(
        asking_server(auth=tokens(alice={}) if way == "http" else None), RULES, config={"approvals": {"max_pending": 2}}
    )
    opened = asyncio.Event()

    async def forever(*_: Any) -> Any:
        opened.set()
        await asyncio.sleep(3600)

    async with AsyncExitStack() as stack:
        target: Any = made.server if way == "memory" else await stack.enter_async_context(serving(made.server))
        auth = "alice" if way == "http" else None
        async with Client(target, auth=auth, mode="legacy", elicitation_handler=forever) as client:
            call = asyncio.create_task(client.call_tool("send", {"to": "bob"}))
            await asyncio.wait_for(opened.wait(), 10)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        for _ in range(100):
            if any(end[0] == "send" for end in made.ends):
                break
            await asyncio.sleep(0.05)
        assert [end[1:] for end in made.ends if end[0] == "send"] == [("cancelled", "")]
        left, _ = await made.guard.runtime.store.scan("", None, 100)
        assert not [name for name, _ in left if "/leg/" in name]
        person = Person()
        async with Client(target, auth=auth, mode="legacy", elicitation_handler=person) as client:
            assert (await client.call_tool("send", {"to": "ann"})).data == "sent to ann"
            assert (await client.call_tool("ran", {})).content[0].text == "send-ann"
    assert made.exactly_one_end_each()


@pytest.mark.parametrize("era", ERAS)
async def test_many_callers_at_once_get_each_what_each_approved(era: str) -> None:
    names = [f"user{number}" for number in range(12)]
    made = guarded(asking_server(auth=tokens(**{name: {} for name in names})), RULES)

    async def one(url: str, name: str) -> list[str]:
        person = Person("once" if int(name[4:]) % 2 else "deny")
        async with Client(url, auth=name, mode=era, elicitation_handler=person) as client:
            found = [await client.call_tool("send", {"to": name}, raise_on_error=False) for _ in range(2)]
        return [result.content[0].text for result in found]

    async with serving(made.server) as url:
        got = await asyncio.gather(*(one(url, name) for name in names))
        async with Client(url, auth=names[0]) as client:
            done = sorted((await client.call_tool("ran", {})).content[0].text.split())
    assert done == sorted(f"send-{name}" for name in names if int(name[4:]) % 2 for _ in range(2))
    for name, texts in zip(names, got, strict=True):
        assert all(text == f"sent to {name}" if int(name[4:]) % 2 else "[declined]" in text for text in texts)
