"""A server of each kind, for the tests of the redis store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis_server import BINARIES, RedisServer, any_kind, running


@pytest.fixture(scope="module", params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """One for a module; tests that stop or change a server start their own."""
    if request.param not in BINARIES:
        pytest.skip(f"no {request.param} server here")
    with running(request.param) as started:
        yield started


@pytest.fixture(params=["valkey", "redis"])
def own(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server for one test, which may do with it what it likes."""
    if request.param not in BINARIES:
        pytest.skip(f"no {request.param} server here")
    with running(request.param) as started:
        yield started


@pytest.fixture
def kind() -> str:
    """Any kind of server, where one is enough."""
    return any_kind()
