"""The examples, run as their READMEs say: real servers, real clients, both protocols, on what the clients print."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from fastmcp.client.transports import StdioTransport

from mcp_macaroon_middleware.tokens.keys import new_secret

ROOT = Path(__file__).parents[2] / "examples"
NAMES = ["fastapi_example", "github_example", "mail_example"]
PLUGINS = ["vault_keys"]
ERAS = {"2026-07-28": [], "2025-11-25": ["--legacy"]}
Steps = list[tuple[str, str]]
Copy = Callable[[str], Path]


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    """An example in a folder of its own, as somebody has it who took it away."""

    def copied(name: str) -> Path:
        left = shutil.ignore_patterns("audit.jsonl", "__pycache__")
        return Path(shutil.copytree(ROOT / name, tmp_path / name, ignore=left))

    return copied


@pytest.fixture(scope="module")
def env() -> dict[str, str]:
    """What the README says to export."""
    return {**os.environ, "MACAROON_SECRET_KEY": new_secret(), "NO_COLOR": "1"}


def python(folder: Path, env: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True, timeout=50, check=False
    )


def walk(folder: Path, env: dict[str, str], *arguments: str) -> Steps:
    """Runs the client; its steps as (title, what was printed for it)."""
    done = python(folder, env, "client.py", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    blocks = [block.strip("\n").partition("\n") for block in done.stdout.split("\n\n")]
    return [(title, text) for title, _, text in blocks]


def said(steps: Steps, title: str) -> str:
    """What was printed for the one step whose title begins so."""
    found = [text for each, text in steps if each.startswith(title)]
    assert len(found) == 1, f"{title!r} {len(found)} times in {steps}"
    return found[0]


def asked(text: str) -> bool:
    return "the server asks:" in text


@contextmanager
def serving(folder: Path, env: dict[str, str]) -> Iterator[str]:
    """The example's server as a process on a free port, until it is no longer needed; yields the port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "server.py", "--port", str(port)], cwd=folder, env=env, stdout=log, stderr=log
        )
    try:
        wait_for(port, server, folder / "server.log")
        yield str(port)
    finally:
        server.terminate()
        server.wait(10)


def wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        assert server.poll() is None, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(log.read_text())


def questions(text: str) -> str:
    """What the person was shown."""
    return "\n".join(line for line in text.splitlines() if line.startswith("      |"))


def records(folder: Path) -> list[dict[str, Any]]:
    """The audit records; every call that began has ended."""
    found = [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines()]
    begun, ended = ({each["request"] for each in found if each["event"] == event} for event in ("intent", "final"))
    assert begun
    assert begun <= ended
    return found


# --- every example --------------------------------------------------------------------------------------------------


def test_every_example_is_run_by_a_test() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    examples = [path.name for path in ROOT.iterdir() if (path / "README.md").exists()]
    assert [name for name in examples if f'"{name}"' not in tests] == []
    assert {*NAMES, *PLUGINS} <= set(examples)


@pytest.mark.parametrize("name", NAMES)
def test_every_examples_policy_file_has_no_error_and_no_warning(name: str, copy: Copy, env: dict[str, str]) -> None:
    server = [] if name == "fastapi_example" else ["--server", "server.py:mcp"]
    done = python(copy(name), env, "-m", "mcp_macaroon_middleware", "check", "policies.yaml", *server)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 errors, 0 warnings" in done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_without_a_key_every_server_stops_and_says_how_to_make_one(name: str, copy: Copy, env: dict[str, str]) -> None:
    keyless = {key: value for key, value in env.items() if key != "MACAROON_SECRET_KEY"}
    done = python(copy(name), keyless, "server.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert 'export MACAROON_SECRET_KEY="$(mcp-macaroon keys new --print)"' in done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_every_readme_names_files_that_are_there_and_the_commands_to_run(name: str) -> None:
    text = (ROOT / name / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert "policies.yaml" in links
    assert [link for link in links if not (ROOT / name / link).is_file()] == []
    assert "pip install -r requirements.txt" in text
    assert 'export MACAROON_SECRET_KEY="$(mcp-macaroon keys new --print)"' in text
    assert (ROOT / name / "requirements.txt").read_text().startswith("mcp-macaroon-middleware>=")


# --- mail -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[(era, way) for era in ERAS for way in ("memory", "stdio")], ids="-".join)
def mail(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]) -> Steps:
    era, way = request.param
    folder = Path(shutil.copytree(ROOT / "mail_example", tmp_path_factory.mktemp("mail") / "mail"))
    steps = walk(folder, env, *ERAS[era], *(["--stdio"] if way == "stdio" else []))
    assert f"protocol {era}" in steps[0][0]
    assert records(folder)
    return steps


def test_no_mails_text_ever_leaves_the_mail_example(mail: Steps) -> None:
    everything = "\n".join(text for _, text in mail)
    assert '"subject": "Lunch?"' in everything
    assert "door code" not in everything
    assert "balance" not in everything
    assert '"body"' not in everything


def test_the_mail_examples_admin_tool_is_not_there(mail: Steps) -> None:
    assert "admin_tool" not in mail[0][0]
    assert "Unknown tool: 'admin_tool' (code: none)" in said(mail, "A tool that is not there")


def test_attachments_leave_the_mail_example_only_where_somebody_agreed(mail: Steps) -> None:
    once, no, still = (said(mail, title) for title in ("Mail without its text", "The archive's", "Again: the no"))
    period, later = (said(mail, title) for title in ("The inbox again", "Nobody is asked now"))
    assert [asked(text) for text in (once, no, still, period, later)] == [True, True, False, True, False]
    assert ['"attachments": [' in text for text in (once, no, still, period, later)] == [True, False, False, True, True]
    assert "Show attachments?" in questions(once)
    assert "menu.pdf" not in questions(once)


def test_nothing_is_sent_from_the_mail_example_without_a_yes(mail: Steps) -> None:
    yes, no = said(mail, "A mail that may be sent"), said(mail, "One that may not")
    assert "sent 'Yes' to carol@example.org" in yes
    assert 'to: "eve@example.com"' in questions(no)
    assert 'text: "4711"' in questions(no)
    assert "(code: declined)" in no
    assert "sent" not in no


# --- GitHub ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=ERAS)
def github(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]) -> Steps:
    folder = Path(shutil.copytree(ROOT / "github_example", tmp_path_factory.mktemp("github") / "github"))
    with serving(folder, env) as port:
        steps = walk(folder, env, "--port", port, *ERAS[request.param])
    assert f"protocol {request.param}" in steps[0][0] + steps[1][0]
    assert {"alice", "bob"} <= {record.get("principal", {}).get("subject") for record in records(folder)}
    return steps


def part(steps: Steps, who: str) -> Steps:
    """The steps of one of the two walks."""
    heads = [number for number, (title, _) in enumerate(steps) if title.startswith("===")]
    for head, end in zip(heads, [*heads[1:], len(steps)], strict=True):
        if who in steps[head][0]:
            return steps[head:end]
    raise AssertionError(who)


def test_secrets_and_addresses_stay_in_the_github_example(github: Steps) -> None:
    everything = "\n".join(text for _, text in github)
    for value in ("open-sesame", "tiles-of", "bills@acme.example", "two_factor", "4242", "dave@acme.example"):
        assert value not in everything
    assert said(part(github, "Alice"), "Of secrets").splitlines()[1:] == [
        '  {"name": "DEPLOY_PASSWORD"}',
        '  {"name": "MAP_TILES"}',
    ]


def test_lists_show_what_each_caller_of_the_github_example_can_reach(github: Steps) -> None:
    alice, bob = part(github, "Alice")[0][1], part(github, "Bob")[0][1]
    assert "merge_pull_request" in alice
    assert "delete_repo" in alice
    assert "create_issue" in bob
    assert "merge_pull_request" not in bob
    assert "delete_repo" not in bob
    assert "Unknown tool: 'delete_repo' (code: none)" in said(part(github, "Bob"), "A tool that is not there")


def test_the_fourth_issue_is_refused_and_another_caller_is_not_concerned(github: Steps) -> None:
    issues = [text for title, text in part(github, "Alice") if title.startswith("Three issues")]
    assert ["rate_limited" in text for text in issues] == [False, False, False, True]
    assert '"title": "From Bob"' in said(part(github, "Bob"), "Alice's issues")


def test_the_github_examples_own_policies_refuse(github: Steps) -> None:
    alice = part(github, "Alice")
    assert "(code: foreign_repository)" in said(alice, "A repository that our own rule")
    assert "(code: ticket_missing)" in said(alice, "Deleting needs a ticket")


def test_an_address_is_shown_to_alice_when_she_agrees_and_to_bob_never(github: Steps) -> None:
    alice, bob = part(github, "Alice"), part(github, "Bob")
    yes, no, never = said(alice, "Carol's address"), said(alice, "Dave's address"), said(bob, "Carol, without")
    assert [asked(text) for text in (yes, no, never)] == [True, True, False]
    assert ['"email": ' in text for text in (yes, no, never)] == [True, False, False]
    assert "For: alice (acme)" in questions(yes)
    assert "@" not in questions(yes)


def test_a_merge_asks_once_for_a_while(github: Steps) -> None:
    alice = part(github, "Alice")
    first, second = said(alice, "A merge"), said(alice, "Another one")
    assert [asked(text) for text in (first, second)] == [True, False]
    assert "for 15 minutes" in first
    assert '"merged": true' in first
    assert '"merged": true' in second


def test_a_deletion_asks_every_time_and_offers_no_longer_approval(github: Steps) -> None:
    alice = part(github, "Alice")
    yes, no, unasked = said(alice, "Deleting asks"), said(alice, "It asks every time"), said(alice, "Deleting needs")
    assert [asked(text) for text in (yes, no, unasked)] == [True, True, False]
    assert "offered: Do not allow this; Allow this call, once\n" in yes
    assert '{"deleted": "sandbox"}' in yes
    assert "(code: declined)" in no


async def test_over_stdio_the_github_example_shows_what_a_reader_sees(copy: Copy, env: dict[str, str]) -> None:
    folder = copy("github_example")
    started = StdioTransport(sys.executable, ["server.py", "--stdio"], env=env, cwd=str(folder), keep_alive=False)
    async with Client(started) as client:
        names = {tool.name for tool in await client.list_tools()}
        assert names == {"create_issue", "get_repo", "get_secret_names", "get_user", "list_issues", "list_repos"}
        user: Any = await client.call_tool("get_user", {"login": "carol"})
        assert user.structured_content.keys() == {"login", "id", "name", "organisation"}


# --- FastAPI --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fastapi(tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]) -> Steps:
    folder = Path(shutil.copytree(ROOT / "fastapi_example", tmp_path_factory.mktemp("fastapi") / "fastapi"))
    with serving(folder, env) as port:
        steps = walk(folder, env, "--port", port)
    assert {"answer", "intent", "final"} <= {record["event"] for record in records(folder)}
    return steps


def test_a_guest_is_refused_with_403_and_nothing_that_must_not_leave_does(fastapi: Steps) -> None:
    assert '403 {"code": "not_allowed"' in said(fastapi, "Guests may not book")
    assert "120-55" not in "\n".join(text for _, text in fastapi)


def test_an_account_number_comes_with_the_answer_to_the_question_about_it(fastapi: Steps) -> None:
    yes, no = said(fastapi, "A customer with"), said(fastapi, "One without")
    assert asked(yes)
    assert asked(no)
    assert '200 {"allowed": true, "result": {"id": 1,' in yes
    assert '"iban": "DE02120300000000202051"' in yes
    assert '200 {"allowed": false, "result": {"id": 2,' in no
    assert "DE02500105170137075030" not in no
    assert "DE" not in questions(yes)


def test_only_a_large_transfer_asks_and_it_runs_once_after_a_yes(fastapi: Steps) -> None:
    small, large, larger = (said(fastapi, title) for title in ("A small transfer", "A large one", "A larger one"))
    assert [asked(text) for text in (small, large, larger)] == [False, True, True]
    assert '200 {"number": 1,' in small
    assert "amount: 400" in questions(large)
    assert '200 {"number": 2,' in large
    assert '403 {"code": "declined"' in larger


def send(port: str, who: str, path: str, body: Any) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {who}-on-loopback", "Content-Type": "application/json"}
    with closing(HTTPConnection("127.0.0.1", int(port), timeout=10)) as connection:
        connection.request("POST", path, json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def test_a_question_of_the_fastapi_example_is_answered_once_by_the_one_who_was_asked(
    copy: Copy, env: dict[str, str]
) -> None:
    order = {"sender": 1, "receiver": 2, "amount": 500}
    with serving(copy("fastapi_example"), env) as port:
        assert send(port, "eve", "/transfers", order)[0] == 401
        status, question = send(port, "alice", "/transfers", order)
        assert (status, question["code"]) == (403, "approval_required")
        (challenge,) = question["challenges"]
        assert challenge["questions"] == ["Transfers above 100 need a person's yes."]
        assert list(challenge["choices"][0]) == ["deny", "once", "period"]
        place, yes = f"/approvals/{challenge['id']}", {"choices": ["once"]}
        assert send(port, "bob", place, yes)[0] == 403
        assert send(port, "alice", place, yes) == (200, {"allowed": True, "result": None})
        assert send(port, "alice", place, yes)[0] == 403
        assert send(port, "alice", "/transfers", {**order, "amount": 501})[1]["code"] == "approval_required"
        assert send(port, "alice", "/transfers", order)[0] == 200
        status, question = send(port, "alice", "/transfers", order)
        assert question["code"] == "approval_required"
        place = f"/approvals/{question['challenges'][0]['id']}"
        assert send(port, "alice", place, {"choices": ["always"]})[1]["code"] == "approval_invalid"
        assert send(port, "alice", place, yes)[0] == 403


# --- plugins: distributions of their own ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLUGINS)
def test_an_example_plugin_is_found_once_it_is_installed_and_holds_its_own_tests(
    name: str, copy: Copy, tmp_path: Path, env: dict[str, str]
) -> None:
    folder, site = copy(name), tmp_path / "site"
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    done = python(folder, env, "-m", "pip", "install", *options, "--target", str(site), ".")
    assert done.returncode == 0, done.stdout + done.stderr
    installed = {**env, "PYTHONPATH": str(site), "VAULT_TOKEN": "hvs.none"}
    check = ["-m", "mcp_macaroon_middleware", "check", "policies.yaml", "--no-secrets", "--json"]
    done = python(folder, installed, *check)
    found = json.loads(done.stdout)
    assert (done.returncode, found["errors"]) == (0, 0), done.stdout
    shutil.rmtree(folder / "build", ignore_errors=True)
    done = python(folder, installed, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.mark.parametrize("name", PLUGINS)
def test_the_readme_of_an_example_plugin_names_files_that_are_there(name: str) -> None:
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / name / "README.md").read_text(encoding="utf-8"))
    assert "policies.yaml" in links
    assert [link for link in links if not (ROOT / name / link).is_file()] == []
