"""Every hook that a plugin can fill, and every fault: what needs it is refused or withheld, and nothing else notices.

The hooks are those of `plugin/hookspecs.py`; those of discovery are in `tests/host`. A sink that hangs is O03.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from asking import Person
from guarded import ERAS, policy
from lab import Records
from misbehaving import AT_ONCE, LATER, House, let_go, stands_still

from mcp_macaroon_middleware.builtin.mcp_approver import McpApprover
from mcp_macaroon_middleware.builtin.memory import MemoryStore
from mcp_macaroon_middleware.config.runtime import load_runtime
from mcp_macaroon_middleware.core import approvers
from mcp_macaroon_middleware.core.audit import SinkSlot
from mcp_macaroon_middleware.core.failing import IN_A_ROW
from mcp_macaroon_middleware.errors import ConfigError
from mcp_macaroon_middleware.plugin import (
    Amount,
    ApproverType,
    Assurance,
    AuditSinkType,
    Check,
    EnforcerType,
    KeySourceType,
    NoParams,
    Phase,
    StoreType,
    Verdict,
)

pytestmark = pytest.mark.threat("FI17")

# --- enforcers ------------------------------------------------------------------------------------------------------

CODES = {
    **dict.fromkeys(("raises", "leaves", "ends", "cancels"), "enforcer_error"),
    **dict.fromkeys(("gives_nothing", "gives_rubbish", "gives_later"), "enforcer_contract"),
    **dict.fromkeys(("hangs", "clings", "stands_still"), "enforcer_timeout"),
}
WAYS: dict[str, Mapping[str, Callable[..., Any]]] = {
    "sync": AT_ONCE,
    "async": LATER,
    "blocking": {**AT_ONCE, "stands_still": stands_still},
}
ENFORCERS = [("auto", way, fault) for way, faults in WAYS.items() for fault in faults]
ENFORCERS += [("legacy", way, fault) for _, way, fault in ENFORCERS if fault in ("leaves", "hangs", "gives_rubbish")]


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize(("era", "way", "fault"), ENFORCERS)
async def test_an_enforcer(era: str, way: str, fault: str, phase: Phase, caplog: pytest.LogCaptureFixture) -> None:
    odd = EnforcerType(
        name="odd", check=WAYS[way][fault], phases=frozenset(Phase), timeout=0.05, blocking=way == "blocking"
    )
    house = House([f"{phase}:odd:odd:allow"], [odd])
    async with house.client(era) as client:
        outcomes = await asyncio.gather(*(house.outcome(client) for _ in range(IN_A_ROW + 1)))
        assert set(outcomes) == {CODES[fault]}
        assert await house.outcome(client, "free") == "ok"
    assert house.ran.count("odd") == (0 if phase is Phase.BEFORE else IN_A_ROW + 1)
    ends = {end for end in house.guarded.ends if end[0] == "odd"}
    assert ends == {("odd", "denied" if phase is Phase.BEFORE else "withheld", CODES[fault])}
    assert house.is_sound()
    (event,) = house.events("plugin_failing")
    assert (event["plugin"], event["policy"], event["count"]) == ("application", "odd", IN_A_ROW)
    assert "secret-value" not in caplog.text


SAYS = [
    (what, fault)
    for what in ("validate", "reads_arguments", "may_withhold")
    for fault in AT_ONCE
    if what == "reads_arguments" or fault != "gives_nothing"  # elsewhere, None is an answer
]


@pytest.mark.threat("FI18")
@pytest.mark.parametrize(("what", "fault"), SAYS)
def test_what_an_enforcer_says_of_its_params(what: str, fault: str, caplog: pytest.LogCaptureFixture) -> None:
    said: dict[str, Any] = {what: AT_ONCE[fault]}
    odd = EnforcerType(name="odd", check=lambda _: Verdict.allow(), phases=frozenset(Phase), **said)
    with pytest.raises(ConfigError) as refused:
        load_runtime(policy(["af:odd:odd:allow"]), application=[odd])
    (problem,) = refused.value.diagnostics
    assert (problem.code, "odd" in problem.message) == ("bad_params", True)
    assert "secret-value" not in str(refused.value) + caplog.text


# --- approvers ------------------------------------------------------------------------------------------------------


class Odd(McpApprover):
    """The built-in approver, with one thing wrong."""

    def __init__(self, **wrong: Callable[..., Any]) -> None:
        for name, fault in wrong.items():
            setattr(self, name, fault)


ASKED = [
    "bf:free:tool_access:elicit",
    {"before": "odd", "policy": "tool_access", "action": "elicit", "approver": "odd"},
]
IN_BAND: dict[str, Mapping[str, Callable[..., Any]]] = {
    "available": AT_ONCE,
    "ask": {**LATER, "at_once": AT_ONCE["gives_rubbish"]},
    "read": AT_ONCE,
}
APPROVERS = [(method, fault) for method, faults in IN_BAND.items() for fault in faults]


@pytest.mark.threat("FI22")
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(("method", "fault"), APPROVERS)
async def test_an_approver_in_band(method: str, fault: str, era: str, caplog: pytest.LogCaptureFixture) -> None:
    kind = ApproverType(
        name="odd", open=lambda _: Odd(**{method: IN_BAND[method][fault]}), assurance=Assurance.CLIENT, in_band=True
    )
    house = House(ASKED, [kind], approvals={"timeout": 1})
    async with house.client(era) as client:
        expected = "approval_unavailable" if method == "available" else "approval_failed"
        assert await house.outcome(client) == expected
        assert await house.outcome(client, "free") == "ok"
    assert house.ran == ["free"]
    assert house.is_sound()
    assert "secret-value" not in caplog.text


@pytest.mark.threat("FI22")
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("fault", LATER)
async def test_an_approver_out_of_band(fault: str, era: str, caplog: pytest.LogCaptureFixture) -> None:
    kind = ApproverType(name="odd", open=lambda _: Odd(ask=LATER[fault]), assurance=Assurance.PERSON)
    house = House(ASKED, [kind], approvals={"timeout": 1})
    async with house.client(era) as client:
        late = fault in ("hangs", "clings")
        assert await house.outcome(client) == ("approval_timeout" if late else "approval_failed")
        assert await house.outcome(client, "free") == "ok"
    assert house.ran == ["free"]
    assert house.is_sound()
    assert "secret-value" not in caplog.text


@pytest.mark.parametrize("fault", LATER)
async def test_an_approver_that_is_closed(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approvers, "CLOSING", 0.2)
    others = Records()
    kind = ApproverType(name="odd", open=lambda _: Odd(close=LATER[fault]), assurance=Assurance.PERSON)
    house = House(ASKED, [kind])
    house.guarded.guard.runtime.audit._slots = (SinkSlot(name="list", sink=_Closing(others)),)
    async with let_go():
        await asyncio.wait_for(house.guarded.guard.runtime.close(), 30)
    assert others == [{"event": "closed"}]


class _Closing(Records):
    """A sink that notes that it was closed."""

    def __init__(self, told: Records) -> None:
        super().__init__()
        self.told = told

    def close(self) -> None:
        self.told.append({"event": "closed"})


# --- audit sinks ----------------------------------------------------------------------------------------------------


class Sink:
    """A sink with one thing wrong."""

    def __init__(self, write: Callable[..., Any] = lambda _: None, close: Callable[..., Any] = lambda: None) -> None:
        self.write, self.close = write, close


FAILS = [name for name in AT_ONCE if name not in ("gives_nothing", "gives_rubbish")]  # a sink has nothing to say


@pytest.mark.threat("O01", "O02")
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("fault", FAILS)
async def test_an_audit_sink(fault: str, required: bool, era: str, caplog: pytest.LogCaptureFixture) -> None:
    house = House([], [])
    audit, broken = house.guarded.guard.runtime.audit, Sink()
    audit._slots = (SinkSlot(name="odd", sink=broken, required=required), *audit._slots)
    async with house.client(era) as client:
        broken.write = AT_ONCE[fault]
        assert await house.outcome(client) == ("audit_unavailable" if required else "ok")
        broken.write = Sink().write
        assert await house.outcome(client, "free") == "ok"
    assert house.ran == (["free"] if required else ["odd", "free"])
    assert house.guarded.exactly_one_end_each()
    assert "audit sink odd cannot record" in caplog.text
    assert "secret-value" not in caplog.text


@pytest.mark.parametrize("fault", AT_ONCE)
async def test_an_audit_sink_that_is_closed(fault: str) -> None:
    house, others = House([], []), Records()
    runtime = house.guarded.guard.runtime
    odd = SinkSlot(name="odd", sink=Sink(close=AT_ONCE[fault]))
    runtime.audit._slots = (odd, SinkSlot(name="list", sink=_Closing(others)))
    await runtime.close()
    assert others == [{"event": "closed"}]


# --- key sources ----------------------------------------------------------------------------------------------------

FETCHES = {**{name: fault for name, fault in AT_ONCE.items() if name != "gives_later"}, "stands_still": stands_still}


@pytest.mark.parametrize("fault", FETCHES)
async def test_a_key_source(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    odd = KeySourceType(scheme="safe", fetch=FETCHES[fault], timeout=0.2)
    async with let_go():
        with pytest.raises(ConfigError) as refused:
            load_runtime(policy([], {"secret_key": "safe:mail"}), application=[odd])
    assert "safe" in str(refused.value)
    assert "secret-value" not in str(refused.value) + caplog.text


# --- stores ---------------------------------------------------------------------------------------------------------


class Wrong:
    """The memory store, of which one method does something wrong once it is told to."""

    durable, shared = False, False

    def __init__(self, method: str, fault: Callable[..., Any]) -> None:
        self.inner, self.wrong = MemoryStore(), False
        self._method, self._fault = method, fault

    def __getattr__(self, name: str) -> Any:
        if self.wrong and name == self._method:
            return self._fault
        return getattr(self.inner, name)


async def _uses(check: Check[NoParams]) -> Verdict:
    """A check that asks everything of its store."""
    store = check.store
    await store.get(["a", "b"])
    await store.put("a", b"1", 60.0)
    await store.swap("b", None, b"1", 60.0)
    await store.take("b")
    await store.add([Amount(key="n", amount=1, limit=1000, window=60.0)])
    await store.scan("", None, 10)
    await store.now()
    return Verdict.allow()


USES = EnforcerType(name="uses", check=_uses, timeout=30.0)
METHODS = ("get", "put", "swap", "take", "add", "scan", "now")
ANSWERS = {"put": ("gives_nothing",), "take": ("gives_nothing",)}  # for these, None is an answer
STORES = [
    (method, fault)
    for method in METHODS
    for fault in (*LATER, "at_once")
    if fault not in ANSWERS.get(method, ()) and (fault != "clings" or method == "take")
]


def stored(method: str, fault: str) -> tuple[Wrong, StoreType]:
    """A third party's store, and its description."""
    store = Wrong(method, AT_ONCE["gives_rubbish"] if fault == "at_once" else LATER[fault])
    return store, StoreType(scheme="odd", open=lambda *_: store, timeout=0.2)  # type: ignore[arg-type, return-value]


@pytest.mark.threat("N02", "N03", "N10")
@pytest.mark.parametrize(("method", "fault"), STORES)
async def test_a_store(method: str, fault: str, caplog: pytest.LogCaptureFixture) -> None:
    store, kind = stored(method, fault)
    house = House(["bf:odd:uses:allow"], [kind, USES], store="odd://x", audience="house")
    async with house.client() as client:
        assert await house.outcome(client) == "ok"
        store.wrong = True
        assert await asyncio.gather(*(house.outcome(client) for _ in range(8))) == ["store_unavailable"] * 8
        assert await house.outcome(client, "free") == "ok", "what needs no store goes on"
        store.wrong = False
        assert await house.outcome(client) == "ok"
    assert house.ran == ["odd", "free", "odd"]
    assert house.is_sound()
    assert house.events("plugin_failing") == [], "it is not the enforcer that fails"
    assert "secret-value" not in caplog.text


@pytest.mark.threat("N02", "FI2")
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("method", "fault"),
    [pair for pair in STORES if pair[0] != "scan" and pair[1] in ("leaves", "hangs", "gives_rubbish", "at_once")],
)
async def test_a_store_while_somebody_approves(method: str, fault: str, era: str) -> None:
    store, kind = stored(method, fault)
    person = Turning(store)
    house = House(
        ["bf:odd:tool_access:elicit", "bf:odd:rate_limit:allow:100/hour"], [kind], store="odd://x", audience="house"
    )
    async with house.client(era, person) as client:
        outcome = await house.outcome(client)
        assert outcome in ("store_unavailable", "ok"), outcome
        assert house.ran.count("odd") == (outcome == "ok")
        store.wrong = False
        assert await house.outcome(client, "free") == "ok"
        assert await house.outcome(client) == "ok"
    assert person.asked == 2
    assert house.is_sound()


class Turning(Person):
    """Somebody who agrees, at which moment the store begins to fail."""

    def __init__(self, store: Wrong) -> None:
        super().__init__()
        self._store = store

    async def __call__(self, message: str, response_type: Any, params: Any, context: Any) -> Any:
        self._store.wrong = self.asked == 0
        return await super().__call__(message, response_type, params, context)


@pytest.mark.parametrize("fault", LATER)
async def test_a_store_that_is_closed(fault: str) -> None:
    store, kind = stored("close", fault)
    store.wrong = True
    others = Records()
    house = House([], [kind], store="odd://x", audience="house")
    house.guarded.guard.runtime.audit._slots = (SinkSlot(name="list", sink=_Closing(others)),)
    async with let_go():
        await asyncio.wait_for(house.guarded.guard.runtime.close(), 30)
    assert others == [{"event": "closed"}]


# --- what is opened at the start ------------------------------------------------------------------------------------


@pytest.mark.threat("FI18")
@pytest.mark.parametrize("fault", AT_ONCE)
@pytest.mark.parametrize("what", ["store", "sink", "approver"])
async def test_a_plugin_that_cannot_be_opened(what: str, fault: str, caplog: pytest.LogCaptureFixture) -> None:
    opens = AT_ONCE[fault]
    kinds: dict[str, tuple[object, dict[str, Any]]] = {
        "store": (StoreType(scheme="odd", open=opens), {"store": "odd://user:secret-value@x", "audience": "house"}),
        "sink": (AuditSinkType(name="odd", open=opens), {"audit": [{"sink": "odd"}]}),
        "approver": (
            ApproverType(name="odd", open=opens, assurance=Assurance.PERSON),
            {"approvals": {"default": "odd"}},
        ),
    }
    kind, config = kinds[what]
    with pytest.raises(ConfigError) as refused:
        load_runtime(policy(["bf:odd:tool_access:elicit"], config), application=[kind])
    (problem,) = refused.value.diagnostics
    assert problem.code == f"{what}_failed"
    assert "odd" in problem.message
    assert "secret-value" not in str(refused.value) + caplog.text
