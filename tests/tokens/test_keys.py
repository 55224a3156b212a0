"""The key ring: what is accepted as a key, what is derived from it, what it shows."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from mcp_macaroon_middleware.errors import KeyRingError
from mcp_macaroon_middleware.tokens.keys import MIN_BYTES, PLACEHOLDERS, PURPOSES, KeyRing, new_key, new_secret

GOOD = "a secret of at least thirty-two bytes, for tests only"


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
    assert os.sep
