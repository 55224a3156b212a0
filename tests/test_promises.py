"""Guard tests: promises about the repository that only a test can keep."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import mcp_macaroon_middleware
from mcp_macaroon_middleware.plugin import hookspecs
from mcp_macaroon_middleware.tokens.keys import new_secret

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split(
        "\n"
    )
    return [ROOT / name for name in listed if name and not name.startswith("tests/data/")]


def python(code: str, *flags: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *flags, "-c", code]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd, env={**os.environ, **environment}
    )


@pytest.mark.parametrize("heavy", ["fastmcp", "redis", "yaml", "pymacaroons", "pluggy"])
def test_importing_the_package_loads_nothing_heavy(heavy: str) -> None:
    done = python(f"import sys, mcp_macaroon_middleware; sys.exit({heavy!r} in sys.modules)")
    assert done.returncode == 0, done.stderr


def test_help_and_keys_load_no_framework() -> None:
    code = """
import sys
from mcp_macaroon_middleware.cli import main
main(["keys", "--help"])
sys.exit("fastmcp" in sys.modules)
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert "list" in done.stdout


def test_every_public_name_loads_and_is_documented() -> None:
    for name in mcp_macaroon_middleware.__all__:
        value = getattr(mcp_macaroon_middleware, name)
        assert name == "__version__" or inspect.getdoc(value), name
    with pytest.raises(AttributeError):
        _ = mcp_macaroon_middleware.nothing_of_the_kind


def modules() -> list[str]:
    source = ROOT / "src"
    paths = sorted((source / "mcp_macaroon_middleware").rglob("*.py"))
    return [".".join(p.relative_to(source).with_suffix("").parts).removesuffix(".__init__") for p in paths]


@pytest.mark.parametrize("name", [name for name in modules() if not name.endswith("__main__")])
def test_every_module_and_every_public_thing_in_it_says_what_it_is_for(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    assert len(module.__doc__) > 20
    for key, value in vars(module).items():
        if not key.startswith("_") and (inspect.isclass(value) or inspect.isfunction(value)):
            assert value.__module__ != name or value.__doc__, f"{name}.{key}"


def test_every_hook_is_documented_with_its_arguments() -> None:
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    hooks = {key: value for key, value in vars(hookspecs).items() if key.startswith("macaroon_")}
    assert hooks
    for name, hook in hooks.items():
        assert f"`{name}({', '.join(inspect.signature(hook).parameters)})`" in page


def test_every_code_of_a_refusal_is_documented() -> None:
    from mcp_macaroon_middleware.adapters.fastmcp import refusals

    page = (ROOT / "docs" / "refusals.md").read_text(encoding="utf-8")
    assert [code for code in refusals.NEXT if f"`{code}`" not in page] == []


def test_every_dependency_has_a_reason_in_the_readme() -> None:
    for need in PROJECT["project"]["dependencies"]:
        name = re.split(r"[<>=;\s]", need)[0]
        assert re.search(rf"\*\*{re.escape(name)}\*\*", README), name


def test_one_version_stands_everywhere() -> None:
    version = PROJECT["project"]["version"]
    assert mcp_macaroon_middleware.__version__ == version
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for path in (ROOT / "plugins").glob("*/pyproject.toml"):
        assert tomllib.loads(path.read_text(encoding="utf-8"))["project"]["version"] == version, path


@pytest.mark.parametrize(
    "pattern",
    [
        r"\bTODO\b",
        r"\bFIXME\b",
        r"\bXXX\b",
        r"NotImplementedError",
        r"/root/",
        r"/home/\w",
        r"pypi\.org",
        r"registry\.npmjs",
    ],
)
def test_nothing_unfinished_and_no_machine_or_registry_stands_in_the_repository(pattern: str) -> None:
    found = []
    for path in tracked():
        if (
            path != Path(__file__).resolve()
            and path.is_file()
            and path.suffix in (".py", ".md", ".toml", ".json", ".yaml", "")
        ):
            for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
                if re.search(pattern, line):
                    found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert not found


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_quick_start_of_the_readme_runs_as_printed(tmp_path: Path) -> None:
    (tmp_path / "policies.yaml").write_text(blocks("yaml")[0], encoding="utf-8")
    (tmp_path / "policies.yaml").chmod(0o600)
    (tmp_path / "server.py").write_text(blocks("python")[0], encoding="utf-8")
    (tmp_path / "try_it.py").write_text(blocks("python")[1], encoding="utf-8")
    done = python("import runpy; runpy.run_path('try_it.py')", cwd=tmp_path, MACAROON_SECRET_KEY=new_secret())
    assert done.returncode == 0, done.stderr
    names, mail, refused = done.stdout.strip().splitlines()
    assert names == "['read_mail']"
    assert "Carol" in mail
    assert "555" not in mail
    assert refused == "Unknown tool: 'delete_mailbox'"
    check = [sys.executable, "-m", "mcp_macaroon_middleware", "check", "policies.yaml", "--server", "server.py:mcp"]
    environment = {**os.environ, "MACAROON_SECRET_KEY": new_secret()}
    checked = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_readmes_own_policy_decides(tmp_path: Path) -> None:
    (tmp_path / "house_rules.py").write_text(blocks("python")[2], encoding="utf-8")
    (tmp_path / "house_rules.py").chmod(0o600)
    (tmp_path / "policies.yaml").write_text(
        "config: {default: deny}\nplugins: {files: [./house_rules.py]}\n"
        "policies: ['bf:send_mail:tool_access:allow', 'bf:send_mail:recipients:allow:example.org']\n",
        encoding="utf-8",
    )
    (tmp_path / "policies.yaml").chmod(0o600)
    command = [sys.executable, "-m", "mcp_macaroon_middleware", "check", "policies.yaml"]
    environment = {**os.environ, "MACAROON_SECRET_KEY": new_secret()}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_readmes_token_is_minted_narrowed_and_verified(tmp_path: Path) -> None:
    from mcp_macaroon_middleware.tokens.keys import new_key

    new_key(tmp_path / "keys")
    (tmp_path / "token.txt.py").write_text(blocks("python")[3], encoding="utf-8")
    done = python("import runpy; runpy.run_path('token.txt.py')", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "('bf:*:tool_access:only:read_*', 'af:read_mail:field_access:deny:body')"


def test_every_command_of_the_readme_exists() -> None:
    commands = set(re.findall(r"mcp-macaroon (check|protect|plugins list|keys new|keys list|schema|demo)", README))
    for command in sorted(commands):
        done = subprocess.run(
            [sys.executable, "-m", "mcp_macaroon_middleware", *command.split(), "--help"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Usage" in done.stdout


def test_the_readme_shows_the_measured_table() -> None:
    figures = README.partition("bench --write -->")[2].partition("<!-- /figures")[0]
    assert "guarded, 20" in figures
    assert "ratio" in figures


LEFT_OUT = """
import pytest

def test_runs() -> None: ...

@pytest.mark.skipif(True, reason="file modes")
def test_of_another_system() -> None: ...

@pytest.mark.skipif(True, reason="needs a Redis or Valkey server")
def test_marked() -> None: ...

def test_inside() -> None:
    pytest.skip("no valkey server here")

@pytest.fixture
def server() -> None:
    pytest.skip("no redis server here")

def test_fixture(server: None) -> None: ...

@pytest.mark.parametrize("kind", [])
def test_for_none(kind: str) -> None: ...

@pytest.mark.skip
def test_without_a_reason() -> None: ...
"""
WHOLE = "import pytest\npytest.importorskip('there_is_no_such_module')\n"


@pytest.mark.parametrize("gate", [True, False])
def test_where_the_gate_runs_a_test_that_is_left_out_fails(tmp_path: Path, gate: bool) -> None:
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_parts.py").write_text(LEFT_OUT, encoding="utf-8")
    (tmp_path / "test_whole.py").write_text(WHOLE, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | ({"CI": "true"} if gate else {})
    command = [sys.executable, "-m", "pytest", "-q", "--rootdir", ".", "-p", "no:cacheprovider", "-p", "no:randomly"]
    command += ["--continue-on-collection-errors"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is not gate, done.stdout
    expected = "1 failed, 1 passed, 1 skipped, 5 errors" if gate else "1 passed, 7 skipped"
    assert expected in done.stdout, done.stdout
    for why in ("a Redis or Valkey server", "no valkey server", "no redis server", "there_is_no_such_module", "empty"):
        assert ("does not allow: " in done.stdout and why in done.stdout) is gate


def test_every_reason_to_leave_a_test_out_is_one_that_a_test_gives() -> None:
    given = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests").rglob("test_*.py")))
    given += "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "plugins").rglob("test_*.py")))
    reasons = conftest_of(ROOT / "tests").MAY_BE_LEFT_OUT
    assert [reason for reason in reasons if f'reason="{reason}"' not in given] == []


def test_no_test_of_a_plugin_is_left_out() -> None:
    for path in (ROOT / "plugins").rglob("test_*.py"):
        assert not re.search(r"\bskip(if)?\b|importorskip|xfail", path.read_text(encoding="utf-8")), path


def conftest_of(folder: Path) -> Any:
    """The module that pytest has of a folder's conftest."""
    spec = importlib.util.spec_from_file_location("conftest_read_anew", folder / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
