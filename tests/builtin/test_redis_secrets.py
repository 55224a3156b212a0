"""The redis store's password and its TLS: neither shown nor sent where it does not belong."""

from __future__ import annotations

import asyncio
import logging
import traceback
from pathlib import Path

import pytest
from redis_server import BINARIES, RedisServer, certificates, opened, operations, refusal, running
from redis_wire import wired

from mcp_macaroon_middleware.builtin.redis_store import REDIS, REDISS
from mcp_macaroon_middleware.errors import PluginError
from mcp_macaroon_middleware.plugin import StoreContext

PASSWORD = "hunter2-p@ss:w/ord"
ESCAPED = "hunter2-p%40ss%3Aw%2Ford"


@pytest.mark.threat("N12")
async def test_a_password_opens_and_is_never_shown(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with running(kind, "--requirepass", PASSWORD) as server:
        right, wrong = opened(server, user=f":{ESCAPED}"), opened(server, user=":hunter2-wrong")
        none, user = opened(server), opened(server, user=f"hunter2user:{ESCAPED}")
        await right.put("k", b"v", 600)
        for store in (wrong, none, user):
            for call in operations(store):
                assert "refuses the user or the password" in await refusal(call)
        shown = [repr(thing) for store in (right, wrong) for thing in (store, vars(store))]
        link = next(iter(right._links.values()))  # type: ignore[attr-defined]
        shown += [repr(link), repr(vars(link))]
        await asyncio.gather(*(store.close() for store in (right, wrong, none, user)))
    assert repr(right) == "RedisStore(redis://…)"
    assert "hunter2" not in "".join(shown) + caplog.text


@pytest.mark.threat("N12")
@pytest.mark.parametrize(
    "address",
    [
        "redis://",
        "redis://:hunter2@",
        "redis://:hunter2@h:port",
        "redis://:hunter2@h:0",
        "redis://:hunter2@h:99999",
        "redis://u:hun/ter2@h",
        "redis://:hunter2#x@h",
        "redis://:hunter2@h#x",
        "redis://:hunter2@[h",
        "redis://:hunter2@h/name",
        "redis://:hunter2@h/0/1",
        "redis://:hunter2@h?ssl_cert_reqs=none",
        "rediss://:hunter2@h?ssl_cert_reqs=none",
        "rediss://:hunter2@h?ssl_check_hostname=false",
        "rediss://:hunter2@h?ssl_ca_certs=hunter2.pem",
        f"redis://:hunter2@h?ssl_ca_certs={__file__}",
        "redis://:hunter2@h?password=hunter2",
        "unix://:hunter2@/tmp/socket",
        "redis:hunter2",
    ],
)
def test_an_address_that_cannot_be_read_whole_is_refused_and_never_shown(address: str) -> None:
    with pytest.raises(PluginError) as caught:
        REDIS.open(address, StoreContext(audience="a"))
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_a_store_without_an_audience_is_refused() -> None:
    with pytest.raises(PluginError, match="audience"):
        REDIS.open("redis://h", StoreContext(audience=""))


@pytest.mark.threat("N12", "FI30")
async def test_over_tls_a_server_must_show_a_certificate_that_we_trust(tmp_path: Path) -> None:
    if "redis" not in BINARIES:
        pytest.skip("no redis-server here, which speaks TLS")
    files = certificates(tmp_path)
    with running("redis", "--requirepass", PASSWORD, tls=files) as server:
        user = f":{ESCAPED}"
        trusting, doubting = opened(server, user=user, query=f"?ssl_ca_certs={files['ca']}"), opened(server, user=user)
        await asyncio.gather(*(trusting.put(str(number), b"v", 600) for number in range(40)))
        assert await trusting.take("1") == b"v"
        for call in operations(doubting):
            assert await refusal(call) == "the redis server cannot be reached over TLS"
        plain = REDIS.open(server.url(user).replace("rediss", "redis"), StoreContext(audience="a"))
        await refusal(lambda: plain.now())
        misnamed = server.url(user).replace("127.0.0.1", "localhost") + f"?ssl_ca_certs={files['ca']}"
        other = REDISS.open(misnamed, StoreContext(audience="a"))
        assert await refusal(lambda: other.now()) == "the redis server cannot be reached over TLS"
        await asyncio.gather(trusting.close(), doubting.close(), plain.close(), other.close())


@pytest.mark.threat("N12", "FI30")
async def test_to_a_server_without_tls_nothing_is_ever_said_in_the_clear(own: RedisServer) -> None:
    async with wired(own) as (wire, address):
        store = REDISS.open(address.replace("redis://", f"rediss://:{ESCAPED}@"), StoreContext(audience="hunter2"))
        for call in operations(store):
            await refusal(call)
        assert repr(store) == "RedisStore(rediss://…)"
        await store.close()
    assert wire.commands.startswith(b"\x16\x03")
    assert b"hunter2" not in wire.commands
    assert b"INFO" not in wire.commands
