"""What went wrong with a redis server, in words of ours. It never repeats the server's words, an address or a key."""

from __future__ import annotations

import re
import ssl
from typing import Final

from redis import exceptions as errors

from ..plugin import StoreUnavailable
from .redis_values import foreign

_REFUSALS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (errors.ReadOnlyError, "READONLY"),
    (errors.BusyLoadingError, "LOADING"),
    (errors.OutOfMemoryError, "OOM"),
    (errors.NoPermissionError, "NOPERM"),
    (errors.MovedError, "MOVED"),
    (errors.AskError, "ASK"),
    (errors.TryAgainError, "TRYAGAIN"),
    (errors.ClusterCrossSlotError, "CROSSSLOT"),
    (errors.MasterDownError, "MASTERDOWN"),
    (errors.ClusterDownError, "CLUSTERDOWN"),
)
_NAMES: Final = re.compile(
    r"\b(READONLY|LOADING|OOM|NOPERM|MOVED|ASK|TRYAGAIN|CROSSSLOT|MASTERDOWN|CLUSTERDOWN|WRONGTYPE|MISCONF|NOREPLICAS|BUSY)\b"
)
_CLUSTER: Final = re.compile(rb"^cluster_enabled:([01])\r?$", re.MULTILINE)
_REPLICA: Final = re.compile(rb"^role:slave\r?$", re.MULTILINE)
_POLICY: Final = re.compile(rb"^maxmemory_policy:(noeviction|(?:allkeys|volatile)-[a-z]{1,20})\r?$", re.MULTILINE)


READONLY: Final = "the redis server refuses the operation (READONLY)"


class Moved(StoreUnavailable):
    """A node of a cluster did not run the operation: its keys lie elsewhere. `host` is empty where it is this one's."""

    def __init__(self, error: errors.MovedError) -> None:
        super().__init__(fault(error))
        self.host, self.port = str(error.host), int(error.port)


def unavailable(error: BaseException) -> StoreUnavailable:
    """What is raised for `error`: one of ours, with a text of ours."""
    if isinstance(error, errors.MovedError):
        return Moved(error)
    return foreign() if refusal(error) == "WRONGTYPE" else StoreUnavailable(fault(error))


def fault(error: BaseException) -> str:
    """A text of ours for `error`, with the server's own name of its refusal where it is one of those we know."""
    if isinstance(error, errors.AuthenticationError | errors.AuthorizationError):
        return "the redis server refuses the user or the password"
    named = refusal(error)
    if named:
        return f"the redis server refuses the operation ({named})"
    if isinstance(error, TimeoutError | errors.TimeoutError):
        return "the redis server did not answer in time"
    if _is_about_tls(error):
        return "the redis server cannot be reached over TLS"
    if isinstance(error, OSError | EOFError | errors.ConnectionError):
        return "the redis server cannot be reached, or went away"
    return "the redis server refuses the operation, or answers what cannot be read"


def eviction_policy(info: object) -> str | None:
    """The `maxmemory-policy` in the reply of INFO; None if it does not say."""
    found = _POLICY.search(info) if isinstance(info, bytes) else None
    return found[1].decode() if found else None


def is_replica(info: object) -> bool:
    """Whether the reply of INFO is from a copy of another server."""
    return isinstance(info, bytes) and _REPLICA.search(info) is not None


def is_node(info: object) -> bool | None:
    """Whether the reply of INFO is from a node of a cluster; None if it does not say."""
    found = _CLUSTER.search(info) if isinstance(info, bytes) else None
    return found[1] == b"1" if found else None


def refusal(error: BaseException) -> str:
    """The server's own name of its refusal, where it is one of those we know, else nothing."""
    for kind, name in _REFUSALS:
        if isinstance(error, kind):
            return name
    found = _NAMES.search(str(error)) if isinstance(error, errors.ResponseError) else None
    return found[1] if found else ""


def _is_about_tls(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False
