"""One thing, one verdict: spellings of resources that the bare server takes for one thing, under every kind of rule."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from asking import Person
from fastmcp import Client, FastMCP
from fastmcp.resources import Resource
from fastmcp.server import create_proxy
from fastmcp.server.providers import Provider
from fastmcp.server.providers.skills import SkillProvider
from guarded import ERAS, guarded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp import MCPError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*SkillProvider.*")

SECRETS = ("skill://pay/secret.md", "skill://pay/sub/k.md", "skill://pay/SKILL.md", "files://sub/secret.md")
OTHERS = ("db://acme/rows", "row://users/1?view=long", "data://box/secret", "file:///docs/secret.md")
NAMES = (*SECRETS, *OTHERS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("files") / "pay"
    (base / "sub").mkdir(parents=True)
    for name in ("SKILL.md", "secret.md", "open.md", "sub/k.md", "sub/secret.md"):
        (base / name).write_text(f"contents of {name}")
    return base


def served(folder: Path) -> FastMCP[Any]:
    """Static resources, templates with and without wildcards and queries, and FastMCP's own provider of files."""
    server: FastMCP[Any] = FastMCP("files")
    server.add_provider(SkillProvider(folder))

    @server.resource("files://{path*}")
    def file(path: str) -> str:
        return (folder / path).read_text()

    @server.resource("file:///docs/{name}")
    def document(name: str) -> str:
        return (folder / name).read_text()

    @server.resource("db://{tenant}/rows")
    def rows(tenant: str) -> str:
        return f"rows of {tenant}"

    @server.resource("row://users/{id}{?view}")
    def row(id: int, view: str = "short") -> str:
        return f"row {id} {view}"

    @server.resource("data://box/secret")
    def secret() -> str:
        return "boxed"

    return server


def mounted(folder: Path) -> FastMCP[Any]:
    root: FastMCP[Any] = FastMCP("root")
    root.mount(served(folder))
    return root


def proxied(folder: Path) -> FastMCP[Any]:
    front: FastMCP[Any] = create_proxy(served(folder), name="front")
    return front


HOSTS: Mapping[str, Callable[[Path], FastMCP[Any]]] = {"own": served, "mounted": mounted, "proxied": proxied}


async def read(server: FastMCP[Any], uris: Sequence[str], mode: Any = "auto") -> list[str | None]:
    """What each read answers, as the wire brings its URI; None for a refusal or an error."""
    found: list[str | None] = []
    async with Client(server, mode=mode) as client:
        for uri in uris:
            try:
                found.append(str((await client.session.read_resource(uri)).contents[0].text))
            except MCPError:
                found.append(None)
    return found


# --- the findings -----------------------------------------------------------------------------------------------------


@pytest.mark.threat("R03", "I01")
@pytest.mark.parametrize("mode", ERAS)
@pytest.mark.parametrize("host", HOSTS)
def test_a_slash_or_a_dot_more_reads_no_denied_file(folder: Path, host: str, mode: str) -> None:
    """attacks H1: `skill://pay/secret.md/` gave the file that was denied."""
    server = HOSTS[host](folder)
    guarded(server, ["bf:resource=*:tool_access:allow", *denials(SECRETS)])
    tails = ("", "/", "//", "%20", ".", "%2E", "?x=1", "#f", "%00", "/.", "%2f", "\\", "///", "%C2%A0", "%E2%80%8B")
    uris = [uri + tail for uri in SECRETS for tail in tails]
    uris += [
        *("skill://pay/sub//k.md", "skill://pay//secret.md", "skill://pay/./secret.md", "skill://pay/sub/../secret.md"),
        *("skill://pay/sub///k.md", "skill://pay/%73ecret.md", "skill://pay/sub%2Fk.md", "skill://pay/sub%5Ck.md"),
        *("skill://pay/SECRET.md", "skill://PAY/secret.md", "SKILL://pay/secret.md", "skill://pay/%2573ecret.md"),
        *("files://sub//secret.md", "files://sub///secret.md", "files:///sub/secret.md", "files://SUB/secret.md"),
        *("files://sub/secret.md%20/", "files://sub./secret.md", "files://sub%20/secret.md", "files://./sub/secret.md"),
    ]
    assert asyncio.run(read(server, uris, mode)) == [None] * len(uris)
    assert asyncio.run(read(server, ["skill://pay/open.md", "files://open.md"], mode)) == ["contents of open.md"] * 2


@pytest.mark.threat("R04")
@pytest.mark.parametrize("mode", ERAS)
@pytest.mark.parametrize("host", HOSTS)
def test_an_allowed_parameter_allows_no_other_letter_case(folder: Path, host: str, mode: str) -> None:
    """attacks H2: with `db://acme/rows` allowed, `db://ACME/rows` was served, and the other way round."""
    for allowed, other in (("acme", "ACME"), ("ACME", "acme")):
        server = HOSTS[host](folder)
        guarded(server, [f"bf:resource=db\\://{allowed}/rows:tool_access:allow"])
        uris = [f"db://{allowed}/rows", f"db://{other}/rows"]
        assert asyncio.run(read(server, uris, mode)) == [f"rows of {allowed}", None]


def denials(uris: Sequence[str]) -> list[str]:
    return [f"bf:resource={uri.replace(':', chr(92) + ':')}:tool_access:deny" for uri in uris]


@pytest.mark.threat("R04", "R03")
@pytest.mark.parametrize("mode", ERAS)
def test_an_approval_is_for_what_runs_and_the_question_shows_it(folder: Path, mode: str) -> None:
    """attacks H2: the question for `db://OTHER/rows` spoke of `db://other/rows`, and acme's approval served ACME."""
    server = served(folder)
    guarded(server, ["bf:resource=*:tool_access:allow", "bf:resource=db\\://*:tool_access:elicit"])
    person = Person("period")

    async def run() -> None:
        async with Client(server, mode=mode, elicitation_handler=person) as client:
            for times, tenant in enumerate(("acme", "ACME", "OTHER", "A.cme"), 1):
                for _ in range(2):
                    assert (await client.read_resource(f"db://{tenant}/rows"))[0].text == f"rows of {tenant}"
                assert person.asked == times
                assert f"Use db://{tenant}/rows?" in person.seen[-1][0]

    asyncio.run(run())


@pytest.mark.threat("R03", "R04")
def test_an_asking_rule_asks_for_every_spelling_and_frees_the_one_it_names(folder: Path) -> None:
    server = served(folder)
    made = guarded(
        server,
        [
            "bf:resource=*:tool_access:allow",
            "bf:resource=skill\\://pay/secret.md:tool_access:elicit",
            {
                "before": {"resource": "db://acme/rows"},
                "policy": "tool_access",
                "action": "deny",
                "except": {"role": "all"},
            },
        ],
        config={"roles": {"all": {"claim": {"sub": "alice"}}}},
    )
    assert made.server is server
    uris = ["skill://pay/secret.md/", "skill://pay/SECRET.md", "db://ACME/rows", "db://other/rows"]
    assert asyncio.run(read(server, uris)) == [None, None, None, "rows of other"]


@pytest.mark.threat("R03")
@pytest.mark.parametrize(
    ("denied", "uri"),
    [
        ("row://users/1", "row://users/01"),
        ("row://users/1", "row://users/%2B1"),
        ("row://users/1", "row://users/1_"),
        ("row://users/10", "row://users/1_0"),
        ("row://users/1", "row://users/%EF%BC%91"),
        ("row://users/1?view=short", "row://users/1"),
        ("row://users/1?view=long", "row://users/1?view=long&view=short"),
        ("row://users/1", "row://users/1?view=long"),
    ],
)
def test_a_denied_row_has_no_other_number(folder: Path, denied: str, uri: str) -> None:
    server = served(folder)
    guarded(server, ["bf:resource=*:tool_access:allow", *denials([denied])])
    assert asyncio.run(read(server, [uri, "row://users/2"])) == [None, "row 2 short"]


# --- any spelling -----------------------------------------------------------------------------------------------------


def escaped(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


EDITS: Sequence[Callable[[str, int], str]] = (
    lambda uri, at: uri[:at] + uri[at : at + 1].swapcase() + uri[at + 1 :],
    lambda uri, at: uri[:at] + escaped(uri[at : at + 1]) + uri[at + 1 :],
    lambda uri, at: uri[:at] + escaped(escaped(uri[at : at + 1])) + uri[at + 1 :],
    lambda uri, at: uri[:at] + "/" + uri[at:],
    lambda uri, at: uri[:at] + "./" + uri[at:],
    lambda uri, at: uri[:at] + "x/../" + uri[at:],
    lambda uri, at: uri[:at] + "sub/%2e%2e/" + uri[at:],
    lambda uri, at: uri[:at] + "\\" + uri[at:],
    lambda uri, at: uri[:at] + uri[at:].replace("/", "%2F", 1),
    lambda uri, at: uri[:at] + uri[at:].replace("/", "%5C", 1),
    lambda uri, at: uri[:at] + uri[at:].replace("/", "//", 1),
    lambda uri, _: uri + "/",
    lambda uri, _: uri + ".",
    lambda uri, _: uri + "%20",
    lambda uri, _: uri + "%00",
    lambda uri, _: uri + "?x=1",
    lambda uri, _: uri + "#f",
    lambda uri, _: unicodedata.normalize("NFD", uri),
    lambda uri, at: uri[:at] + "\u200b" + uri[at:],
    lambda uri, at: uri[:at] + chr(ord(uri[at]) + 0xFEE0) + uri[at + 1 :] if uri[at : at + 1].isalnum() else uri,
)
edits = st.lists(st.tuples(st.sampled_from(EDITS), st.integers(0, 40)), min_size=1, max_size=3)


def edited(uri: str, changes: Sequence[tuple[Callable[[str, int], str], int]]) -> str:
    for change, at in changes:
        uri = change(uri, min(at, len(uri)))
    return uri


@pytest.mark.threat("R03", "R04", "I01", "I03")
@pytest.mark.parametrize("host", HOSTS)
@given(spellings=st.lists(st.tuples(st.sampled_from(NAMES), edits), min_size=24, max_size=24))
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_the_bare_server_takes_for_one_thing_has_one_verdict(
    folder: Path, host: str, spellings: list[tuple[str, Any]]
) -> None:
    """A denied thing is read by no spelling, and an allowed one serves nothing but itself."""
    make = HOSTS[host]
    uris = [edited(name, changes) for name, changes in spellings]

    async def run() -> None:
        things = await read(make(folder), NAMES)
        assert None not in things
        bare = await read(make(folder), uris)
        closed, narrow = make(folder), make(folder)
        guarded(closed, ["bf:resource=*:tool_access:allow", *denials(NAMES)])
        guarded(narrow, [rule.replace(":deny", ":allow") for rule in denials(NAMES)])
        for uri, thing, shut, granted in zip(
            uris, bare, await read(closed, uris), await read(narrow, uris), strict=True
        ):
            assert thing not in things or shut is None, uri
            assert granted is None or granted in things, uri

    asyncio.run(run())


@pytest.mark.threat("R03")
async def test_a_provider_that_looks_for_files_by_itself_is_given_no_unclear_path(folder: Path) -> None:
    class Files(Provider):
        """Lists nothing, and takes the text of a URI for a path."""

        async def _get_resource(self, uri: str, version: Any = None) -> Resource | None:
            place = folder / unquote(uri.removeprefix("disk://")).lower()
            return Resource.from_function(place.read_text, uri=uri, name="f") if place.is_file() else None

    server: FastMCP[Any] = FastMCP("disk")
    server.add_provider(Files())
    secret = {
        "before": {"resource": "disk://sub/secret.md"},
        "policy": "tool_access",
        "action": "deny",
        "dynamic": True,
    }
    guarded(server, ["bf:resource=*:tool_access:allow", secret])
    tails = (
        "sub/secret.md",
        "SUB/secret.md",
        "sub//secret.md",
        "sub/./secret.md",
        "sub/../sub/secret.md",
        "%2e/open.md",
    )
    assert await read(server, [f"disk://{tail}" for tail in tails]) == [None] * len(tails)
    assert await read(server, ["disk://sub//k.md", "disk://sub/./k.md", "disk://sub/k.md"]) == [
        None,
        None,
        "contents of sub/k.md",
    ]


# --- tools and prompts ------------------------------------------------------------------------------------------------


@pytest.mark.threat("R03", "J09")
@pytest.mark.parametrize("mode", ERAS)
async def test_no_spelling_of_a_denied_tool_or_prompt_is_taken_for_it(mode: str) -> None:
    """Names are exact to FastMCP; whatever it takes for a denied one is refused, and every other is unknown."""

    def server() -> FastMCP[Any]:
        root: FastMCP[Any] = FastMCP("root")
        child: FastMCP[Any] = FastMCP("child")

        @child.tool(version="1.0", name="wipe")
        def first() -> str:
            return "wiped"

        @child.tool(version="2.0", name="wipe")
        def second() -> str:
            return "wiped"

        @child.prompt(name="ask")
        def ask() -> str:
            return "asked"

        root.mount(child, namespace="ns")
        return root

    names = [
        *("ns_wipe", "wipe", "NS_WIPE", "ns_wipe ", " ns_wipe", "ns_wipe@1.0", "ns_wipe@", "tool:ns_wipe", "ns/wipe"),
        *("ns.wipe", "child/wipe", "ns__wipe", "ns_wipe/", "ns%5fwipe", "ns_wipe\x00", "ns\uff3fwipe", "ns_wipe\u200b"),
    ]

    async def called(made: FastMCP[Any]) -> list[bool]:
        found = []
        async with Client(made, mode=mode) as client:
            for name in names:
                result = await client.call_tool(name, {}, raise_on_error=False)
                found.append(not result.is_error)
            for name in (each.replace("wipe", "ask") for each in names):
                try:
                    await client.get_prompt(name)
                    found.append(True)
                except MCPError:
                    found.append(False)
        return found

    assert sum(await called(server())) >= 2
    closed = server()
    guarded(closed, ["bf:*:tool_access:allow", "bf:ns_wipe:tool_access:deny", "bf:prompt=ask:tool_access:deny"])
    assert not any(await called(closed))


@pytest.mark.threat("R03")
async def test_a_path_that_could_mean_two_things_is_refused_whatever_the_rules_say(folder: Path) -> None:
    server = served(folder)
    guarded(server, ["bf:resource=*:tool_access:allow"])
    paths = ("sub//k.md", "sub/k.md//", "sub%20/k.md", "./sub/k.md", "sub/../open.md", "sub%2Fk.md")
    uris = [f"{root}{path}" for root in ("skill://pay/", "files://") for path in paths]
    assert await read(server, uris) == [None] * len(uris)
    assert await read(server, ["files://sub/k.md", "db://A.cme./rows"]) == ["contents of sub/k.md", "rows of A.cme."]
