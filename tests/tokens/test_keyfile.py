"""The key file: which documents are one, how it turns, how it lies on the disk, and who may have touched it."""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mcp_macaroon_middleware.errors import KeyRingError, TokenInvalid
from mcp_macaroon_middleware.tokens import KeyRing, keystore, mint, verify
from mcp_macaroon_middleware.tokens.keyfile import KeyFile
from mcp_macaroon_middleware.tokens.keys import new_key, new_secret, read_directory
from mcp_macaroon_middleware.tokens.keystore import change_key_file, make_key_file, read_key_file

NOW = datetime(2026, 1, 5, 10, tzinfo=UTC)
DAY = timedelta(days=1)

posix = pytest.mark.skipif(os.name != "posix", reason="file modes")
root = pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A key file of one key."""
    found = tmp_path / "keys" / "keys.json"
    make_key_file(found, KeyFile.fresh(now=NOW))
    return found


def secrets_of(path: Path) -> list[str]:
    data = json.loads(path.read_text())
    return [data["names"], *(key["secret"] for key in data["keys"])]


# --- turning --------------------------------------------------------------------------------------------------------


def test_a_staged_key_verifies_and_signs_after_the_next_rotation() -> None:
    first = KeyFile.fresh(now=NOW)
    staged = first.stage(now=NOW)
    assert staged.ring().current == first.current.id
    assert staged.staged is not None
    assert staged.staged.id in staged.ring()
    turned = staged.rotate(window=DAY, now=NOW)
    assert turned.current.id == staged.staged.id
    assert [(key.id, key.state, key.until) for key in turned.keys] == [
        (first.current.id, "previous", NOW + DAY),
        (turned.current.id, "current", None),
    ]
    with pytest.raises(KeyRingError, match="staged already"):
        staged.stage(now=NOW)


def test_a_rotation_without_a_staged_key_makes_one_and_drops_what_has_ended() -> None:
    file = KeyFile.fresh(now=NOW)
    for day in range(4):
        file = file.rotate(window=timedelta(days=2), now=NOW + day * DAY)
    assert [key.state for key in file.keys] == ["previous", "previous", "current"]
    assert all(key.until is None or key.until > NOW + 3 * DAY for key in file.keys)


@pytest.mark.threat("A12")
def test_a_token_counts_inside_the_window_of_its_key_and_not_after() -> None:
    now = datetime.now(UTC)
    file = KeyFile.fresh(now=now)
    token = mint(file.ring(), subject="alice", audience="mail")
    inside = file.rotate(window=DAY, now=now)
    assert verify(inside.ring(), token, audience="mail").key_id == file.current.id
    after = file.rotate(window=DAY, now=now - 2 * DAY)
    assert len(after.keys) == 2
    for ring in (after.ring(), inside.retire(file.current.id).ring()):
        with pytest.raises(TokenInvalid) as caught:
            verify(ring, token, audience="mail")
        assert caught.value.code == "token_key_unknown"


def test_names_and_digests_outlive_every_key() -> None:
    file = KeyFile.fresh(now=NOW)
    turned = file.stage(now=NOW).rotate(window=DAY, now=NOW).retire(file.current.id)
    for purpose in ("digest", "answer", "audit"):
        assert file.ring().derive(purpose, "mail") == turned.ring().derive(purpose, "mail")
    for purpose in ("token", "grant", "leg", "record", "held", "ticket"):
        assert file.ring().derive(purpose, "mail") != turned.ring().derive(purpose, "mail")


def test_the_key_that_signs_and_one_that_is_not_there_cannot_be_retired() -> None:
    file = KeyFile.fresh(now=NOW).stage(now=NOW)
    assert file.staged is not None
    with pytest.raises(KeyRingError, match="that key signs"):
        file.retire(file.current.id)
    with pytest.raises(KeyRingError, match="no such key"):
        file.retire("k1")
    assert file.retire(file.staged.id).staged is None


@pytest.mark.parametrize("window", [timedelta(0), -DAY, timedelta(days=3661)])
def test_a_window_is_a_time_ahead(window: timedelta) -> None:
    with pytest.raises(KeyRingError, match="a window lasts"):
        KeyFile.fresh(now=NOW).rotate(window=window, now=NOW)


def test_what_a_secret_or_a_directory_signed_goes_on_under_the_key_file(tmp_path: Path) -> None:
    secret = new_secret()
    folder = tmp_path / "ring"
    for _ in range(3):
        new_key(folder)
    for old, file in (
        (KeyRing.from_secret(secret), KeyFile.of_secret(secret, now=NOW)),
        (KeyRing.from_directory(folder), KeyFile.of_keys(*read_directory(folder), now=NOW)),
    ):
        ring = KeyFile.from_text(file.to_text()).ring()
        assert (ring.current, ring.ids, ring.fingerprint) == (old.current, old.ids, old.fingerprint)
        assert ring.derive("digest", "mail") == old.derive("digest", "mail")
        token = mint(old, subject="alice", audience="mail")
        assert verify(ring, token, audience="mail").key_id == old.current


# --- key directories ------------------------------------------------------------------------------------------------


def test_the_names_of_a_key_directory_outlive_its_first_key(tmp_path: Path) -> None:
    first = new_key(tmp_path / "ring")
    before = KeyRing.from_directory(tmp_path / "ring")
    new_key(tmp_path / "ring")
    (tmp_path / "ring" / f"{first}.key").unlink()
    after = KeyRing.from_directory(tmp_path / "ring")
    assert before.current not in after
    assert before.derive("digest", "mail") == after.derive("digest", "mail")
    assert before.derive("token", "mail") != after.derive("token", "mail")


def test_the_root_of_names_is_no_key_and_does_not_show_one(tmp_path: Path) -> None:
    secret = new_secret()
    ring = KeyRing.from_secret(secret)
    other = KeyRing({"k": ring.names + b"x" * 8}, "k")
    assert ring.derive("token", "mail") not in (other.derive("token", "mail"), ring.names)
    assert secret.encode() not in ring.names


# --- documents ------------------------------------------------------------------------------------------------------


def test_a_document_reads_back_as_it_was() -> None:
    file = KeyFile.fresh(now=NOW).rotate(window=DAY, now=NOW).stage(now=NOW)
    assert KeyFile.from_text(file.to_text()) == file


def changed(change: Callable[[dict[str, Any]], object]) -> str:
    data = json.loads(KeyFile.fresh(now=NOW).rotate(window=DAY, now=NOW).to_text())
    change(data)
    return json.dumps(data)


def weak(secret: bytes) -> Callable[[dict[str, Any]], object]:
    text = base64.urlsafe_b64encode(secret).decode()
    return lambda data: data["keys"][0].update(secret=text)


@pytest.mark.threat("A10")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        "a secret that is long enough to be one, and no document",
        "[" * 100_000,
        changed(lambda data: data.update(version=2)),
        changed(lambda data: data.update(more=1)),
        changed(lambda data: data.pop("names")),
        changed(lambda data: data.update(names="c2hvcnQ=")),
        changed(lambda data: data.update(keys=[])),
        changed(lambda data: data.update(keys={})),
        changed(lambda data: data.update(keys=[1])),
        changed(lambda data: data.update(keys=data["keys"] * 40)),
        changed(lambda data: data["keys"].append(data["keys"][0])),
        changed(lambda data: data["keys"].append({**data["keys"][0], "id": "again"})),
        changed(lambda data: data["keys"][0].update(state="current", until=None)),
        changed(lambda data: data["keys"][1].update(state="previous")),
        changed(lambda data: data["keys"][1].update(until="2030-01-01T00:00:00+00:00")),
        changed(lambda data: data["keys"][0].update(state="old")),
        changed(lambda data: data["keys"][0].update(state=["current"])),
        changed(lambda data: data["keys"][0].update(id="../x")),
        changed(lambda data: data["keys"][0].update(id=1)),
        changed(lambda data: data["keys"][0].update(until="2030-01-01T00:00:00")),
        changed(lambda data: data["keys"][0].update(until="tomorrow")),
        changed(lambda data: data["keys"][0].update(until=5)),
        changed(lambda data: data["keys"][0].update(made=None)),
        changed(lambda data: data["keys"][0].update(note="x")),
        changed(lambda data: data["keys"][0].update(secret=None)),
        changed(lambda data: data["keys"][0].update(secret="no base64 !")),
        changed(weak(b"short")),
        changed(weak(b"x" * 31)),
        changed(weak(b"ab" * 32)),
        changed(weak(b"your-secret-key-here")),
        changed(lambda data: None).replace('"version": 1', '"version": 1, "version": 1'),
    ],
)
def test_what_rotate_would_not_have_written_is_no_key_file(text: str) -> None:
    with pytest.raises(KeyRingError) as caught:
        KeyFile.from_text(text)
    assert str(caught.value)
    assert caught.value.__cause__ is None


# --- the disk -------------------------------------------------------------------------------------------------------


@posix
def test_a_key_file_is_its_owners_alone_and_a_change_leaves_no_copy(path: Path) -> None:
    before = path.stat().st_ino
    mask = os.umask(0)
    try:
        change_key_file(path, lambda file: file.stage(now=NOW))
    finally:
        os.umask(mask)
    assert path.stat().st_ino != before
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [each.name for each in path.parent.iterdir()] == ["keys.json"]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_change_that_fails_leaves_the_old_keys_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    before = path.read_text()

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(keystore.os, broken, fails)
        with pytest.raises(OSError, match="No space"):
            change_key_file(path, lambda file: file.stage(now=NOW))
    assert path.read_text() == before
    assert [each.name for each in path.parent.iterdir()] == ["keys.json"]


def test_changes_at_once_are_made_one_after_the_other(path: Path) -> None:
    def turn() -> None:
        change_key_file(path, lambda file: file.rotate(window=DAY, now=NOW))

    threads = [threading.Thread(target=turn) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_key_file(path).keys) == 9


def test_a_key_file_is_never_made_over_another(path: Path) -> None:
    before = path.read_text()
    with pytest.raises(KeyRingError, match="there already"):
        make_key_file(path, KeyFile.fresh(now=NOW))
    assert path.read_text() == before


@posix
@pytest.mark.threat("FI21")
@pytest.mark.parametrize(
    ("state", "why"),
    [
        ("missing", "make it with: mcp-macaroon keys new"),
        ("group", "chmod 600"),
        ("world", "chmod 600"),
        ("directory", "chmod go-w"),
        ("link", "it is a link"),
        ("dangling", "it is a link"),
        ("pipe", "no ordinary file"),
        ("folder", "Is a directory|no ordinary file"),
        ("bytes", "it is no text"),
        ("large", "it is too large"),
    ],
)
def test_a_key_file_that_somebody_else_could_have_touched_is_neither_read_nor_changed(
    path: Path, state: str, why: str
) -> None:
    shown = secrets_of(path)
    moved = path.with_name("moved")
    if state in ("group", "world"):
        path.chmod(0o640 if state == "group" else 0o604)
    elif state == "directory":
        path.parent.chmod(0o777)
    elif state == "bytes":
        path.write_bytes(b"\xff" * 40)
    elif state == "large":
        path.write_text(path.read_text() + " " * 70_000)
    else:
        path.rename(moved)
    if state == "link":
        path.symlink_to(moved)
    elif state == "dangling":
        path.symlink_to(moved.with_name("gone"))
    elif state == "pipe":
        os.mkfifo(path, 0o600)
    elif state == "folder":
        path.mkdir(0o700)
    for attempt in (read_key_file, lambda place: change_key_file(place, lambda file: file.stage(now=NOW))):
        with pytest.raises(KeyRingError, match=why) as caught:
            attempt(path)
        assert not any(secret in str(caught.value) for secret in shown)
    if state == "link":
        assert path.is_symlink()


@root
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("what", ["file", "directory"])
def test_keys_and_directories_of_another_user_are_refused(path: Path, what: str, whole: bool) -> None:
    if not whole:
        key = path.parent / f"{new_key(path.parent)}.key"
    os.chown((path if whole else key) if what == "file" else path.parent, 12345, -1)
    with pytest.raises(KeyRingError, match="another user's"):
        read_key_file(path) if whole else KeyRing.from_directory(path.parent)
    if what == "directory":
        for attempt in (lambda: change_key_file(path, lambda file: file), lambda: new_key(path.parent)):
            with pytest.raises(KeyRingError, match="another user's"):
                attempt()
