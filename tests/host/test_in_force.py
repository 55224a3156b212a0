"""A distribution is installed, and a decision changes; nothing else does. Real files, a real engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mcp_macaroon_middleware.config.runtime import load_runtime
from mcp_macaroon_middleware.errors import ConfigError
from mcp_macaroon_middleware.model import Component, Effect, Kind, Principal, RequestContext, Result

CODE = """
from mcp_macaroon_middleware.plugin import *
from mcp_macaroon_middleware.plugin import enforcer, policy_enforcer

class Domains(Params):
    domains: tuple[str, ...]

class Own(Settings):
    strict: bool = False

@enforcer("mail_domains", params=Domains, settings=Own)
def mail_domains(check: Check[Domains]) -> Verdict:
    to = check.request.arguments.get("to")
    if isinstance(to, str) and to.rpartition("@")[2] in check.params.domains and not check.settings.strict:
        return Verdict.allow()
    return check.refuse("foreign_domain", "Only to our own domains.")

@policy_enforcer("office")
def office(caveat, context, **kwargs):
    if context.ip_address != "10.0.0.1":
        raise PolicyViolationError("Only from the office.")
    return ["af:send_mail:field_access:deny:id"]
"""

FILE = """\
config: {default: deny, secret_key: a key that is long enough to be one}
plugins: {allow: [acme-mail], require: [acme-mail]}
policies:
  - "bf:send_mail:tool_access:allow"
  - "bf:send_mail:mail_domains:allow:example.org"
  - "bf:send_mail:office:allow"
"""

ALICE = Principal(kind="user", namespace="https://idp", subject="alice")
SEND = Component(kind=Kind.TOOL, name="send_mail", names=("send_mail",))


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    path = tmp_path / "policies.yaml"
    path.write_text(FILE)
    path.chmod(0o600)
    return path


def rewrite(policies: Path, text: str) -> None:
    policies.write_text(text)


def request(to: object = "bob@example.org", address: str = "10.0.0.1") -> RequestContext:
    return RequestContext(principal=ALICE, component=SEND, arguments={"to": to}, ip_address=address)


async def decided(engine: Any, **fields: Any) -> tuple[str, Any]:
    decision = await engine.decide(request(**fields))
    if decision.effect is not Effect.ALLOW:
        return decision.refusal.code, None
    outcome = await engine.finish(decision, Result.of({"id": 7}), lambda redaction: redaction)
    return "ok", outcome.applied


async def test_an_installed_distribution_decides_where_rules_name_its_policies(site: Any, policies: Path) -> None:
    site.distribution("acme-mail", CODE)
    runtime = load_runtime(policies)
    try:
        code, redaction = await decided(runtime.engine)
        assert code == "ok"
        assert redaction.withhold == ("id",)
        assert (await decided(runtime.engine, to="bob@evil.org"))[0] == "foreign_domain"
        assert (await decided(runtime.engine, to=None))[0] == "foreign_domain"
        assert (await decided(runtime.engine, address="8.8.8.8"))[0] == "policy_violation"
    finally:
        await runtime.close()


async def test_its_section_of_the_file_reaches_it(site: Any, policies: Path) -> None:
    site.distribution("acme-mail", CODE)
    rewrite(policies, FILE.replace("require: [acme-mail]", "acme_mail: {strict: true}"))
    runtime = load_runtime(policies)
    try:
        assert (await decided(runtime.engine))[0] == "foreign_domain"
    finally:
        await runtime.close()


@pytest.mark.threat("FI18")
def test_without_it_the_start_fails_and_says_what_is_missing(site: Any, policies: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_runtime(policies)
    assert "no plugin of acme-mail is installed" in str(caught.value)
    assert "pip install" in str(caught.value)


@pytest.mark.threat("M07", "FI18")
def test_one_that_fails_stops_the_start_and_is_named(site: Any, policies: Path) -> None:
    site.distribution("acme-mail", "raise OSError('no such device')", version="2.5")
    with pytest.raises(ConfigError) as caught:
        load_runtime(policies)
    for part in ("acme-mail 2.5", "entry point acme_mail = acme_mail", "OSError: no such device"):
        assert part in str(caught.value)


@pytest.mark.threat("M05")
def test_two_contributions_of_one_name_stop_the_start_and_both_are_named(site: Any, policies: Path) -> None:
    site.distribution("acme-mail", CODE)
    site.distribution("acme-rival", CODE, version="9.9")
    policies.write_text(FILE.replace("allow: [acme-mail]", "allow: [acme-mail, acme-rival]"))
    with pytest.raises(ConfigError) as caught:
        load_runtime(policies)
    assert "acme-mail 1.0" in str(caught.value)
    assert "acme-rival 9.9" in str(caught.value)


@pytest.mark.threat("M06")
async def test_installing_another_distribution_changes_nothing(site: Any, policies: Path) -> None:
    site.distribution("acme-mail", CODE)
    module = site.distribution("acme-other", "raise SystemExit")
    runtime = load_runtime(policies)
    await runtime.close()
    assert not site.imported(module)


PUSHY = """
from mcp_macaroon_middleware.plugin import *
from mcp_macaroon_middleware.plugin import hookimpl

async def write(check):
    await check.store.put("mine", b"secret of one plugin", 60)
    return Verdict.allow()

@hookimpl(tryfirst=True)
def macaroon_enforcers():
    yield EnforcerType(name="pushy", check=write)
"""

NOSY = """
import logging
from mcp_macaroon_middleware.plugin import *
from mcp_macaroon_middleware.plugin import enforcer

SEEN = []

@enforcer("nosy")
async def nosy(check: Check) -> Verdict:
    page, _ = await check.store.scan("", None, 100)
    entries = await check.store.get(["mine", "../acme_pushy/mine"])
    SEEN.extend([page, entries, dir(check), check.request.arguments["to"]])
    logging.getLogger("acme").warning("%s %r", check, check)
    return Verdict.allow()
"""


@pytest.mark.threat("M08", "M14")
async def test_a_plugin_that_wants_to_be_first_cannot_override_a_deny(site: Any, policies: Path) -> None:
    site.distribution("acme-pushy", PUSHY)
    rules = '  - "bf:send_mail:pushy:allow"\n  - "bf:send_mail:tool_access:deny"\n'
    head = FILE.partition("plugins:")[0].replace("default: deny", "default: allow")
    rewrite(policies, head + "plugins: {allow: [acme-pushy]}\npolicies:\n" + rules)
    runtime = load_runtime(policies)
    try:
        assert (await decided(runtime.engine))[0] == "denied"
    finally:
        await runtime.close()


@pytest.mark.threat("M10", "M13")
async def test_a_plugin_sees_its_own_part_of_the_store_no_key_and_no_way_to_log_arguments_by_accident(
    site: Any, policies: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site.distribution("acme-pushy", PUSHY)
    site.distribution("acme-nosy", NOSY)
    rules = "".join(f'  - "bf:send_mail:{policy}:allow"\n' for policy in ("tool_access", "pushy", "nosy"))
    plugins = "plugins: {allow: [acme-pushy, acme-nosy]}\npolicies:\n"
    rewrite(policies, FILE.partition("plugins:")[0] + plugins + rules)
    runtime = load_runtime(policies)
    try:
        for _ in range(2):  # at the second call the other plugin's value is certainly there
            assert (await decided(runtime.engine, to="canary@example.org"))[0] == "ok"
    finally:
        await runtime.close()
    page, entries, names, argument = __import__("acme_nosy").SEEN[-4:]
    assert (page, entries) == ([], [None, None])
    assert not any(word in name for name in names for word in ("key", "token", "caveat", "macaroon", "engine"))
    assert argument == "canary@example.org"
    assert any(record.name == "acme" for record in caplog.records)
    assert "canary" not in caplog.text
