"""`mcp-macaroon keys`: makes and lists keys, and shows one only where `--print` asks for it."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from mcp_macaroon_middleware.cli import main
from mcp_macaroon_middleware.tokens.keys import KeyRing, new_key

posix = pytest.mark.skipif(os.name != "posix", reason="file modes")


def secrets_of(folder: Path) -> list[str]:
    """Every form in which a key of this folder could be shown."""
    found = []
    for path in folder.glob("*.key"):
        text = path.read_text().strip()
        raw = base64.urlsafe_b64decode(text)
        found += [text, raw.hex(), repr(raw), base64.b64encode(raw).decode()]
    return found


@posix
def test_new_makes_a_key_that_only_its_owner_can_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "deep" / "keys"
    before = os.umask(0)
    try:
        assert main(["keys", "new", str(folder)]) == 0
    finally:
        os.umask(before)
    (path,) = folder.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    said = capsys.readouterr()
    assert KeyRing.from_directory(folder).current in said.out
    assert f"keys: {folder}" in said.out
    assert said.err == ""


def test_a_second_key_signs_and_the_first_still_verifies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "keys"
    assert [main(["keys", "new", str(folder)]) for _ in range(2)] == [0, 0]
    capsys.readouterr()
    assert main(["keys", "list", str(folder)]) == 0
    ring = KeyRing.from_directory(folder)
    older = min(ring.ids)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[:2] for row in rows] == [[older, "previous"], [ring.current, "current"]]
    assert older != ring.current


def test_list_json_is_one_object_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = sorted(new_key(tmp_path / "keys") for _ in range(2))
    assert main(["keys", "list", str(tmp_path / "keys"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["current"], said["ids"]) == (ids[-1], ids)
    assert [(key["id"], key["state"]) for key in said["keys"]] == [(ids[0], "previous"), (ids[1], "current")]


def test_L7_no_command_on_a_directory_shows_a_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "keys"
    for words in (["new"], ["new"], ["list"], ["list", "--json"]):
        assert main(["keys", words[0], str(folder), *words[1:]]) == 0
    (folder / "zz.key").write_text("broken, but still a secret")
    (folder / "zz.key").chmod(0o600)
    assert main(["keys", "list", str(folder)]) == 1
    assert main(["keys", "new", str(folder)]) == 1
    said = capsys.readouterr()
    (folder / "zz.key").unlink()
    for secret in [*secrets_of(folder), "still a secret"]:
        assert secret not in said.out + said.err


def test_print_shows_one_fresh_usable_secret_and_stores_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    texts = []
    for _ in range(2):
        assert main(["keys", "new", "--print"]) == 0
        said = capsys.readouterr()
        texts.append(said.out)
        assert said.err == ""
    for text in texts:
        assert text == text.strip() + "\n"
        assert KeyRing.from_secret(text.strip()).current
    assert texts[0] != texts[1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["new"], ["new", "somewhere", "--print"], ["list"], ["new", "a", "b"], ["newer"]])
def test_a_wrong_call_exits_with_2_and_makes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["keys", *words]) == 2
    assert capsys.readouterr() != ("", "")
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_cannot_be_made_exits_with_1_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for path, why in ((tmp_path / "file", "File exists"), (tmp_path / "file" / "keys", "Not a directory")):
        assert main(["keys", "new", str(path)]) == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert why in said.err


@posix
@pytest.mark.threat("FI21")
@pytest.mark.parametrize(
    ("state", "why"),
    [
        ("missing", "make it with: mcp-macaroon keys new"),
        ("empty", "make one with: mcp-macaroon keys new"),
        ("open file", "chmod 600"),
        ("open directory", "chmod go-w"),
        ("damaged", "is damaged"),
    ],
)
def test_a_directory_without_a_usable_ring_exits_with_1_and_names_the_next_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], state: str, why: str
) -> None:
    folder = tmp_path / "keys"
    if state != "missing":
        path = folder / f"{new_key(folder)}.key"
        if state == "empty":
            path.unlink()
        elif state == "open file":
            path.chmod(0o640)
        elif state == "open directory":
            folder.chmod(0o777)
        else:
            path.write_text("no base64 !")
    assert main(["keys", "list", str(folder)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert why in said.err
