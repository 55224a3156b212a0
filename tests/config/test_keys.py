"""Where a policy's keys come from: what is written, what is fetched, what stops the start, and what nobody sees."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mcp_macaroon_middleware.adapters.discharging import discharge_service
from mcp_macaroon_middleware.cli import main
from mcp_macaroon_middleware.config import key_sources
from mcp_macaroon_middleware.config.compile import compile_file
from mcp_macaroon_middleware.config.keys import load_keys
from mcp_macaroon_middleware.config.runtime import load_runtime
from mcp_macaroon_middleware.errors import ConfigError, Diagnostic
from mcp_macaroon_middleware.tokens import keys
from mcp_macaroon_middleware.tokens.keyfile import KeyFile
from mcp_macaroon_middleware.tokens.keys import KeyRing, new_secret
from mcp_macaroon_middleware.tokens.keystore import read_key_file

Write = Callable[..., Path]

SECRET = "Xy7-the-secret-of-a-safe-long-enough-for-a-key"
SAFE = f'''
"""A safe."""
import threading, time
from mcp_macaroon_middleware.plugin import KeySourceContext, KeySourceType, PluginError, Settings, hookimpl

class Box(Settings):
    box: str

def fetch(name, context):
    if name == "hangs":
        time.sleep(30)
    if name == "raises":
        raise RuntimeError("{SECRET}")
    if name == "tells":
        raise PluginError("the safe is shut;\\nask its owner")
    if name == "exits":
        raise SystemExit(0)
    if name == "box":
        return context.settings.box
    if name == "thread":
        return threading.current_thread().name + " is no place for a key, and no key"
    kept = {{"key": "{SECRET}", "short": "short", "same": "a" * 64, "none": None, "empty": "", "bytes": b"x" * 64}}
    return kept[name]

@hookimpl
def macaroon_key_sources():
    return (
        KeySourceType(scheme="safe", fetch=fetch, timeout=0.5),
        KeySourceType(scheme="boxed", fetch=fetch, settings=Box),
    )
'''


@pytest.fixture
def safe(write: Write) -> Callable[..., Path]:
    """Writes a policy file that keeps its key in the safe."""
    write(SAFE, "safe.py")

    def written(config: str, plugins: str = "") -> Path:
        return write(f"config:\n  default: deny\n  {config}\nplugins:\n  files: [./safe.py]\n{plugins}policies: []\n")

    return written


def loaded(path: Path) -> KeyRing:
    ring, problems = load_keys(compile_file(path))
    assert ring is not None, problems
    return ring


def problem(path: Path) -> Diagnostic:
    """The one thing that stops the start."""
    with pytest.raises(ConfigError) as caught:
        load_runtime(path)
    assert SECRET not in str(caught.value)
    (found,) = caught.value.diagnostics
    return found


# --- what a reference brings ----------------------------------------------------------------------------------------


def test_a_key_comes_from_the_source_that_owns_its_scheme(safe: Callable[..., Path]) -> None:
    ring = loaded(safe("secret_key: safe:key"))
    assert ring.derive("token", "mail") == KeyRing.from_secret(SECRET).derive("token", "mail")


@pytest.mark.parametrize("form", ["${THE_KEY}", "{env: THE_KEY}", "env:THE_KEY", "{file: key}", "file:key"])
def test_variables_and_files_are_sources_too_in_every_way_to_write_them(
    write: Write, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setenv("THE_KEY", SECRET)
    write(SECRET + "\n", "key")
    path = write(f"config: {{default: deny, secret_key: {json.dumps(form) if form[0] != '{' else form}}}\npolicies: []")
    compiled = compile_file(path)
    ring, problems = load_keys(compiled)
    assert problems == []
    assert ring is not None
    assert ring.current == KeyRing.from_secret(SECRET).current


def test_a_whole_ring_comes_from_a_key_file_or_a_source(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["keys", "new", str(tmp_path / "keys.json")]) == 0
    assert main(["keys", "rotate", str(tmp_path / "keys.json")]) == 0
    expected = read_key_file(tmp_path / "keys.json").ring()
    monkeypatch.setenv("THE_RING", (tmp_path / "keys.json").read_text())
    for place in ("./keys.json", str(tmp_path / "keys.json"), "file:keys.json", "env:THE_RING"):
        ring = loaded(write(f"config: {{default: deny, keys: '{place}'}}\npolicies: []"))
        assert (ring.current, ring.ids, ring.fingerprint) == (expected.current, expected.ids, expected.fingerprint)
        assert ring.derive("digest", "a") == expected.derive("digest", "a")


def test_the_secret_of_a_third_party_comes_from_a_source_too(safe: Callable[..., Path]) -> None:
    config = "audience: mail\n  secret_key: safe:key\n  third_party: [{location: idp, key: 'safe:KEY'}]\n  tokens: {}"
    made = load_runtime(safe(config.replace("KEY", "key")))
    made.close_now()
    found = problem(safe(config.replace("KEY", "tells")))
    assert "the key source 'safe' brought no key: the safe is shut; ask its owner" in found.message
    assert found.line == 5


def test_a_sources_settings_are_its_section(safe: Callable[..., Path]) -> None:
    path = safe("secret_key: boxed:box", f"  safe: {{box: '{SECRET}'}}\n")
    assert loaded(path).current == KeyRing.from_secret(SECRET).current


def test_a_source_is_asked_at_the_start_in_a_thread_of_its_own_and_by_no_request_or_reload(
    safe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = load_runtime(safe("secret_key: safe:thread"))
    asked: list[Any] = []
    monkeypatch.setattr(key_sources, "in_time", lambda *given: asked.append(given))
    try:
        assert made.reload_now()
        assert asked == []
        assert made.keys.current == KeyRing.from_secret("macaroon-key-source is no place for a key, and no key").current
    finally:
        made.close_now()


# --- what stops the start -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "says"),
    [("safe", ""), ("safr", "mean 'safe'?"), ("boxd", "mean 'boxed'?"), ("fille", "mean 'file'?"), ("q9x", "")],
)
@pytest.mark.parametrize("key", ["secret_key", "keys"])
def test_a_scheme_of_nobodys_is_an_error_with_its_place_and_the_known_ones(
    safe: Callable[..., Path], word: str, says: str, key: str
) -> None:
    found = problem(safe(f"{key}: {word}:some/path/that/is/long/enough/to/be/taken/for/a/literal#field"))
    if word == "safe":
        assert found.code == "reference_missing"  # it is known, and has no such thing
        return
    assert found.code == "unknown_key_source"
    assert (found.line, found.column) == (3, 5 + len(key))
    assert says in found.hint
    assert "known key sources are boxed, env, file, safe" in found.hint
    assert ("no key source of that name" in found.message) == (not says)  # it may be the start of a secret


def test_a_text_with_a_scheme_is_never_taken_for_the_key_itself(write: Write) -> None:
    """A misspelt reference would be a key that everybody can read in the repository."""
    path = write("config: {default: deny, secret_key: 'vautl:secret/data/production/mail#signing_key'}\npolicies: []")
    assert problem(path).code == "unknown_key_source"


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("hangs", "reference_missing", "it did not answer within 0.5 seconds"),
        ("raises", "reference_missing", "brought no key: RuntimeError"),
        ("exits", "reference_missing", "brought no key: RuntimeError"),
        ("unknown", "reference_missing", "brought no key: KeyError"),
        ("none", "reference_missing", "brought no text"),
        ("bytes", "reference_missing", "brought no text"),
        ("empty", "reference_missing", "brought no text"),
        ("tells", "reference_missing", "the safe is shut; ask its owner"),
        ("short", "keys_invalid", "at least 32 bytes, this one has 5"),
        ("same", "keys_invalid", "hardly any different"),
    ],
)
@pytest.mark.threat("A10")
def test_a_source_that_fails_hangs_or_brings_no_key_stops_the_start_in_time_and_shows_nothing(
    safe: Callable[..., Path], caplog: pytest.LogCaptureFixture, name: str, code: str, says: str
) -> None:
    caplog.set_level(logging.DEBUG)
    began = time.monotonic()
    found = problem(safe(f"secret_key: safe:{name}"))
    assert time.monotonic() - began < 5
    assert (found.code, found.line) == (code, 3)
    assert says in found.message
    assert SECRET not in caplog.text + found.render()


@pytest.mark.parametrize("text", ["key", "short", "same"])
def test_what_is_no_key_file_is_no_ring(safe: Callable[..., Path], text: str) -> None:
    found = problem(safe(f"keys: safe:{text}"))
    assert found.code == "keys_invalid"
    assert "it is no key file" in found.message


def test_a_source_without_the_section_that_it_needs_is_an_error(safe: Callable[..., Path]) -> None:
    found = problem(safe("secret_key: boxed:box"))
    assert found.code == "section_missing"
    assert "'safe'" in found.message


def test_the_sections_of_key_sources_change_only_with_a_restart(safe: Callable[..., Path]) -> None:
    made = load_runtime(safe("secret_key: boxed:box", f"  safe: {{box: '{SECRET}'}}\n"))
    try:
        safe("secret_key: boxed:box", f"  safe: {{box: '{SECRET}2'}}\n")
        assert not made.reload_now()
        assert "cannot change while the server runs" in str(made.status())
    finally:
        made.close_now()


def test_a_key_file_that_others_can_read_is_refused_in_either_way_to_name_it(write: Write, tmp_path: Path) -> None:
    assert main(["keys", "new", str(tmp_path / "keys.json")]) == 0
    (tmp_path / "keys.json").chmod(0o640)
    for place in ("./keys.json", "file:keys.json"):
        found = problem(write(f"config: {{default: deny, keys: '{place}'}}\npolicies: []"))
        assert "chmod 600" in found.message


@pytest.mark.skipif(os.name != "posix", reason="file modes")
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o602])
@pytest.mark.parametrize("form", ["{file: key}", "'file:key'"])
@pytest.mark.parametrize("place", ["secret_key", "third_party", "discharges"])
@pytest.mark.threat("L07", "A10")
def test_no_secret_is_taken_from_a_file_that_others_could_have_read_or_written(
    write: Write, tmp_path: Path, place: str, form: str, mode: int
) -> None:
    write(SECRET + "\n", "key").chmod(mode)
    config = {
        "secret_key": f"secret_key: {form}",
        "third_party": f"tokens: {{}}, third_party: [{{location: idp, key: {form}}}]",
        "discharges": f"discharges: {{location: idp, key: {form}}}",
    }[place]
    path = write(f"config: {{default: deny, audience: mail, {config}}}\npolicies: []")
    start = discharge_service if place == "discharges" else load_runtime
    with pytest.raises(ConfigError) as caught:
        start(path)
    (found,) = caught.value.diagnostics
    assert (found.code, found.line) == ("secret_open", 1)
    assert f"run: chmod 600 {tmp_path / 'key'}" in found.message
    (tmp_path / "key").chmod(0o600)
    if place != "discharges":
        load_runtime(path).close_now()


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_a_secret_on_a_read_only_file_system_is_taken_as_it_was_mounted(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(SECRET + "\n", "mounted").chmod(0o444)
    (tmp_path / "key").symlink_to("mounted")
    path = write("config: {default: deny, secret_key: {file: key}}\npolicies: []")
    assert problem(path).code == "secret_open"
    monkeypatch.setattr(keys, "is_read_only", lambda path: True)
    assert loaded(path).current == KeyRing.from_secret(SECRET).current


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_a_secret_that_is_another_users_is_not_taken(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(SECRET + "\n", "key")
    path = write("config: {default: deny, secret_key: {file: key}}\npolicies: []")
    if os.geteuid() == 0:
        os.chown(tmp_path / "key", 54321, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 54321)
    assert "another user's" in problem(path).message


def test_check_without_secrets_takes_a_source_that_cannot_be_asked_for_a_warning(
    safe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = safe("secret_key: safe:tells")
    assert main(["check", str(path)]) == 2
    assert main(["check", str(path), "--no-secrets"]) == 0
    assert "the safe is shut" in capsys.readouterr().out


def test_two_plugins_with_one_scheme_stop_the_start(safe: Callable[..., Path], write: Write) -> None:
    write(SAFE, "other.py")
    path = safe("secret_key: safe:key")
    path.write_text(path.read_text().replace("[./safe.py]", "[./safe.py, ./other.py]"))
    with pytest.raises(ConfigError, match="two key sources named 'safe'"):
        load_runtime(path)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("scheme='x', fetch=fetch", "cannot be the name of a key source"),
        ("scheme='two words', fetch=fetch", "cannot be the name of a key source"),
        ("scheme='safe', fetch=None", "fetch cannot be called"),
        ("scheme='safe', fetch=fetch, timeout=0", "timeout is not a number"),
        ("scheme='safe', fetch=fetch, timeout=3600", "timeout is not a number"),
    ],
)
def test_a_bad_description_of_a_source_stops_the_start(write: Write, fault: str, says: str) -> None:
    code = "from mcp_macaroon_middleware.plugin import KeySourceType\ndef fetch(name, context): return name\n"
    write(f"{code}BAD = KeySourceType({fault})\n", "bad.py")
    path = write("config: {default: deny}\nplugins: {files: [./bad.py]}\npolicies: []")
    with pytest.raises(ConfigError, match=says):
        load_runtime(path)


def test_L7_no_repr_of_a_key_file_shows_a_key() -> None:
    secret = new_secret()
    file = KeyFile.of_secret(secret, now=datetime.now(UTC))
    assert secret not in repr(file) + repr(file.keys) + repr(file.ring())
    assert repr(secret.encode()) not in repr(file)


def test_L7_the_secret_of_a_third_party_that_is_written_out_and_too_short_is_not_shown(write: Write) -> None:
    parties = "third_party: [{location: idp, key: hunter2-hunter2}]"
    path = write(f"config: {{default: deny, audience: mail, tokens: {{}}, {parties}}}\npolicies: []")
    with pytest.raises(ConfigError, match="the shared secret: a key has at least 32 bytes") as caught:
        load_runtime(path)
    assert "hunter2" not in str(caught.value)
