"""`mcp-macaroon token`: tokens made, narrowed, looked into, checked and revoked from a shell; never shown."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from redis_server import BINARIES, RedisServer, running

import mcp_macaroon_middleware
from mcp_macaroon_middleware.cli import main, token_reasons
from mcp_macaroon_middleware.tokens import KeyRing, attenuate, inspect, mint, verify
from mcp_macaroon_middleware.tokens.macaroons import append, from_text, sign, to_text

SECRET = "a secret of at least thirty-two bytes, for tests only"
SHARED = "another secret of at least 32 bytes, which a login service has"
KEYS = KeyRing.from_secret(SECRET)
POLICY = """\
config:
  default: deny
  audience: mail
  tokens: {}
  store: STORE
  third_party: [{location: login, key: {env: LOGIN_KEY}, condition: a second factor}]
policies:
  - bf:*:tool_access:allow
"""
posix = pytest.mark.skipif(os.name != "posix", reason="file modes")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MACAROON_SECRET_KEY", SECRET)
    monkeypatch.setenv("LOGIN_KEY", SHARED)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("MACAROON_TOKEN", raising=False)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return written(tmp_path / "policies.yaml", POLICY.replace("STORE", "memory"))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """One command in this process: its exit code, and what it wrote to standard output and standard error."""

    def ran(*words: str | Path, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8"))
        code = main(["token", *map(str, words)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return ran


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path


def token(*caveats: str, **fields: Any) -> str:
    return mint(KEYS, **{"subject": "alice", "audience": "mail", "caveats": caveats, **fields})


def older(**names: str) -> str:
    """A token with names that are not minted any more, signed by hand: some were minted once."""
    facts = json.loads(from_text(token()).identifier)
    keys = {"subject": "s", "tenant": "t"}
    changed = {**facts, **{keys[name]: text for name, text in names.items()}}
    identifier = json.dumps(changed, sort_keys=True, separators=(",", ":")).encode()
    end = "time<20990101T000000Z"
    return to_text(sign(KEYS.derive("token", "mail"), location="mail", identifier=identifier, caveats=[end]))


def process(*words: str | Path, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """The real command, as a shell starts it."""
    return subprocess.run(
        [sys.executable, "-m", "mcp_macaroon_middleware", "token", *map(str, words)],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


# --- mint -----------------------------------------------------------------------------------------------------------


def test_mint_prints_the_token_alone_and_says_on_standard_error_what_it_allows(run: Run, policy: Path) -> None:
    code, out, err = run("mint", "--config", policy, "--principal", "alice", "--expires", "8h", "--only-tools", "a,b_*")
    assert code == 0
    found = verify(KEYS, out.removesuffix("\n"), audience="mail")
    assert (found.subject, found.caveats) == ("alice", ("bf:*:tool_access:only:a:b_*",))
    assert found.expires - found.issued_at == timedelta(hours=8)
    assert "Allows only the tool a or any tool named b_*, and nothing else." in err
    assert "8 hours left" in err
    assert out.strip() not in err


def test_mint_takes_every_part_of_a_principal_and_ends_after_an_hour_by_default(run: Run, policy: Path) -> None:
    words = ("--principal", "alice", "--issuer", "https://idp", "--tenant", "acme", "--client", "cli", "--quiet")
    code, out, err = run("mint", "--config", policy, *words)
    found = verify(KEYS, out.strip(), audience="mail")
    assert (code, err) == (0, "")
    assert (found.namespace, found.tenant, found.client) == ("https://idp", "acme", "cli")
    assert found.expires - found.issued_at == timedelta(hours=1)


@posix
@pytest.mark.parametrize("command", ["mint", "attenuate"])
def test_a_token_file_is_its_owners_alone_and_is_replaced_only_with_force(
    run: Run, policy: Path, tmp_path: Path, command: str
) -> None:
    path = tmp_path / "a.token"
    given = ["mint", "--config", policy, "--principal", "alice"] if command == "mint" else ["attenuate"]
    words, stdin = [*given, "-o", path], "" if command == "mint" else token()
    before = os.umask(0)
    try:
        assert run(*words, stdin=stdin)[:2] == (0, "")
        first = path.read_text()
        code, out, err = run(*words, stdin=stdin)
        assert (code, out, path.read_text()) == (2, "", first)
        assert "--force" in err
        path.chmod(0o644)
        assert run(*words, "--force", stdin=stdin)[0] == 0
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() != first
    assert verify(KEYS, path.read_text().strip(), audience="mail")
    assert [each.name for each in tmp_path.iterdir() if "token" in each.name] == ["a.token"]


@posix
def test_a_token_is_never_written_through_a_link_that_somebody_laid(run: Run, policy: Path, tmp_path: Path) -> None:
    victim = written(tmp_path / "victim", "precious")
    (tmp_path / "a.token").symlink_to(victim)
    words = ("mint", "--config", policy, "--principal", "alice", "-o", tmp_path / "a.token")
    assert run(*words)[0] == 2
    assert run(*words, "--force")[0] == 0
    assert victim.read_text() == "precious"
    assert run(*words[:-1], tmp_path / "no folder" / "a.token")[0] == 1


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--expires", "367d"], "366 days at most"),
        (["--expires", "9999999w"], "366 days at most"),
        (["--expires", "0s"], "more than nothing"),
        (["--expires", "2001-01-01T00:00:00Z"], "in the past"),
        (["--expires", "2031-01-31T18:00"], "time zone"),
        (["--expires", "soon"], "reads"),
        (["--only-tools", "a,,b"], "an empty name"),
        (["--argument", "folder=inbox"], "TOOL:ARGUMENT=VALUE"),
        (["--rule", "bf:x:tool_acess:deny"], "did you mean 'tool_access'"),
        (["--rule", "bf:x:tool_access:allow"], "refuses nothing"),
        (["--rule", "bf:x"], "the policy is missing"),
        (["--rule", "branch<AAAAAAAAAAAAAAAAAAAAAA"], "written by attenuate itself"),
        (["--without-field", "a..b"], "field_access"),
        (["--limit", "often"], "is no limit"),
        (["--require", "nobody"], "there are: login"),
    ],
)
def test_mint_makes_nothing_of_what_it_cannot_mean(run: Run, policy: Path, words: list[str], why: str) -> None:
    code, out, err = run("mint", "--config", policy, "--principal", "alice", *words)
    assert (code, out) == (2, "")
    assert why in err


def test_mint_refuses_nobody_and_what_is_no_text(run: Run, policy: Path) -> None:
    assert run("mint", "--config", policy, "--principal", "")[0] == 2
    assert run("mint", "--config", policy, "--principal", "a\udc80")[0] == 2
    assert run("mint", "--config", policy, "--principal", "a", "--rule", "bf:a\udc80:tool_access:deny")[0] == 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("config: {default: deny}\npolicies: []\n", "config.audience"),
        ("config: {default: deny, audience: mail}\npolicies: ['bf:x']\n", "the policy is missing"),
        ("config: {default: deny, audience: mail, secret_key: short}\npolicies: []\n", "32"),
    ],
)
def test_a_file_that_cannot_mint_is_told_everything_that_is_wrong(
    run: Run, tmp_path: Path, text: str, why: str
) -> None:
    code, out, err = run("mint", "--config", written(tmp_path / "p.yaml", text), "--principal", "alice")
    assert (code, out) == (2, "")
    assert why in err
    assert run("mint", "--config", tmp_path / "none.yaml", "--principal", "alice")[0] == 2


def test_mint_warns_where_the_server_of_the_file_takes_no_token(run: Run, tmp_path: Path) -> None:
    path = written(tmp_path / "p.yaml", "config: {default: deny, audience: mail}\npolicies: []\n")
    code, out, err = run("mint", "--config", path, "--principal", "alice", "--quiet")
    assert (code, out[:3]) == (0, "mm_")
    assert "no tokens section" in err


# --- attenuate ------------------------------------------------------------------------------------------------------


def test_attenuate_needs_no_key_and_adds_what_each_option_says(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MACAROON_SECRET_KEY")
    words = ["--only-tools", "search,read_*", "--without-tools", "delete_*", "--without-field", "email,read_mail:a\\.b"]
    words += ["--limit", "10/minute", "--limit", "search:3/day", "--argument", "read_mail:folder=inbox,work"]
    words += ["--rule", "bf:x:tool_access:elicit", "--expires", "5m"]
    code, out, _ = run("attenuate", *words, stdin=token() + "\n")
    assert code == 0
    found = verify(KEYS, out.strip(), audience="mail")
    assert found.caveats == (
        "bf:*:tool_access:only:search:read_*",
        "bf:delete_*:tool_access:deny",
        "af:*:field_access:deny:email",
        "af:read_mail:field_access:deny:a\\.b",
        "bf:read_mail:argument_allowlist:allow:folder:inbox:work",
        "bf:tool=*:rate_limit:allow:10/minute",
        "bf:search:rate_limit:allow:3/day",
        "bf:x:tool_access:elicit",
    )
    assert found.expires - datetime.now(UTC) <= timedelta(minutes=5)
    assert len(found.branches) == 1


def test_a_name_with_colons_and_backslashes_stays_the_name_that_was_meant(run: Run) -> None:
    code, out, _ = run("attenuate", "--only-tools", "resource=mail://a,x\\", stdin=token())
    assert code == 0
    assert inspect(out.strip()).rules == ("bf:*:tool_access:only:resource=mail\\://a:x\\\\",)


def test_the_token_comes_from_a_file_then_standard_input_then_the_environment(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {name: token(subject=name) for name in ("file", "stdin", "environment")}
    monkeypatch.setenv("MACAROON_TOKEN", texts["environment"])
    path = written(tmp_path / "a.token", texts["file"] + "\n")
    for words, stdin, name in (
        (["--token-file", path], texts["stdin"], "file"),
        ([], texts["stdin"], "stdin"),
        ([], "", "environment"),
    ):
        code, out, _ = run("attenuate", "--expires", "1m", *words, stdin=stdin)
        assert (code, inspect(out.strip()).subject) == (0, name)


@pytest.mark.parametrize("command", ["attenuate", "inspect", "verify", "revoke", "bind", "mint", "discharge"])
@pytest.mark.parametrize("shape", ["{}", "--token={}", "--token-file={}", "x={}"])
def test_a_token_on_the_command_line_is_refused_and_not_repeated(command: str, shape: str, run: Run) -> None:
    text = token()
    code, out, err = run(command, shape.format(text))
    assert (code, out) == (2, "")
    assert "does not belong on the command line" in err
    assert text not in err
    assert text[3:40] not in err


@pytest.mark.parametrize("command", ["attenuate", "inspect"])
def test_no_token_two_tokens_or_a_stray_word_is_a_wrong_call(run: Run, command: str, tmp_path: Path) -> None:
    for words, stdin, why in (
        ([], "", "no token was given"),
        ([], f"{token()}\n{token()}\n", "more than one token"),
        ([], f"Bearer {token()}", "more than one token"),
        (["word"], token(), "unexpected words"),
        (["--token-file", tmp_path / "none"], "", "cannot read"),
        ([], "x" * 600_000, "more than tokens can be"),
    ):
        code, out, err = run(command, *words, stdin=stdin)
        assert (code, out) == (2, "")
        assert why in err
        assert "mm_" not in err


@pytest.mark.parametrize("command", ["attenuate", "inspect"])
def test_what_is_no_token_exits_with_1_and_one_line_that_does_not_repeat_it(run: Run, command: str) -> None:
    for text in ("password-of-somebody", token()[:-4], token() + "A", "mm_", "\x00\xff"):
        code, out, err = run(command, stdin=text)
        assert (code, out) == (1, "")
        assert err.count("\n") == 1
        assert text not in err


def test_attenuate_warns_of_what_changes_nothing_and_of_what_leaves_nothing(run: Run) -> None:
    text = token("bf:*:tool_access:only:read_*", "bf:x:tool_access:deny", expires=timedelta(minutes=5))
    for words, why in (
        (["--expires", "1h"], "--expires changes nothing"),
        (["--rule", "bf:x:tool_access:deny"], "has it already"),
        (["--only-tools", "read_*,search"], "allows no more than that already"),
        (["--only-tools", "send_mail"], "leaves nothing: the token allows only read_*"),
        ([], "nothing is added but a branch"),
    ):
        code, out, err = run("attenuate", *words, "-q", stdin=text)
        assert (code, out[:3]) == (0, "mm_")
        assert why in err, words
    for words in (["--expires", "1m"], ["--only-tools", "read_mail"], ["--only-tools", "*_mail"], ["--limit", "1/day"]):
        assert run("attenuate", *words, "-q", stdin=text)[2] == ""
    ended = token(now=datetime(2020, 1, 1, tzinfo=UTC))
    assert "has ended already" in run("attenuate", "--expires", "1m", "-q", stdin=ended)[2]


def test_a_rule_of_a_policy_that_is_not_installed_here_needs_unchecked(run: Run) -> None:
    words = ("--rule", "bf:x:office_hours:allow:9:17")
    assert run("attenuate", *words, stdin=token())[0] == 2
    code, out, _ = run("attenuate", *words, "--unchecked", stdin=token())
    assert (code, inspect(out.strip()).rules) == (0, ("bf:x:office_hours:allow:9:17",))


def test_a_token_that_would_grow_past_its_limits_is_not_made(run: Run) -> None:
    code, out, err = run("attenuate", *["--rule", "bf:x:tool_access:deny"] * 70, stdin=token())
    assert (code, out) == (1, "")
    assert "[token_too_large]" in err


# --- inspect --------------------------------------------------------------------------------------------------------


def test_inspect_says_everything_in_words_and_that_the_signature_is_not_checked(run: Run) -> None:
    text = attenuate(token("bf:*:tool_access:only:read_*"), expires=timedelta(minutes=5))
    said = inspect(text)
    code, out, err = run("inspect", stdin=text)
    assert (code, err) == (0, "")
    for part in (*said.lineage, said.key_id, "alice", "mail", "signature not checked: no key", "It is the first end"):
        assert part in out
    assert "Allows only any tool named read_*, and nothing else." in out
    assert text not in out


def test_inspect_json_is_one_document_in_which_nothing_is_hidden(run: Run) -> None:
    text = append(older(subject="al\u202eice"), "bf:\u200bx\x1b[2J:tool_access:deny")
    code, out, _ = run("inspect", "--json", stdin=text)
    found = json.loads(out)
    assert (code, out.isascii(), found["signature"], found["subject"]) == (0, True, "not checked", "al\u202eice")
    assert [each["kind"] for each in found["caveats"]] == ["end", "rule"]
    assert found["caveats"][1]["words"].isprintable()


@pytest.mark.parametrize("mark", ["\u202e", "\u200b", "\x1b", "\r", "\u2028", "\U000e0041"])
def test_no_hidden_character_of_a_token_reaches_the_terminal(run: Run, mark: str) -> None:
    text = append(older(subject=f"al{mark}ice", tenant=f"{mark}t"), f"bf:{mark}x:tool_access:deny")
    for command in (["inspect"], ["inspect", "--json"], ["attenuate", "--expires", "1m"]):
        _, out, err = run(*command, stdin=text)
        assert mark not in out + err, command


def test_inspect_tells_a_token_that_has_ended(run: Run) -> None:
    assert "It ended" in run("inspect", stdin=token(now=datetime(2020, 1, 1, tzinfo=UTC)))[1]


def test_colours_are_for_terminals_only(run: Run, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b" not in run("inspect", stdin=token())[1]
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in run("inspect", stdin=token())[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in run("inspect", stdin=token())[1]
    monkeypatch.delenv("NO_COLOR")
    code, out, _ = run("mint", "--config", policy, "--principal", "alice")
    assert (code, "\x1b" in out) == (0, False)


# --- verify ---------------------------------------------------------------------------------------------------------


def test_a_chain_of_real_processes_mints_narrows_twice_and_verifies(policy: Path) -> None:
    command = f'"{sys.executable}" -m mcp_macaroon_middleware token'
    chain = (
        f'{command} mint --config "{policy}" --principal alice --expires 8h'
        f" | env -u MACAROON_SECRET_KEY -u LOGIN_KEY {command} attenuate --only-tools 'read_*,search'"
        f" | env -u MACAROON_SECRET_KEY -u LOGIN_KEY {command} attenuate --only-tools search --expires 5m"
        f' | {command} verify --config "{policy}" --json'
    )
    done = subprocess.run(["bash", "-o", "pipefail", "-c", chain], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    rules = [each["text"] for each in found["caveats"] if each["kind"] == "rule"]
    assert (found["valid"], found["signature"], found["subject"]) == (True, "valid", "alice")
    assert rules == ["bf:*:tool_access:only:read_*:search", "bf:*:tool_access:only:search"]
    assert len(found["branches"]) == 2
    assert found["revocation"] == "not looked up"


def test_a_shell_variable_holds_the_token_and_nothing_else(policy: Path) -> None:
    command = f'"{sys.executable}" -m mcp_macaroon_middleware token mint --config "{policy}" --principal alice'
    shell = ["bash", "-c", f'T=$({command} 2>/dev/null); printf %s "$T"']
    done = subprocess.run(shell, capture_output=True, text=True, check=True)
    assert verify(KEYS, done.stdout, audience="mail").subject == "alice"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (token(audience="bank"), "token_audience"),
        (token(now=datetime(2020, 1, 1, tzinfo=UTC)), "token_expired"),
        (mint(KeyRing.from_secret(SHARED), subject="alice", audience="mail"), "token_key_unknown"),
        (mint(KeyRing({KEYS.current: SHARED.encode()}, KEYS.current), subject="a", audience="mail"), "token_signature"),
        (append(token(), "time<soon"), "token_caveat"),
        ("nonsense", "token_format"),
    ],
)
def test_verify_says_why_a_token_does_not_count(run: Run, policy: Path, text: str, code: str) -> None:
    exit_code, out, err = run("verify", "--config", policy, stdin=text)
    assert (exit_code, err) == (1, "")
    assert out == f"not valid: {token_reasons.in_words(code)}\n"
    exit_code, out, _ = run("verify", "--config", policy, "--json", stdin=text)
    assert (exit_code, json.loads(out)["valid"], json.loads(out)["code"]) == (1, False, code)


def test_verify_says_that_a_memory_store_cannot_know_of_revocations(run: Run, policy: Path) -> None:
    code, out, _ = run("verify", "--config", policy, stdin=token())
    assert (code, out.splitlines()[0][:5]) == (0, "valid")
    assert "not looked up: the store of this file is memory" in out


def test_verify_warns_of_a_caveat_that_the_server_would_refuse_everything_for(run: Run, policy: Path) -> None:
    text = attenuate(token(), "bf:x:office_hours:allow:9:17")
    code, out, err = run("verify", "--config", policy, "--json", stdin=text)
    assert (code, len(json.loads(out)["refusing"])) == (0, 1)
    assert "refuses everything at this server: bf:x:office_hours:allow:9:17" in err


def test_every_reason_that_a_token_can_be_refused_for_has_words() -> None:
    codes = set()
    folder = Path(mcp_macaroon_middleware.__file__).parent
    for path in [*(folder / "tokens").glob("*.py"), folder / "core" / "bearers.py", folder / "core" / "revocation.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                named = node.value.startswith(("token_", "discharge_")) and node.value.replace("_", "").isalpha()
                codes |= {node.value} if named else set()
    codes -= {"token_namespace"}
    assert codes - set(token_reasons.REASONS) == set()


# --- third parties --------------------------------------------------------------------------------------------------


def test_a_third_party_vouches_with_its_secret_alone_and_the_holder_binds_it(
    run: Run, policy: Path, tmp_path: Path
) -> None:
    secret = written(tmp_path / "login.secret", SHARED + "\n")
    text = run("mint", "--config", policy, "--principal", "alice", "--require", "login")[1]
    assert "[discharge_missing]" in run("verify", "--config", policy, stdin=text)[1]
    tickets = run("inspect", "--tickets", stdin=text)[1]
    assert tickets.startswith("login ")
    assert "mm_" not in tickets
    asked = ("discharge", "--location", "login", "--key-file", secret, "--principal", "alice")
    code, discharges, err = run(*asked, stdin=tickets)
    assert (code, discharges[:3]) == (0, "md_")
    assert 'vouched for alice at mail: that "a second factor" holds' in err
    assert "[discharge_unbound]" in run("verify", "--config", policy, stdin=text + discharges)[1]
    code, bound, _ = run("bind", stdin=text + discharges)
    assert code == 0
    path = written(tmp_path / "my.discharges", bound)
    code, out, _ = run("verify", "--config", policy, "--discharge", path, stdin=text)
    assert code == 0
    assert "vouched  by login" in out
    narrow = run("attenuate", "--expires", "1m", stdin=text)[1]
    assert "[discharge_unbound]" not in run("verify", "--config", policy, "--discharge", path, stdin=narrow)[1]
    assert run("verify", "--config", policy, "--discharge", path, stdin=narrow)[0] == 1


def test_a_third_party_makes_nothing_of_what_is_not_for_it(run: Run, policy: Path, tmp_path: Path) -> None:
    secret = written(tmp_path / "login.secret", SHARED)
    other = written(tmp_path / "other.secret", SECRET)
    text = run("mint", "--config", policy, "--principal", "alice", "--require", "login", "-q")[1]
    ticket = run("inspect", "--tickets", stdin=text)[1].split()[1]
    base = ["discharge", "--location", "login", "--key-file"]
    for words, stdin, code, why in (
        ([*base, secret], text, 2, "not for third parties"),
        ([*base, other], ticket, 1, "[discharge_ticket]"),
        ([*base, secret], "a b c", 1, "[discharge_ticket]"),
        ([*base, secret], f"bank {ticket}", 1, "no ticket for login"),
        ([*base, secret, "--principal", "bob"], ticket, 1, "a ticket is about alice"),
        ([*base, secret, "--expires", "25h"], ticket, 2, "a day at most"),
        ([*base, secret], "", 2, "nothing was given"),
        ([*base, tmp_path / "none"], ticket, 2, "there is no such file"),
        (["bind"], text, 2, "there is no discharge"),
    ):
        found, out, err = run(*words, stdin=stdin)
        assert (found, out) == (code, ""), why
        assert why in err
        assert ticket not in err
        assert SHARED not in err


@posix
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o622])
def test_a_shared_secret_that_others_could_have_read_vouches_for_nobody(
    run: Run, policy: Path, tmp_path: Path, mode: int
) -> None:
    text = run("mint", "--config", policy, "--principal", "alice", "--require", "login", "-q")[1]
    ticket = run("inspect", "--tickets", stdin=text)[1].split()[1]
    secret = written(tmp_path / "login.secret", SHARED)
    secret.chmod(mode)
    code, out, err = run("discharge", "--location", "login", "--key-file", secret, stdin=ticket)
    assert (code, out) == (2, "")
    assert f"run: chmod 600 {secret}" in err
    assert SHARED not in err


def test_discharge_and_bind_print_json_for_programs(run: Run, policy: Path, tmp_path: Path) -> None:
    secret = written(tmp_path / "login.secret", SHARED)
    text = run("mint", "--config", policy, "--principal", "alice", "--require", "login", "--json", "-q")[1]
    made = json.loads(text)
    (ticket,) = [each["ticket"] for each in made["caveats"] if each["kind"] == "third party"]
    asked = ("discharge", "--location", "login", "--key-file", secret, "--json", "--rule", "bf:x:tool_access:deny")
    (given,) = json.loads(run(*asked, stdin=ticket)[1])["discharges"]
    assert (given["subject"], given["audience"], given["condition"]) == ("alice", "mail", "a second factor")
    (bound,) = json.loads(run("bind", "--json", stdin=f"{made['token']} {given['discharge']}")[1])["discharges"]
    found = json.loads(run("verify", "--config", policy, "--json", stdin=f"{made['token']} {bound}")[1])
    assert (found["valid"], found["discharged_by"]) == (True, ["login"])


# --- revoke ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=sorted(BINARIES))
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with running(request.param) as found:
        yield found


@pytest.fixture
def shared(tmp_path: Path, server: RedisServer) -> Path:
    return written(tmp_path / "shared.yaml", POLICY.replace("STORE", server.url()))


def test_a_revoked_branch_ends_what_follows_and_a_whole_token_everything(run: Run, shared: Path) -> None:
    first = run("mint", "--config", shared, "--principal", "alice", "-q")[1]
    left, right = (run("attenuate", "--limit", "1/day", "-q", stdin=first)[1] for _ in range(2))
    below = run("attenuate", "--expires", "1m", "-q", stdin=left)[1]

    def valid() -> list[int]:
        return [run("verify", "--config", shared, stdin=text)[0] for text in (first, left, below, right)]

    assert valid() == [0, 0, 0, 0]
    assert "looked up in the store: not revoked" in run("verify", "--config", shared, stdin=first)[1]
    assert run("revoke", "--config", shared, stdin=below)[0] == 0
    assert valid() == [0, 0, 1, 0]
    assert run("revoke", "--config", shared, "--id", inspect(left.strip()).branches[0])[0] == 0
    assert valid() == [0, 1, 1, 0]
    code, out, _ = run("revoke", "--config", shared, "--whole", stdin=right)
    assert (code, inspect(first.strip()).id in out) == (0, True)
    assert valid() == [1, 1, 1, 1]
    assert "[token_revoked]" in run("verify", "--config", shared, stdin=first)[1]


def test_a_principal_is_revoked_up_to_an_instant_and_a_key_altogether(run: Run, shared: Path) -> None:
    def minted(*words: str) -> str:
        return run("mint", "--config", shared, "--principal", *words, "-q")[1]

    alice, issued, bob = minted("alice"), minted("alice", "--issuer", "https://idp"), minted("bob")

    def valid() -> list[int]:
        return [run("verify", "--config", shared, stdin=text)[0] for text in (alice, issued, bob)]

    words = ("revoke", "--config", shared, "--principal", "alice")
    assert run(*words, "--before", "2020-01-01T00:00:00Z")[0] == 0
    assert valid() == [0, 0, 0]
    assert run(*words)[0] == 0
    assert valid() == [1, 0, 0]
    assert run(*words, "--issuer", "https://idp", "--json")[0] == 0
    assert valid() == [1, 1, 0]
    code, _, err = run("revoke", "--config", shared, "--key-id", KEYS.current)
    assert code == 0
    assert "still signs" in err
    assert valid() == [1, 1, 1]


def test_real_processes_share_a_revocation(shared: Path) -> None:
    made = process("mint", "--config", shared, "--principal", "alice")
    assert made.returncode == 0, made.stderr
    assert process("verify", "--config", shared, stdin=made.stdout).returncode == 0
    done = process("revoke", "--config", shared, "--json", MACAROON_TOKEN=made.stdout.strip())
    assert json.loads(done.stdout) == {"revoked": [{"id": inspect(made.stdout.strip()).id}]}
    refused = process("verify", "--config", shared, stdin=made.stdout)
    assert (refused.returncode, "[token_revoked]" in refused.stdout) == (1, True)


def test_a_revocation_is_in_the_audit_record_and_does_not_wait_for_one(run: Run, shared: Path, tmp_path: Path) -> None:
    text = shared.read_text().replace(
        "  default: deny\n", "  default: deny\n  audit: [{sink: jsonl, path: audit.jsonl}]\n"
    )
    shared = written(shared, text)
    first, second = (run("mint", "--config", shared, "--principal", "alice", "-q")[1] for _ in range(2))
    assert run("revoke", "--config", shared, stdin=first)[::2] == (0, "")
    records = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [each["id"] for each in records if each.get("event") == "revoked"] == [inspect(first.strip()).id]
    (tmp_path / "audit.jsonl").unlink()
    (tmp_path / "audit.jsonl").mkdir()
    code, _, err = run("revoke", "--config", shared, stdin=second)
    assert code == 0
    assert "this revocation is not in it" in err
    assert run("verify", "--config", shared, stdin=second)[0] == 1


def test_a_token_that_somebody_forged_is_not_revoked_by_what_it_says(run: Run, shared: Path) -> None:
    forged = mint(KeyRing({KEYS.current: SHARED.encode()}, KEYS.current), subject="alice", audience="mail")
    code, out, err = run("revoke", "--config", shared, stdin=forged)
    assert (code, out) == (1, "")
    assert "[token_signature]" in err


def test_a_token_that_asks_for_a_third_party_or_has_ended_is_revoked_all_the_same(run: Run, shared: Path) -> None:
    wanting = run("mint", "--config", shared, "--principal", "alice", "--require", "login", "-q")[1]
    assert run("revoke", "--config", shared, stdin=wanting)[0] == 0
    code, _, err = run("revoke", "--config", shared, stdin=token(now=datetime(2020, 1, 1, tzinfo=UTC)))
    assert code == 0
    assert "has ended already" in err


def test_without_its_store_nothing_is_revoked_and_nothing_counts_as_valid(
    run: Run, shared: Path, server: RedisServer
) -> None:
    text = run("mint", "--config", shared, "--principal", "alice", "-q")[1]
    server.kill()
    code, out, err = run("revoke", "--config", shared, stdin=text)
    assert (code, out) == (1, "")
    assert "does not answer; nothing was done" in err
    assert "127.0.0.1" not in err
    code, out, _ = run("verify", "--config", shared, stdin=text)
    assert (code, "[store_unavailable]" in out) == (1, True)
    code, out, err = run("mint", "--config", shared, "--principal", "alice", "-q")
    assert (code, out[:3]) == (0, "mm_")
    assert "the store does not answer" in err


def test_a_memory_store_refuses_to_revoke_since_nobody_would_see_it(run: Run, policy: Path) -> None:
    for words, stdin in (([], token()), (["--id", "A" * 22], ""), (["--principal", "alice"], "")):
        code, out, err = run("revoke", "--config", policy, *words, stdin=stdin)
        assert (code, out) == (2, "")
        assert "no server would see the revocation" in err


@pytest.mark.parametrize(
    "words",
    [
        ["--id", "A" * 22, "--principal", "alice"],
        ["--key-id", "k", "--id", "A" * 22],
        ["--id", "short"],
        ["--before", "2031-01-01T00:00:00Z"],
        ["--principal", "alice", "--before", "2031-01-01"],
        ["--principal", "alice", "--before", "5m"],
        ["--principal", ""],
        ["--tenant", "acme"],
        ["--id", "A" * 22, "--whole"],
        ["alice"],
    ],
)
def test_revoke_guesses_nothing(run: Run, policy: Path, words: list[str]) -> None:
    code, out, err = run("revoke", "--config", policy, *words, stdin=token())
    assert (code, out) == (2, "")
    assert "no server would see" not in err


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A policy file whose store is on this disk."""
    return written(tmp_path / "kept.yaml", POLICY.replace("STORE", f"sqlite:///{tmp_path / 'state.db'}"))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--key-id", ""], "a key's id has letters"),
        (["--key-id", "no such/key"], "a key's id has letters"),
        (["--id", ""], "22 characters"),
        (["--principal", ""], "has a subject"),
        (["--principal", "alice", "--before", "2999-01-01T00:00:00Z"], "every token minted until then"),
    ],
)
def test_revoke_refuses_what_means_nothing_or_could_not_be_undone(
    run: Run, kept: Path, words: list[str], why: str
) -> None:
    text = run("mint", "--config", kept, "--principal", "alice", "-q")[1]
    code, out, err = run("revoke", "--config", kept, *words)
    assert (code, out) == (2, "")
    assert why in err
    assert run("verify", "--config", kept, stdin=text)[0] == 0


def test_a_revocation_up_to_now_may_run_ahead_by_no_more_than_clocks_do(run: Run, kept: Path) -> None:
    now = datetime.now(UTC)
    words = ("revoke", "--config", kept, "--principal", "alice", "--before")
    assert run(*words, (now + timedelta(seconds=90)).isoformat())[0] == 2
    assert run(*words, (now + timedelta(seconds=20)).isoformat())[0] == 0


@pytest.mark.parametrize("words", [(), ("--require", "login")])
def test_mint_makes_no_token_that_is_dead_on_arrival(run: Run, kept: Path, words: tuple[str, ...]) -> None:
    minting = ("mint", "--config", kept, "--principal", "alice", *words, "-q")
    assert run(*minting)[0] == 0
    until = (datetime.now(UTC) + timedelta(seconds=20)).isoformat()  # no machine is so slow between these two lines
    assert run("revoke", "--config", kept, "--principal", "alice", "--before", until)[0] == 0
    code, out, err = run(*minting)
    assert (code, out) == (1, "")
    assert "no server would take it" in err
    assert run("mint", "--config", kept, "--principal", "bob", *words, "-q")[0] == 0
    assert run("revoke", "--config", kept, "--key-id", KEYS.current)[0] == 0
    code, out, err = run("mint", "--config", kept, "--principal", "bob", *words, "-q")
    assert (code, out) == (1, "")
    assert "keys rotate" in err


def test_tickets_for_programs_are_one_document(run: Run, policy: Path) -> None:
    text = run("mint", "--config", policy, "--principal", "alice", "--require", "login", "-q")[1]
    code, out, _ = run("inspect", "--tickets", "--json", stdin=text)
    (asked,) = json.loads(out)["tickets"]
    assert (code, f"{asked['location']} {asked['ticket']}\n") == (0, run("inspect", "--tickets", stdin=text)[1])
    assert json.loads(run("inspect", "--tickets", "--json", stdin=token())[1]) == {"tickets": []}


@pytest.mark.parametrize(
    ("bad", "code"),
    [("junk", "discharge_format"), ("md_", "discharge_format"), ("md_" + "A" * 20_000, "discharge_too_large")],
)
def test_a_bad_discharge_is_not_called_a_bad_token(run: Run, policy: Path, tmp_path: Path, bad: str, code: str) -> None:
    path = written(tmp_path / "bad", bad)
    status, out, err = run("bind", "--discharge", path, stdin=token())
    assert (status, out) == (1, "")
    assert f"[{code}]" in err
    assert "a discharge is" in err
    assert "no token" not in err
    status, out, _ = run("verify", "--config", policy, "--discharge", path, stdin=token())
    assert (status, f"[{code}]" in out) == (1, True)
    assert "[token_format]" in run("bind", "--discharge", path, stdin="mm_junk")[2]


# --- all of them ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["", "mint", "attenuate", "inspect", "verify", "revoke", "discharge", "bind"])
def test_help_shows_examples_and_exit_codes(run: Run, command: str) -> None:
    code, out, _ = run(*([command] if command else []), "--help")
    assert code == 0
    for part in (f"mcp-macaroon token {command}", "Exit codes:") if command else ("attenuate", "revoke"):
        assert part in out


@pytest.mark.parametrize(
    "words", [["mint"], ["verify"], ["revoke"], ["discharge"], ["attenuate", "--no-such"], ["nothing"]]
)
def test_a_wrong_call_exits_with_2(run: Run, words: list[str]) -> None:
    assert run(*words, stdin=token())[0] == 2


def test_no_command_loads_the_framework() -> None:
    code = "import sys; import mcp_macaroon_middleware.cli.token_app; sys.exit('fastmcp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
