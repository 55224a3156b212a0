"""Mints, narrows and verifies tokens. Verifying checks the signature first and conditions after; rules are left to the
engine, and a token's caveats can be reached on a verified token only."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from ..errors import KeyRingError, RuleError, TokenInvalid
from ..model import Rule
from ..rules import TIME, format_expiry, name_fault, parse_rule
from . import caveats as caveat_texts
from . import macaroons
from .discharges import ThirdParty, opener
from .keys import KeyRing

VERSION: Final = 1
SKEW: Final = timedelta(seconds=30)
LONGEST: Final = timedelta(days=3660)
CACHED: Final = 4096
MOST_DISCHARGES: Final = 64 * 1024

_LATEST: Final = int(datetime.max.replace(tzinfo=UTC, microsecond=0).timestamp())
_FIELDS: Final = {"v", "t", "k", "n", "a", "s", "ns", "tn", "c", "i"}

CheckRule = Callable[[Rule], None]
Counts = Callable[[Rule], bool]
Revoked = Callable[["VerifiedToken"], bool] | Set[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedToken:
    """A token whose signature and conditions hold. Its `repr` shows neither caveats nor signature.

    `id` and `branches` are its lineage, which audit and revocation go by. `caveats` are its rules, in order;
    `scoped_caveats` gives each with the lineage that it was written under, `ends` says when the last token that bears
    it ends. `expires` is the token's earliest end. The rules and the end of its discharges count among them, under the
    lineage of what they discharge; `discharged_by` are the locations that gave those.
    """

    id: str
    key_id: str
    audience: str
    subject: str
    namespace: str
    tenant: str | None
    client: str | None
    issued_at: datetime
    expires: datetime
    branches: tuple[str, ...]
    scoped_caveats: tuple[tuple[str, tuple[str, ...]], ...] = field(repr=False)
    caveats: tuple[str, ...] = field(repr=False)
    lineage: tuple[str, ...] = ()
    discharged_by: tuple[str, ...] = ()
    ends: tuple[datetime, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What a token says of itself, before anything of it is proved. `issued_at` is in whole seconds since 1970."""

    key_id: str
    id: str
    audience: str
    subject: str
    namespace: str
    tenant: str | None
    client: str | None
    issued_at: int


def mint(
    keys: KeyRing,
    *,
    subject: str,
    audience: str,
    caveats: Sequence[str] = (),
    expires: timedelta | datetime = timedelta(hours=1),
    client: str | None = None,
    namespace: str = "",
    tenant: str | None = None,
    now: datetime | None = None,
    check: CheckRule | None = None,
    counts: Counts | None = None,
) -> str:
    """A new token for `subject` at the server `audience`, which ends at `expires`, signed with the current key.

    `caveats` are rules in string form; each narrows what the subject may do. `check` may refuse a rule that the
    server would not understand; `counts` says of one whether its policy keeps anything, as limits do: a token bears
    two of those at most. Raises `RuleError` for a caveat that would prohibit everything and for a third that counts,
    `ValueError` for an empty subject or audience, for text that is not Unicode, and for a name with `*`, with white
    space at an end or with characters that cannot be seen.
    """
    now = now or datetime.now(UTC)
    if not subject or not audience:
        raise ValueError("a token names a subject and an audience")
    if not all(_is_unicode(text) for text in (subject, audience, namespace, tenant or "", client or "")):
        raise ValueError("a token's names are Unicode text, without lone surrogates")
    for text in (subject, namespace, tenant or "", client or ""):
        fault = name_fault(text)
        if fault is not None:
            raise ValueError(f"a token names somebody who can be told from others: {text!a} {fault}")
    identifier = _write(
        Named(
            key_id=keys.current,
            id=secrets.token_urlsafe(16),
            audience=audience,
            subject=subject,
            namespace=namespace,
            tenant=tenant,
            client=client,
            issued_at=int(now.timestamp()),
        )
    )
    texts = [format_expiry(_end(expires, now)), *(_writable(text, check) for text in caveats)]
    _require_few(texts, counts)
    key = keys.derive("token", audience)
    macaroon = macaroons.sign(key, location=audience, identifier=identifier, caveats=texts)
    return macaroons.to_text(_bounded(macaroon))


def attenuate(
    token: str,
    *caveats: str,
    expires: timedelta | datetime | None = None,
    now: datetime | None = None,
    check: CheckRule | None = None,
    counts: Counts | None = None,
) -> str:
    """The token with more caveats, and a branch of its own. It needs no key and can only narrow.

    Raises `RuleError` for a caveat that would prohibit everything, and for a third one, from the token's start, of a
    policy that keeps anything, as limits do (`counts` says which do); `TokenInvalid` for a text that is no token, or
    that would grow past the limits.
    """
    texts = [caveat_texts.new_branch()]
    if expires is not None:
        texts.append(format_expiry(_end(expires, now or datetime.now(UTC))))
    texts += [_writable(text, check) for text in caveats]
    macaroon = macaroons.from_text(token)
    _require_few([*_rule_texts(macaroon), *texts], counts)
    return macaroons.to_text(macaroons.extend(macaroon, texts))


def verify(
    keys: KeyRing,
    token: str,
    *,
    audience: str,
    now: datetime | None = None,
    revoked: Revoked | None = None,
    discharges: Sequence[str] = (),
    parties: Mapping[str, ThirdParty] | None = None,
) -> VerifiedToken:
    """The token, verified for this audience. Raises `TokenInvalid`; its code is for the audit, its text says nothing.

    Signatures that held are remembered by the SHA-256 of the token while the ring lives; conditions and revocation
    are checked every time. `revoked` is asked about the verified token, or is a set of revoked ids: of tokens, branches
    and keys, each of which ends everything that was narrowed from it. The caveats that are rules are judged by the
    engine. `discharges` answer its third-party caveats, bound to it; `parties` are the services that count.
    """
    now = now or datetime.now(UTC)
    verified = _signed(keys, token, audience, tuple(discharges), parties or {})
    if verified.expires <= now:
        raise TokenInvalid("token_expired")
    if verified.issued_at > now + SKEW:
        raise TokenInvalid("token_not_yet_valid")
    if revoked is not None and _is_revoked(verified, revoked):
        raise TokenInvalid("token_revoked")
    return verified


def holds(keys: KeyRing, token: str, *, audience: str, now: datetime | None = None) -> None:
    """Raises `TokenInvalid` unless a token's own chain, audience and end hold, its discharges aside.

    For a carrier that gets the discharges later. It allows nothing: `verify` must follow.
    """
    macaroon = macaroons.from_text(token)
    macaroons.check_chain(_key_for(keys, macaroon, audience)[0], macaroon)
    expires = _first_parties(macaroon).expires
    if expires is None:
        raise TokenInvalid("token_too_broad")
    if expires <= (now or datetime.now(UTC)):
        raise TokenInvalid("token_expired")


def named(token: str) -> Named:
    """What a token says of itself, unproved: nothing may be allowed by it. Raises `TokenInvalid`."""
    return _read(macaroons.from_text(token).identifier)


def _key_for(keys: KeyRing, macaroon: macaroons.RawMacaroon, audience: str) -> tuple[bytes, Named]:
    """The one key that a token names, and what it says of itself; nothing of it is proved yet."""
    identifier = _read(macaroon.identifier)
    if identifier.audience != audience or macaroon.location != audience.encode():
        raise TokenInvalid("token_audience")
    try:
        return keys.derive("token", audience, identifier.key_id), identifier
    except KeyRingError:
        raise TokenInvalid("token_key_unknown") from None


def _is_revoked(token: VerifiedToken, revoked: Revoked) -> bool:
    if callable(revoked):
        return revoked(token)
    return any(part in revoked for part in (token.key_id, *token.lineage))


def _signed(
    keys: KeyRing, token: str, audience: str, discharges: tuple[str, ...], parties: Mapping[str, ThirdParty]
) -> VerifiedToken:
    if not isinstance(token, str) or len(token) > macaroons.MAX_BYTES * 2:
        raise TokenInvalid("token_too_large")
    if not all(isinstance(text, str) for text in discharges):
        raise TokenInvalid("discharge_invalid")
    if len(discharges) > macaroons.MAX_DISCHARGES or sum(map(len, discharges)) > MOST_DISCHARGES:
        raise TokenInvalid("discharge_too_many")
    mark = _mark(token, discharges, parties)
    known = keys.verified.get(mark)
    if isinstance(known, VerifiedToken) and known.audience == audience and known.key_id in keys:
        return known
    read = [macaroons.from_text(text, macaroons.DISCHARGE) for text in discharges]
    verified = _check(keys, macaroons.from_text(token), audience, read, parties)
    if len(keys.verified) >= CACHED:
        keys.verified.clear()
    keys.verified[mark] = verified
    return verified


def _mark(token: str, discharges: tuple[str, ...], parties: Mapping[str, ThirdParty]) -> bytes:
    """What a verified signature is remembered by: everything that it was verified with, but for the key ring itself."""
    if not discharges and not parties:
        return hashlib.sha256(token.encode("utf-8", "replace")).digest()
    known = sorted((party.location, party.key.fingerprint) for party in parties.values())
    return hashlib.sha256(repr((token, discharges, known)).encode("utf-8", "replace")).digest()


def _check(
    keys: KeyRing,
    macaroon: macaroons.RawMacaroon,
    audience: str,
    discharges: Sequence[macaroons.RawMacaroon],
    parties: Mapping[str, ThirdParty],
) -> VerifiedToken:
    key, identifier = _key_for(keys, macaroon, audience)
    macaroons.check_signature(key, macaroon, discharges=discharges, opens=opener(parties, audience))
    read = _first_parties(macaroon)
    if read.expires is None:
        raise TokenInvalid("token_too_broad")
    expires, scoped = read.expires, [(text, (identifier.id, *before)) for text, before in read.rules]
    lineage, ends = (identifier.id, *read.branches), list(read.ends)
    for each in discharges:
        more = _first_parties(each)
        if more.expires is None or more.branches:
            raise TokenInvalid("discharge_invalid")
        expires = min(expires, more.expires)
        before, end = _place(macaroon, each.identifier)
        scoped += [(text, (identifier.id, *before)) for text, _ in more.rules]
        ends += [end or read.expires] * len(more.rules)
    return VerifiedToken(
        id=identifier.id,
        key_id=identifier.key_id,
        audience=audience,
        subject=identifier.subject,
        namespace=identifier.namespace,
        tenant=identifier.tenant,
        client=identifier.client,
        issued_at=datetime.fromtimestamp(identifier.issued_at, UTC),
        expires=expires,
        branches=read.branches,
        scoped_caveats=tuple(scoped),
        caveats=tuple(text for text, _ in scoped),
        lineage=lineage,
        discharged_by=tuple((each.location or b"").decode() for each in discharges),
        ends=tuple(ends),
    )


def _place(macaroon: macaroons.RawMacaroon, ticket: bytes) -> tuple[tuple[str, ...], datetime | None]:
    """The branches before the caveat that a discharge answers, and when the last token that bears it ends, if it says.

    What a discharge counts is one count for everything that was narrowed behind that caveat: narrowing begins no fresh
    one. A discharge of a discharge belongs to the whole line.
    """
    for number, caveat in enumerate(macaroon.caveats):
        if caveat.vid is not None and caveat.identifier == ticket:
            before = caveat_texts.read(tuple(c.identifier for c in macaroon.caveats[:number] if c.vid is None))
            return before.branches, before.expires
    return (), None


def _first_parties(macaroon: macaroons.RawMacaroon) -> caveat_texts.Caveats:
    return caveat_texts.read(tuple(caveat.identifier for caveat in macaroon.caveats if caveat.vid is None))


def _write(identifier: Named) -> bytes:
    """Canonical JSON: sorted keys, no space, ASCII. There is one text for one identifier."""
    facts = {
        "v": VERSION,
        "t": "token",
        "k": identifier.key_id,
        "n": identifier.id,
        "a": identifier.audience,
        "s": identifier.subject,
        "ns": identifier.namespace,
        "tn": identifier.tenant,
        "c": identifier.client,
        "i": identifier.issued_at,
    }
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _read(raw: bytes) -> Named:
    try:
        facts = json.loads(raw)
    except (ValueError, RecursionError):
        raise TokenInvalid("token_identifier") from None
    if not isinstance(facts, dict) or set(facts) != _FIELDS or facts["v"] != VERSION or facts["t"] != "token":
        raise TokenInvalid("token_identifier")
    if not _typed(facts):
        raise TokenInvalid("token_identifier")
    identifier = Named(
        key_id=facts["k"],
        id=facts["n"],
        audience=facts["a"],
        subject=facts["s"],
        namespace=facts["ns"],
        tenant=facts["tn"],
        client=facts["c"],
        issued_at=facts["i"],
    )
    if _write(identifier) != raw:
        raise TokenInvalid("token_identifier")
    return identifier


def _typed(facts: dict[str, Any]) -> bool:
    texts = all(isinstance(facts[name], str) for name in ("k", "n", "a", "s", "ns"))
    maybe = all(facts[name] is None or isinstance(facts[name], str) for name in ("tn", "c"))
    whole = isinstance(facts["i"], int) and not isinstance(facts["i"], bool) and 0 <= facts["i"] <= _LATEST
    return texts and maybe and whole and bool(facts["s"]) and bool(facts["n"])


def _is_unicode(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _end(expires: timedelta | datetime, now: datetime) -> datetime:
    end = now + expires if isinstance(expires, timedelta) else expires
    if end.tzinfo is None:
        raise ValueError("expires needs a time zone")
    if end - now > LONGEST:
        raise ValueError("a token lives ten years at most")
    return end


def _require_few(texts: Sequence[str], counts: Counts | None) -> None:
    """Raises `RuleError` where more caveats count than a token may bear: what they keep, a store has to keep."""
    counting = counts or (lambda rule: rule.policy in caveat_texts.COUNTING)
    if sum(counting(rule) for rule in map(_rule, texts) if rule is not None) > caveat_texts.MOST_COUNTING:
        raise RuleError(
            f"a token bears at most {caveat_texts.MOST_COUNTING} rules that count calls", code="too_many_counting"
        )


def _rule_texts(macaroon: macaroons.RawMacaroon) -> list[str]:
    return [caveat.identifier.decode("utf-8", "replace") for caveat in macaroon.caveats if caveat.vid is None]


def _rule(text: str) -> Rule | None:
    """The rule of a caveat; None for an end, a branch, and what no server can read."""
    if text.startswith((TIME, caveat_texts.BRANCH)):
        return None
    try:
        return parse_rule(text, in_token=True)
    except RuleError:
        return None


def _writable(text: str, check: CheckRule | None) -> str:
    written = caveat_texts.writable(text)
    if check is not None and not written.startswith(TIME):
        check(parse_rule(written, in_token=True))
    return written


def _bounded(macaroon: macaroons.RawMacaroon) -> macaroons.RawMacaroon:
    size = len(macaroons.encode(macaroon))
    if size > macaroons.MAX_BYTES or len(macaroon.caveats) > macaroons.MAX_CAVEATS:
        raise RuleError(
            f"a token has at most {macaroons.MAX_CAVEATS} caveats and {macaroons.MAX_BYTES} bytes",
            code="token_too_large",
        )
    return macaroon
