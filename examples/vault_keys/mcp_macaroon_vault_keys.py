"""Signing keys from HashiCorp Vault: `vault:PATH#FIELD` is a field of a secret in a KV engine of version 2.

One request a key, when a server starts, over verified TLS and in bounded time. It writes nothing and keeps nothing, and
no message of it holds the token or anything that Vault answered.
"""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2
from pydantic import Field, SecretStr, field_validator

from mcp_macaroon_middleware.plugin import KeySourceContext, KeySourceType, PluginError, Settings, hookimpl

MOST: Final = 1 << 18
SECONDS: Final = 10.0
SPARE: Final = 0.5
NAME: Final = re.compile(r"(?P<path>[\w.-]+(?:/[\w.-]+)*)#(?P<field>[\w.-]+)\Z", re.ASCII)
MEANINGS: Final = {
    400: "it does not understand the request",
    403: "the token is not valid, or its policies do not allow reading this",
    404: "there is no such secret, or its last version is deleted",
    429: "it has too much to do, or is a standby",
    503: "it is sealed, or down for maintenance",
}


class VaultSettings(Settings):
    """The section `plugins: {vault: …}`. Give the token by reference: `${VAULT_TOKEN}` or `{file: PATH}`."""

    address: str = Field(description="https://HOST:PORT; http only to this machine, where Vault Agent listens.")
    token: SecretStr = Field(description="A token whose policies allow reading the keys and nothing else.")
    mount: str = Field(default="secret", pattern=r"^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$")
    namespace: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_./-]+$")
    ca_file: str | None = Field(default=None, description="Who signs Vault's certificate; default: this system's list.")

    @field_validator("address")
    @classmethod
    def _is_safe(cls, address: str) -> str:
        """Refuses an address over which the token would travel in clear, or that holds a password."""
        parts = urlsplit(address)
        if parts.username or parts.password or parts.query or parts.fragment or not parts.hostname:
            raise ValueError("the address is https://HOST:PORT and nothing more")
        if parts.scheme != "https" and not (parts.scheme == "http" and _is_here(parts.hostname)):
            raise ValueError("the address begins with https://, but for an agent on this machine")
        return address.rstrip("/")

    @field_validator("mount", "namespace")
    @classmethod
    def _stays(cls, path: str | None) -> str | None:
        if path is not None and _climbs(path):
            raise ValueError("a path has names only")
        return path

    @field_validator("token")
    @classmethod
    def _is_token(cls, token: SecretStr) -> SecretStr:
        if not re.fullmatch(r"[\x21-\x7e]+", token.get_secret_value().strip()):
            raise ValueError("that is no Vault token")
        return token


def fetch(name: str, context: KeySourceContext) -> str:
    """The text of a field. Raises `PluginError` that says what is wrong with the request or the answer."""
    found = NAME.match(name)
    if found is None or _climbs(found["path"]):
        raise PluginError("a key in Vault is written vault:PATH#FIELD")
    settings: VaultSettings = context.settings
    status, body = _answer(settings, found["path"], context, time.monotonic() + context.timeout - SPARE)
    if status != 200:
        why = MEANINGS.get(status, "that is not an answer to a read")
        raise PluginError(f"Vault answered {status} for {settings.mount}/{found['path']}: {why}")
    return _field(body, settings, found["path"], found["field"])


def _answer(settings: VaultSettings, path: str, context: KeySourceContext, end: float) -> tuple[int, bytes]:
    """Status and body of the one request, before `end`. Nothing is followed or retried, and no proxy is asked."""
    headers = {"X-Vault-Token": settings.token.get_secret_value().strip(), "X-Vault-Request": "true"}
    headers["Accept-Encoding"] = "identity"
    if settings.namespace is not None:
        headers["X-Vault-Namespace"] = settings.namespace
    address = f"{settings.address}/v1/{settings.mount}/data/{path}"
    patience = max(end - time.monotonic(), 0.1)
    try:
        with (
            httpx2.Client(verify=_trust(settings, context), timeout=patience, trust_env=False) as client,
            client.stream("GET", address, headers=headers) as response,
        ):
            body = b""
            for chunk in response.iter_raw():
                body += chunk
                if len(body) > MOST or time.monotonic() > end:
                    raise PluginError("Vault's answer is too long, or comes too slowly")
            return response.status_code, body
    except httpx2.TimeoutException:
        raise PluginError("Vault does not answer in time") from None
    except httpx2.HTTPError as error:
        unverified = "CERTIFICATE_VERIFY_FAILED" in str(error)
        why = "its certificate cannot be verified; see ca_file" if unverified else type(error).__name__
        raise PluginError(f"Vault cannot be reached: {why}") from None


def _trust(settings: VaultSettings, context: KeySourceContext) -> ssl.SSLContext:
    file = str(context.base / settings.ca_file) if settings.ca_file is not None else None
    try:
        return ssl.create_default_context(cafile=file)
    except (OSError, ValueError):
        raise PluginError(f"{settings.ca_file} holds no certificates of authorities") from None


def _field(body: bytes, settings: VaultSettings, path: str, field: str) -> str:
    try:
        kept: Any = json.loads(body)["data"]["data"]
    except (ValueError, TypeError, LookupError, RecursionError):
        kept = None
    if not isinstance(kept, dict):
        why = f"is {settings.mount} a KV engine of version 2?"
        raise PluginError(f"Vault's answer is no secret; {why}")
    if field not in kept:
        raise PluginError(f"the secret {settings.mount}/{path} has no field {field}")
    text = kept[field]
    if not isinstance(text, str) or not text:
        raise PluginError(f"the field {field} of {settings.mount}/{path} is no text")
    return text


def _climbs(path: str) -> bool:
    """Whether a path has parts that lead elsewhere."""
    return any(part in (".", "..") for part in path.split("/"))


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


VAULT: Final = KeySourceType(
    scheme="vault",
    fetch=fetch,
    settings=VaultSettings,
    timeout=SECONDS,
    summary="A field of a secret in HashiCorp Vault, KV version 2: vault:PATH#FIELD.",
)


@hookimpl
def macaroon_key_sources() -> Iterable[KeySourceType]:
    """`vault`."""
    return (VAULT,)
