"""The key ring: what is accepted as a key, what is derived from it, what it shows."""

from __future__ import annotations

import base64
import hmac
import itertools
import os
import traceback
from pathlib import Path

import pytest

from mcp_macaroon_middleware.errors import KeyRingError
from mcp_macaroon_middleware.tokens import keys, mint, verify
from mcp_macaroon_middleware.tokens.keys import MIN_BYTES, PLACEHOLDERS, PURPOSES, KeyRing, new_key, new_secret

GOOD = "a secret of at least thirty-two bytes, for tests only"

posix = pytest.mark.skipif(os.name != "posix", reason="file modes")


@pytest.mark.threat("A10", "L08")
@pytest.mark.parametrize("secret", ["", "short", "x" * 31, "a" * 64, *sorted(PLACEHOLDERS)])
def test_weak_and_documented_keys_are_refused_with_the_command_that_makes_one(secret: str) -> None:
    with pytest.raises(KeyRingError, match="mcp-macaroon keys new") as caught:
        KeyRing.from_secret(secret)
    assert ("placeholder" in str(caught.value)) == (secret in PLACEHOLDERS)
    if len(secret) > 3:
        assert secret not in str(caught.value)


def test_every_purpose_and_audience_has_a_key_of_its_own() -> None:
    ring = KeyRing.from_secret(GOOD)
    derived = {ring.derive(purpose, audience) for purpose, audience in itertools.product(PURPOSES, ["a", "b", ""])}
    assert len(derived) == 3 * len(PURPOSES)
    assert all(len(key) == MIN_BYTES for key in derived)
    assert ring.derive("token", "a") == KeyRing.from_secret(GOOD).derive("token", "a")


def test_no_pair_of_purpose_and_audience_can_be_spelled_as_another() -> None:
    ring = KeyRing.from_secret(GOOD)
    assert ring.derive("token", 'x"]') != ring.derive("token", "x")
    assert ring.derive("token", "a,b") != ring.derive("token", "a")


def test_an_unknown_purpose_or_key_is_refused() -> None:
    ring = KeyRing.from_secret(GOOD)
    with pytest.raises(KeyRingError):
        ring.derive("everything", "a")
    with pytest.raises(KeyRingError):
        ring.derive("token", "a", "other")


def test_a_directory_holds_a_ring_and_the_newest_key_signs(tmp_path: Path) -> None:
    first, second = new_key(tmp_path / "keys"), new_key(tmp_path / "keys")
    ring = KeyRing.from_directory(tmp_path / "keys")
    assert ring.current == second
    assert set(ring.ids) == {first, second}
    assert ring.derive("token", "a", first) != ring.derive("token", "a", second)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "keys").iterdir()}
    assert modes == {0o600}
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700


@pytest.mark.threat("FI21")
@pytest.mark.parametrize("state", ["missing", "empty", "open", "damaged", "short", "unreadable"])
def test_a_ring_that_cannot_be_used_says_why_and_what_to_do(tmp_path: Path, state: str) -> None:
    folder = tmp_path / "keys"
    if state != "missing":
        key_id = new_key(folder)
        path = folder / f"{key_id}.key"
        if state == "empty":
            path.unlink()
        elif state == "open":
            path.chmod(0o644)
        elif state == "damaged":
            path.write_bytes(b"not base64 !!")
        elif state == "short":
            path.write_bytes(b"c2hvcnQ=")
        else:
            path.unlink()
            path.symlink_to(folder / "gone")
    with pytest.raises(KeyRingError):
        KeyRing.from_directory(folder)


def test_L7_a_ring_shows_its_ids_only_and_cannot_be_pickled() -> None:
    import pickle

    ring = KeyRing.from_secret(GOOD)
    assert GOOD not in repr(ring) + str(ring.ids) + repr(vars(type(ring)))
    with pytest.raises(TypeError):
        pickle.dumps(ring)


def test_fresh_secrets_are_accepted_and_differ() -> None:
    assert new_secret() != new_secret()
    assert KeyRing.from_secret(new_secret()).current


def test_a_ring_cannot_be_turned_to_another_key() -> None:
    ring = KeyRing({"1": GOOD.encode(), "2": GOOD[::-1].encode()}, "1")
    with pytest.raises(AttributeError):
        ring.current = "2"  # type: ignore[misc]
    assert ring.current == "1"


@pytest.mark.parametrize("key_id", ["", "a/b", "a b", "a\n", "../up", "x" * 65, ".hidden"])
def test_a_key_id_is_a_plain_short_name(key_id: str) -> None:
    with pytest.raises(KeyRingError):
        KeyRing({key_id: GOOD.encode()}, key_id)


@pytest.mark.threat("A10")
@pytest.mark.parametrize("secret", [b"\0" * 48, b"ab" * 32])
def test_a_key_file_of_hardly_any_different_bytes_is_refused(tmp_path: Path, secret: bytes) -> None:
    folder = tmp_path / "keys"
    new_key(folder)
    write(folder / "weak.key", secret)
    with pytest.raises(KeyRingError, match=r"weak\.key has hardly any different bytes"):
        KeyRing.from_directory(folder)


@posix
@pytest.mark.parametrize("mode", [0o777, 0o722, 0o720, 0o1777])
def test_a_directory_that_others_can_write_to_holds_no_ring_and_gets_no_key(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "keys"
    new_key(folder)
    folder.chmod(mode)
    for attempt in (KeyRing.from_directory, new_key):
        with pytest.raises(KeyRingError, match="chmod go-w"):
            attempt(folder)
    assert len(list(folder.iterdir())) == 1


@posix
def test_a_pipe_or_a_folder_named_like_a_key_does_not_hold_the_start(tmp_path: Path) -> None:
    for name, make in (("pipe", lambda path: os.mkfifo(path, 0o600)), ("folder", lambda path: path.mkdir(0o700))):
        folder = tmp_path / name
        new_key(folder)
        make(folder / "a.key")
        with pytest.raises(KeyRingError, match=r"a\.key"):
            KeyRing.from_directory(folder)


def test_a_new_key_that_an_older_one_would_outrank_is_not_made(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    first = new_key(folder)
    (folder / f"{first}.key").rename(folder / "production.key")
    with pytest.raises(KeyRingError, match="production sorts after"):
        new_key(folder)
    assert KeyRing.from_directory(folder).ids == ("production",)


def test_a_key_moved_to_retired_verifies_nothing_more(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    first, second = new_key(folder), new_key(folder)
    (folder / "retired").mkdir()
    (folder / f"{first}.key").rename(folder / "retired" / f"{first}.key")
    ring = KeyRing.from_directory(folder)
    assert ring.ids == (second,)
    assert first not in ring
    with pytest.raises(KeyRingError):
        ring.derive("token", "a", first)


@pytest.mark.threat("FI21")
def test_a_loaded_ring_goes_on_when_its_files_are_gone(tmp_path: Path) -> None:
    key_id = new_key(tmp_path / "keys")
    ring = KeyRing.from_directory(tmp_path / "keys")
    token = mint(ring, subject="alice", audience="mail")
    (tmp_path / "keys" / f"{key_id}.key").unlink()
    assert verify(ring, token, audience="mail").key_id == key_id
    with pytest.raises(KeyRingError, match="holds no key"):
        KeyRing.from_directory(tmp_path / "keys")


def test_L7_no_refusal_of_a_ring_shows_what_a_key_file_holds(tmp_path: Path) -> None:
    texts = {"short": "c2hvcnQgc2VjcmV0", "damaged": "not base64 !! my secret", "same": "QUFB" * 16}
    for name, text in texts.items():
        folder = tmp_path / name
        new_key(folder)
        (folder / "bad.key").write_text(text)
        (folder / "bad.key").chmod(0o600)
        with pytest.raises(KeyRingError) as caught:
            KeyRing.from_directory(folder)
        shown = "".join(traceback.format_exception(caught.value))
        assert text not in shown
        assert "short secret" not in shown


def test_derived_keys_are_those_of_hkdf_sha256() -> None:
    """RFC 5869 by hand, one block: extract with a salt of zeros, expand with the info."""
    secret = GOOD.encode()
    pseudo_random = hmac.digest(b"\0" * 32, secret, "sha256")
    info = b'["mcp-macaroon", 1, "token", "mail"]'
    assert KeyRing.from_secret(GOOD).derive("token", "mail") == hmac.digest(pseudo_random, info + b"\x01", "sha256")


def test_deriving_again_computes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = KeyRing.from_secret(GOOD)
    first = ring.derive("token", "mail")
    monkeypatch.setattr(keys, "HKDF", None)
    assert ring.derive("token", "mail") is first


def write(path: Path, secret: bytes) -> None:
    path.write_bytes(base64.urlsafe_b64encode(secret))
    path.chmod(0o600)
