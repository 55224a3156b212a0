"""What a token says of itself: in words that hide nothing, without a key, and without proving anything."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_macaroon_middleware.errors import RuleError, TokenInvalid
from mcp_macaroon_middleware.tokens import KeyRing, ThirdParty, attenuate, mint, require, unmet, verify
from mcp_macaroon_middleware.tokens.describe import Inspection, inspect, ticket_bytes, ticket_text
from mcp_macaroon_middleware.tokens.macaroons import RawCaveat, append, extend, from_text, sign, to_text
from mcp_macaroon_middleware.tokens.sentences import moment, quoted, sentence, span, spelled

KEYS = KeyRing.from_secret("a secret of at least thirty-two bytes, for tests only")
AT = datetime(2031, 1, 31, 12, tzinfo=UTC)


def token(*caveats: str, subject: str = "alice", hours: int = 1) -> str:
    return mint(KEYS, subject=subject, audience="mail", caveats=caveats, now=AT, expires=timedelta(hours=hours))


def older(**names: str) -> str:
    """A token with names that are not minted any more, signed by hand: some were minted once."""
    facts = json.loads(from_text(token()).identifier)
    keys = {"subject": "s", "tenant": "t"}
    changed = {**facts, **{keys[name]: text for name, text in names.items()}}
    identifier = json.dumps(changed, sort_keys=True, separators=(",", ":")).encode()
    end = "time<20990101T000000Z"
    return to_text(sign(KEYS.derive("token", "mail"), location="mail", identifier=identifier, caveats=[end]))


def words(text: str) -> list[str]:
    return [statement.words for statement in inspect(text).statements]


def test_an_inspection_says_what_verification_finds() -> None:
    text = mint(
        KEYS,
        subject="alice",
        audience="mail",
        caveats=["bf:*:tool_access:only:read_*"],
        client="cli",
        namespace="https://idp",
        tenant="acme",
    )
    text = attenuate(attenuate(text, "af:*:field_access:deny:email"), expires=timedelta(minutes=5))
    said, found = inspect(text), verify(KEYS, text, audience="mail")
    for name in ("id", "key_id", "audience", "subject", "namespace", "tenant", "client", "issued_at", "expires"):
        assert getattr(said, name) == getattr(found, name), name
    assert (said.lineage, said.rules, said.branches) == (found.lineage, found.caveats, found.branches)
    assert said.person() == "alice (issuer https://idp, tenant acme, client cli)"


def test_a_forged_token_is_described_all_the_same_so_nothing_may_be_decided_by_it() -> None:
    forged = sign(
        b"k" * 32, location="mail", identifier=from_text(token()).identifier, caveats=["time<20990101T000000Z"]
    )
    assert inspect(to_text(forged)).subject == "alice"
    assert inspect(to_text(forged)).as_document()["signature"] == "not checked"
    with pytest.raises(TokenInvalid):
        verify(KEYS, to_text(forged), audience="mail", now=AT)


def test_every_caveat_is_a_sentence_in_its_order() -> None:
    first = token("bf:*:tool_access:only:read_*:search", "bf:delete_all:tool_access:deny")
    text = attenuate(first, "af:read_mail:field_access:deny:owner.email:phone", expires=timedelta(minutes=5), now=AT)
    assert words(text) == [
        "Ends at 2031-01-31 13:00:00 UTC. Another end comes first.",
        "Allows only any tool named read_* or the tool search, and nothing else.",
        "Refuses the tool delete_all.",
        "Narrowed from here on; revoking this branch revokes what follows and nothing before.",
        "Ends at 2031-01-31 12:05:00 UTC. It is the first end, so it counts.",
        "Withholds owner.email and phone from what the tool read_mail returns.",
    ]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("bf:*:tool_access:deny", "Refuses anything."),
        ("bf:tool=*:tool_access:elicit", "A person must agree before each use of any tool."),
        ("bf:prompt=a:tool_access:deny", "Refuses the prompt a."),
        ("bf:mail_*:tool_access:only:mail_read", "Of any tool named mail_*, allows only the tool mail_read."),
        ("af:*:field_access:only:id:name:at", "Shows nothing but id, name and at of what anything returns."),
        ("af:x:field_access:elicit:iban", "A person must agree before iban of what the tool x returns is shown."),
        ("bf:x:rate_limit:allow:3/day", "At most 3/day for the tool x, each counted by itself."),
        ("bf:x:rate_limit:elicit:3/day", "A person must agree to more than 3/day for the tool x."),
        ("bf:x:allow_attempts:allow:3", "At most 3 calls in all of the tool x, each counted by itself."),
        ("bf:x:argument_allowlist:allow:to:a:b", "The argument to of the tool x must be a or b."),
        (
            "bf:x:office_hours:allow:9:17",
            "Before each call of the tool x, the policy office_hours is asked: allow 9, 17. "
            "A server that does not know it refuses everything.",
        ),
        (
            "af:x:tool_access:only",
            "On each result of the tool x, the policy tool_access is asked: only. "
            "A server that does not know it refuses everything.",
        ),
    ],
)
def test_a_rule_is_a_plain_sentence(rule: str, said: str) -> None:
    assert sentence(rule) == said


@pytest.mark.parametrize(
    "rule",
    [
        "",
        "bf",
        "bf:x:y",
        "bf:*:tool_access:only:prompt=",
        "xx:a:tool_access:deny",
        "bf:x:tool_access:deny:time<20310101T000000Z",
    ],
)
def test_a_caveat_that_nobody_can_read_is_said_to_refuse_everything(rule: str) -> None:
    assert words(append(token(), rule))[-1] == f"Cannot be read as a rule, so it refuses everything: {rule}"


@pytest.mark.parametrize("caveat", [b"time<soon", b"branch<short", b"bf:\xff:tool_access:deny"])
def test_a_caveat_that_breaks_the_token_is_said_to(caveat: bytes) -> None:
    macaroon = extend(from_text(token()), ["time<soon"])
    caveats = (*macaroon.caveats[:-1], RawCaveat(identifier=caveat))
    broken = to_text(
        type(macaroon)(
            location=macaroon.location, identifier=macaroon.identifier, caveats=caveats, signature=macaroon.signature
        )
    )
    last = inspect(broken).statements[-1]
    assert last.kind == "broken"
    assert last.words.startswith("Cannot be read, so no server accepts the token: ")


HIDDEN = ["\u202e", "\u200b", "\x1b[2J", "\r", "\n", "\u2028", "\U000e0041", "\u3164", "\ufe0f", "\x9b", "\ufeff"]


@pytest.mark.parametrize("mark", HIDDEN)
def test_no_hidden_character_of_a_token_reaches_a_terminal(mark: str) -> None:
    text = append(append(older(subject=f"al{mark}ice"), f"bf:x:tool_{mark}access:deny"), f"time<{mark}")
    said = inspect(append(text, f"bf:x{mark}y:tool_access:deny"))
    shown = "".join([said.person(), *(statement.words for statement in said.statements)])
    assert mark[0] not in shown
    assert f"{ord(mark[0]):04x}" in shown


@given(st.text())
def test_what_is_spelled_is_printable_and_says_which_text_it_was(text: str) -> None:
    shown = spelled(text)
    assert shown.isprintable()
    assert spelled(text + "x") != shown
    assert quoted(text).isprintable()


def test_an_escape_that_stands_in_the_text_is_not_taken_for_a_hidden_character() -> None:
    assert spelled("\\u200b") == "\\\\u200b"
    assert spelled("\u200b") == "\\u200b"


@given(st.text())
def test_any_caveat_at_all_has_words(text: str) -> None:
    try:
        assert sentence(text).isprintable()
    except RuleError:  # pragma: no cover
        pytest.fail("a sentence raises nothing")


@pytest.mark.parametrize("text", ["", "mm_", "mm_AAAA", "hello", "md_AgEE", "mm_" + "A" * 40_000])
def test_what_is_no_token_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(TokenInvalid) as caught:
        inspect(text)
    assert str(caught.value) == "the token is not valid"


def test_a_macaroon_of_somebody_else_is_no_token() -> None:
    for location, identifier in (("mail", b"{}"), ("mail", b"id"), ("bank", from_text(token()).identifier)):
        with pytest.raises(TokenInvalid):
            inspect(to_text(sign(b"k" * 32, location=location, identifier=identifier, caveats=[])))


def test_a_third_partys_caveat_names_its_place_and_gives_its_ticket() -> None:
    party = ThirdParty(location="login", key=KeyRing.from_secret("another secret of at least 32 bytes, for tests"))
    text = require(token(), party, subject="alice", audience="mail")
    (said,) = inspect(text).third_parties
    assert said.words == "Counts only with a discharge from login."
    assert ((said.location, said.ticket),) == unmet(text)
    assert said.ticket is not None
    assert ticket_bytes(ticket_text(said.ticket)) == said.ticket
    for wrong in ("é", "bXQx=", "b XQ", "bXQ\n"):
        with pytest.raises(TokenInvalid):
            ticket_bytes(wrong)


def test_its_repr_shows_no_caveat_and_no_ticket() -> None:
    said = inspect(token("bf:secret_tool:tool_access:deny"))
    assert "secret_tool" not in repr(said) + repr(said.statements)


def test_a_token_without_an_end_says_so_by_naming_none() -> None:
    bare = sign(b"k" * 32, location="mail", identifier=from_text(token()).identifier, caveats=[])
    said: Inspection = inspect(to_text(bare))
    assert (said.expires, said.ends, said.statements) == (None, (), ())


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0 seconds"), (1, "1 second"), (59, "59 seconds"), (28_799, "8 hours"), (86_400, "1 day")]
)
def test_a_length_of_time_is_said_in_its_largest_unit(seconds: int, said: str) -> None:
    assert span(seconds) == said
    assert moment(AT) == "2031-01-31 12:00:00 UTC"


def test_inspecting_loads_no_framework_and_no_store() -> None:
    code = "import sys; from mcp_macaroon_middleware.tokens.describe import inspect; sys.exit('fastmcp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
