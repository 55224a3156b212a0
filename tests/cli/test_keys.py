"""`mcp-macaroon keys`: makes and lists keys, and shows one only where `--print` asks for it."""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path

import pytest

from mcp_macaroon_middleware.cli import main
from mcp_macaroon_middleware.tokens.keys import KeyRing, new_key, new_secret

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


# --- key files --------------------------------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """A command's exit code, and what it said."""
    code = main(["keys", *map(str, words)])
    said = capsys.readouterr()
    return code, said.out, said.err


def states(capsys: pytest.CaptureFixture[str], path: Path) -> dict[str, str]:
    code, out, _ = run(capsys, "list", path, "--json")
    assert code == 0
    return {key["id"]: key["state"] for key in json.loads(out)["keys"]}


@pytest.fixture
def path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A key file of one key."""
    found = tmp_path / "keys" / "keys.json"
    code, out, _ = run(capsys, "new", found)
    assert code == 0
    assert f"keys: {found}" in out
    return found


def test_a_key_is_staged_put_to_use_and_retired(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (first,) = states(capsys, path)
    code, out, _ = run(capsys, "rotate", path, "--stage")
    assert (code, "restart every server" in out) == (0, True)
    (second,) = set(states(capsys, path)) - {first}
    assert states(capsys, path) == {first: "current", second: "next"}
    code, out, _ = run(capsys, "rotate", path, "--window", "1d12h")
    assert code == 0
    assert f"{second} signs; {first} verifies until " in out
    assert "not staged" not in out
    assert states(capsys, path) == {first: "previous", second: "current"}
    assert run(capsys, "retire", path, second)[0] == 1
    assert run(capsys, "retire", path, first)[:2] == (0, f"retired {first}\n")
    assert states(capsys, path) == {second: "current"}


def test_a_rotation_that_was_not_staged_says_what_that_means(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "rotate", path)
    assert code == 0
    assert "it was not staged: a server that has not restarted yet refuses" in out


def test_an_ended_key_is_listed_as_such_and_retired_without_being_named(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (first,) = states(capsys, path)
    assert run(capsys, "rotate", path, "--window", "1s")[0] == 0
    while states(capsys, path)[first] != "ended":
        time.sleep(0.05)
    assert run(capsys, "retire", path)[:2] == (0, f"retired {first}\n")
    assert run(capsys, "retire", path)[:2] == (0, "no key's window has ended\n")
    assert list(states(capsys, path).values()) == ["current"]


def test_a_list_of_a_key_file_shows_dates_and_fingerprints(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "rotate", path, "--window", "30d")[0] == 0
    code, out, _ = run(capsys, "list", path)
    old, new = (line.split() for line in out.splitlines())
    assert code == 0
    assert [old[1], old[2], old[4], new[1], new[2]] == ["previous", "made", "until", "current", "made"]
    assert len(old) == 7
    assert len(new) == 5
    assert len({old[6], new[4]}) == 2
    assert json.loads(run(capsys, "rotate", path, "--stage", "--json")[1])["current"] == new[0]


def test_L7_no_command_on_a_key_file_shows_a_key(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = ""
    for words in (["rotate", "--stage"], ["rotate"], ["rotate", "--json"], ["list"], ["list", "--json"], ["retire"]):
        code, out, err = run(capsys, words[0], path, *words[1:])
        assert code == 0
        said += out + err
    data = json.loads(path.read_text())
    path.write_text(path.read_text()[:-30])
    for words in (["rotate"], ["list"], ["retire"]):
        code, out, err = run(capsys, words[0], path)
        assert (code, out) == (1, "")
        said += err
    for text in [data["names"], *(key["secret"] for key in data["keys"])]:
        raw = base64.urlsafe_b64decode(text)
        for form in (text, raw.hex(), repr(raw), base64.b64encode(raw).decode()):
            assert form not in said


def test_what_signs_now_moves_into_a_key_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = new_secret()
    monkeypatch.setenv("THE_KEY", secret)
    (tmp_path / "key").write_text(secret + "\n")
    (tmp_path / "key").chmod(0o600)
    ids = [new_key(tmp_path / "ring") for _ in range(2)]
    alone = KeyRing.from_secret(secret).ids
    origins = {"env:THE_KEY": alone, f"file:{tmp_path / 'key'}": alone, str(tmp_path / "ring"): tuple(ids)}
    for number, (origin, kept) in enumerate(origins.items()):
        code, out, _ = run(capsys, "new", tmp_path / "moved" / f"{number}.json", "--from", origin)
        assert (code, secret in out) == (0, False)
        assert tuple(sorted(states(capsys, tmp_path / "moved" / f"{number}.json"))) == kept
    for origin in ("env:NOTHING_OF_THE_KIND", f"file:{tmp_path / 'gone'}", tmp_path / "gone"):
        code, out, err = run(capsys, "new", tmp_path / "moved" / "no.json", "--from", origin)
        assert (code, out) == (1, "")
        assert err
    assert not (tmp_path / "moved" / "no.json").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["rotate"],
        ["rotate", "FILE", "--window", "soon"],
        ["rotate", "FILE", "--window", "999999999w"],
        ["rotate", "FILE", "--window", "1d", "--stage"],
        ["retire"],
        ["rotate", "FOLDER"],
        ["retire", "FOLDER"],
        ["new", "FOLDER", "--from", "env:HOME"],
        ["new", "--print", "--from", "env:HOME"],
    ],
)
def test_a_wrong_call_about_a_key_file_exits_with_2_and_changes_nothing(
    path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    before = path.read_text()
    given = {"FILE": str(path), "FOLDER": str(path.parent)}
    code, _, err = run(capsys, *(given.get(word, word) for word in words))
    assert code == 2, err
    assert path.read_text() == before
    assert [each.name for each in path.parent.iterdir()] == ["keys.json"]


@pytest.mark.parametrize(
    "words", [["new"], ["rotate", "--window", "0s"], ["rotate", "--window", "20000d"], ["retire", "k1"]]
)
def test_what_cannot_be_done_exits_with_1_and_changes_nothing(
    path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    before = path.read_text()
    name, *more = words
    code, out, err = run(capsys, name, path, *more)
    assert (code, out) == (1, "")
    assert err.startswith("mcp-macaroon: ")
    assert path.read_text() == before


@pytest.mark.parametrize("command", ["new", "rotate", "retire", "list"])
def test_every_command_says_its_exit_codes(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert "Exit codes: 0" in out


@pytest.mark.skipif(os.name != "posix", reason="file modes")
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_a_secret_that_others_could_have_read_is_not_taken_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: int
) -> None:
    (tmp_path / "key").write_text(new_secret() + "\n")
    (tmp_path / "key").chmod(mode)
    code, out, err = run(capsys, "new", tmp_path / "keys.json", "--from", f"file:{tmp_path / 'key'}")
    assert (code, out) == (1, "")
    assert f"run: chmod 600 {tmp_path / 'key'}" in err
    assert not (tmp_path / "keys.json").exists()


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_the_directory_where_one_stands_is_named_as_it_was_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ". holds no key" in run(capsys, "list", ".")[2]
    tmp_path.chmod(0o777)
    for words in (["list", "."], ["new", "."], ["new", "keys.json"]):
        assert "the key directory .; run: chmod go-w ." in run(capsys, *words)[2]
