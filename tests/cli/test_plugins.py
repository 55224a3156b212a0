from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mcp_macaroon_middleware.cli.plugins import list_plugins
from mcp_macaroon_middleware.plugin import decorators

GOOD = """
print("noise on standard output")
from mcp_macaroon_middleware.plugin import Check, Verdict, enforcer

@enforcer("acme_policy")
def acme_policy(check: Check) -> Verdict:
    return Verdict.allow()
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "site"
    folder.mkdir()
    before = set(sys.modules)
    monkeypatch.setattr(decorators, "_application", {})
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def install(site: Path, name: str, code: str, *, version: str = "1.0") -> None:
    module = name.replace("-", "_")
    (site / f"{module}.py").write_text(code)
    info = site / f"{module}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[mcp_macaroon_middleware]\n{module} = {module}\n")
    direct = {"url": "file:///srv/acme", "dir_info": {"editable": True}}
    (info / "direct_url.json").write_text(json.dumps(direct))


def policy(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "policies.yaml"
    path.write_text(text)
    path.chmod(0o600)
    return path


def document(capsys: pytest.CaptureFixture[str], **options: Any) -> tuple[int, Any]:
    code = list_plugins(as_json=True, **options)
    return code, json.loads(capsys.readouterr().out)


def plugin(listed: Any, name: str) -> Any:
    return next(each for each in listed["plugins"] if each["name"] == name)


def test_the_list_says_where_a_plugin_comes_from_and_what_it_provides(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(site, "acme-policy", GOOD, version="1.2")
    code, listed = document(capsys)
    assert code == 0
    assert plugin(listed, "acme_policy") == {
        "name": "acme_policy",
        "distribution": "acme-policy",
        "version": "1.2",
        "editable_path": "/srv/acme",
        "module": "acme_policy",
        "provides": ["enforcer acme_policy"],
        "status": "loaded",
        "why": "",
    }
    assert plugin(listed, "builtin")["distribution"] == "mcp-macaroon-middleware"
    assert "enforcer tool_access" in plugin(listed, "builtin")["provides"]


def test_what_a_plugin_prints_while_it_is_imported_does_not_spoil_the_output(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(site, "acme-policy", GOOD)
    list_plugins(as_json=True)
    captured = capsys.readouterr()
    assert "noise" not in captured.out
    assert "noise" in captured.err


@pytest.mark.threat("M07", "FI18")
def test_a_plugin_that_failed_is_listed_with_its_cause_and_the_exit_code_is_3(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(site, "acme-bad", "raise ValueError('no database')")
    install(site, "acme-policy", GOOD)
    code, listed = document(capsys)
    assert code == 3
    assert plugin(listed, "acme_bad")["status"] == "failed"
    assert plugin(listed, "acme_bad")["why"] == "ValueError: no database"
    assert plugin(listed, "acme_policy")["status"] == "loaded"
    assert list_plugins() == 3
    shown = " ".join(capsys.readouterr().out.split())
    assert "plugin 'acme_bad' of acme-bad 1.0 (entry point acme_bad = acme_bad): ValueError: no database" in shown


@pytest.mark.threat("M05")
def test_two_plugins_that_clash_are_both_shown_as_failed(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(site, "acme-one", GOOD)
    install(site, "acme-two", GOOD)
    code, listed = document(capsys)
    assert code == 3
    assert {plugin(listed, name)["status"] for name in ("acme_one", "acme_two")} == {"failed"}
    assert any("acme-one 1.0" in each["message"] and "acme-two 1.0" in each["message"] for each in listed["problems"])


@pytest.mark.threat("M06")
def test_with_a_policy_file_the_list_says_what_it_keeps_out(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(site, "acme-bad", "raise ValueError")
    install(site, "acme-policy", GOOD)
    (tmp_path / "mine.py").write_text(GOOD.replace("acme_policy", "mine_policy"))
    (tmp_path / "mine.py").chmod(0o600)
    text = "config: {default: deny}\nplugins: {allow: [acme-policy], disable: [acme_policy], files: [./mine.py]}\n"
    _, listed = document(capsys, config=policy(tmp_path, text + "policies: []\n"))
    assert plugin(listed, "acme_bad")["status"] == "not allowed"
    assert plugin(listed, "acme_policy")["status"] == "disabled"
    assert plugin(listed, "mine")["provides"] == ["enforcer mine_policy"]


def test_a_required_plugin_that_is_missing_makes_the_exit_code_3(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = 'config: {default: deny}\nplugins: {allow: [], require: ["acme-missing>=1"]}\npolicies: []\n'
    assert list_plugins(config=policy(tmp_path, text)) == 3
    assert "no plugin of acme-missing is installed" in capsys.readouterr().out


def test_a_policy_file_with_other_errors_is_pointed_to_the_check(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = policy(tmp_path, "config: {defautl: deny}\nplugins: {allow: []}\npolicies: []\n")
    list_plugins(config=path)
    assert f"mcp-macaroon check {path}" in capsys.readouterr().err


def test_a_policy_file_that_cannot_be_read_exits_with_5(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list_plugins(config=tmp_path / "missing.yaml") == 5
    assert "no such file" in capsys.readouterr().err


def test_the_table_is_plain_where_it_is_piped_or_no_color_is_set(
    site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site, "acme-policy", GOOD)
    monkeypatch.setenv("NO_COLOR", "1")
    assert list_plugins() == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    for word in ("distribution", "acme_policy", "acme-policy", "loaded", "enforcer acme_policy", "/srv/acme"):
        assert word in out


@pytest.mark.threat("H10")
def test_control_characters_in_foreign_metadata_do_not_reach_the_terminal(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(site, "acme-bad", "raise ValueError('\\x1b[2J gone')")
    list_plugins()
    assert "\x1b" not in capsys.readouterr().out


def test_the_command_is_there() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "mcp_macaroon_middleware", "plugins", "list", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode in (0, 3), ran.stderr
    assert {each["name"] for each in json.loads(ran.stdout)["plugins"]} >= {"builtin"}
