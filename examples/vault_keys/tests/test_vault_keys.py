"""Keys from a small Vault over real HTTP and TLS: the suite of every key source, and servers that start with it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp_macaroon_vault_keys import VAULT, VaultSettings, fetch
from pydantic import ValidationError
from small_vault import SmallVault, certificate

from mcp_macaroon_middleware import ConfigError
from mcp_macaroon_middleware.cli import main
from mcp_macaroon_middleware.config.runtime import load_runtime
from mcp_macaroon_middleware.plugin import KeySourceContext, PluginError
from mcp_macaroon_middleware.testing import KeySourceContract
from mcp_macaroon_middleware.tokens import mint, verify

TOKEN = "hvs." + secrets.token_urlsafe(24)
WRONG = (
    "hangs",
    "drips",
    "redirects",
    "huge",
    "text",
    "bytes",
    "version-1",
    "deep",
    "deleted",
    "list",
    "number",
    "empty",
    "nothing",
    "400",
    "403",
    "404",
    "418",
    "429",
    "500",
    "503",
)


@pytest.fixture
def vault() -> Iterator[SmallVault]:
    with SmallVault(TOKEN).running() as found:
        yield found


class TestVault(KeySourceContract):
    source = VAULT
    credentials = (TOKEN,)
    timeout = 1.5

    @pytest.fixture(autouse=True)
    def _vault(self, vault: SmallVault) -> None:
        self.vault = vault
        self.settings = VaultSettings(address=vault.address, token=TOKEN)

    @contextmanager
    def keep(self, text: str) -> Iterator[str]:
        path = f"apps/{secrets.token_hex(4)}"
        self.vault.secrets[path] = {"signing": text, "other": "x"}
        yield f"{path}#signing"
        del self.vault.secrets[path]

    @contextmanager
    def broken(self, text: str) -> Iterator[tuple[str, ...]]:
        self.vault.rubbish = text
        self.vault.secrets["apps/a"] = {"key": text}
        yield (*(f"wrong/{how}#key" for how in WRONG), "apps/a#other", "apps/b#key")
        self.vault.rubbish = ""


def asked(vault: SmallVault, name: str = "apps/mail#key", base: Path = Path(), **settings: Any) -> str:
    given = {"address": vault.address, "token": TOKEN, **settings}
    return fetch(name, KeySourceContext(settings=VaultSettings(**given), base=base, timeout=2.0))


# --- the request ----------------------------------------------------------------------------------------------------


def test_it_is_one_request_as_the_api_wants_it(vault: SmallVault) -> None:
    vault.mount, vault.secrets["apps/mail"] = "teams/kv", {"key": "the text"}
    assert asked(vault, mount="teams/kv", namespace="admin/mail") == "the text"
    ((path, headers),) = vault.asked
    assert path == "/v1/teams/kv/data/apps/mail"
    assert headers["X-Vault-Token"] == TOKEN
    assert headers["X-Vault-Namespace"] == "admin/mail"
    assert headers["X-Vault-Request"] == "true"


@pytest.mark.parametrize("status", ["403", "404", "503"])
def test_a_refusal_says_what_it_means(vault: SmallVault, status: str) -> None:
    with pytest.raises(PluginError, match=f"Vault answered {status} for secret/wrong/{status}: "):
        asked(vault, f"wrong/{status}#key")


def test_a_redirect_is_not_followed_with_the_token(vault: SmallVault) -> None:
    vault.secrets["apps/mail"] = {"key": "the text"}
    with pytest.raises(PluginError, match="Vault answered 307"):
        asked(vault, "wrong/redirects#key")
    assert len(vault.asked) == 1


def test_no_proxy_of_the_environment_is_shown_the_token(vault: SmallVault, monkeypatch: pytest.MonkeyPatch) -> None:
    with SmallVault("another token").running() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.address)
        vault.secrets["apps/mail"] = {"key": "the text"}
        assert asked(vault) == "the text"
        assert proxy.asked == []


@pytest.mark.parametrize("name", ["../sys/raw/x#key", "apps/../../sys#key", "a//b#key", "/a#key", "a?b#key", "a#b#c"])
def test_a_reference_cannot_leave_the_engine(vault: SmallVault, name: str) -> None:
    with pytest.raises(PluginError, match="vault:PATH#FIELD"):
        asked(vault, name)
    assert vault.asked == []


@pytest.mark.parametrize(
    "settings",
    [
        {"address": "http://vault.internal:8200"},
        {"address": "http://127.0.0.1.example.com"},
        {"address": "https://user:pass@vault.internal"},
        {"address": "https://vault.internal/?x=1"},
        {"address": "file:///etc/passwd"},
        {"address": "vault.internal:8200"},
        {"token": ""},
        {"token": "a b"},
        {"token": "a\r\nX-Evil: 1"},
        {"mount": "../sys"},
        {"mount": ""},
        {"mount": "kv/../../sys"},
        {"namespace": "a\nb"},
        {"namespace": "../b"},
        {"verify": False},
    ],
)
def test_settings_that_would_give_the_token_away_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        VaultSettings(**{"address": "https://vault.internal", "token": TOKEN, **settings})
    assert TOKEN not in str(caught.value)


# --- TLS ------------------------------------------------------------------------------------------------------------


def test_a_certificate_is_verified_against_the_authority_in_the_settings(tmp_path: Path) -> None:
    file = certificate(tmp_path)
    with SmallVault(TOKEN, certificate=file).running() as vault:
        vault.secrets["apps/mail"] = {"key": "the text"}
        assert asked(vault, ca_file="vault.pem", base=tmp_path) == "the text"
        with pytest.raises(PluginError, match="its certificate cannot be verified"):
            asked(vault)
        with pytest.raises(PluginError, match="cannot be verified"):
            asked(vault, address=vault.address.replace("127.0.0.1", "localhost"), ca_file=str(file))
        for bad in ("gone.pem", "."):
            with pytest.raises(PluginError, match="holds no certificates"):
                asked(vault, ca_file=bad, base=tmp_path)
        assert len(vault.asked) == 1


def test_a_vault_that_is_not_there_is_told() -> None:
    with SmallVault(TOKEN).running() as vault:
        pass
    with pytest.raises(PluginError, match="Vault cannot be reached: ConnectError"):
        asked(vault)


# --- whole servers --------------------------------------------------------------------------------------------------


Policy = Callable[..., Path]


@pytest.fixture
def policy(tmp_path: Path, vault: SmallVault, monkeypatch: pytest.MonkeyPatch) -> Policy:
    """Writes the example's policy file for the small Vault."""
    monkeypatch.setenv("VAULT_TOKEN", TOKEN)
    text = (Path(__file__).parents[1] / "policies.yaml").read_text(encoding="utf-8")

    def written(**changes: str) -> Path:
        path = tmp_path / "policies.yaml"
        made = text.replace("https://vault.internal:8200", vault.address)
        for old, new in changes.items():
            made = made.replace({"keys": "keys: vault:apps/mail#keys"}[old], new)
        path.write_text(made, encoding="utf-8")
        path.chmod(0o600)
        return path

    return written


def test_a_server_starts_with_a_ring_from_vault_and_a_rotation_is_seen_at_its_next_start(
    tmp_path: Path, vault: SmallVault, policy: Policy
) -> None:
    file = tmp_path / "keys" / "keys.json"
    assert main(["keys", "new", str(file)]) == 0
    tokens: list[str] = []
    for words in ([], ["--stage"], ["--window", "1h"]):
        assert words == [] or main(["keys", "rotate", str(file), *words]) == 0
        vault.secrets["apps/mail"] = {"keys": file.read_text()}
        runtime = load_runtime(policy())
        try:
            tokens.append(mint(runtime.keys, subject="alice", audience="mail"))
            assert [verify(runtime.keys, token, audience="mail").subject for token in tokens] == ["alice"] * len(tokens)
        finally:
            runtime.close_now()
    assert len(vault.asked) == 3
    assert len(runtime.keys.ids) == 2


def test_a_server_starts_with_one_secret_from_vault(vault: SmallVault, policy: Policy) -> None:
    vault.secrets["apps/mail"] = {"signing": secrets.token_urlsafe(48)}
    load_runtime(policy(keys="secret_key: vault:apps/mail#signing")).close_now()


@pytest.mark.parametrize("how", ["403", "text", "version-1"])
def test_a_server_does_not_start_without_its_key_and_shows_nothing(
    vault: SmallVault, policy: Policy, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    vault.rubbish = secrets.token_urlsafe(48)
    path, began = policy(keys=f"secret_key: vault:wrong/{how}#key"), time.monotonic()
    with pytest.raises(ConfigError, match="the key source 'vault' brought no key: ") as caught:
        load_runtime(path)
    assert time.monotonic() - began < 12
    (problem,) = caught.value.diagnostics
    assert (problem.code, problem.line) == ("reference_missing", 4)
    for secret in (TOKEN, vault.rubbish):
        assert secret not in str(caught.value) + "".join(capsys.readouterr())


def test_a_misspelt_scheme_names_vault(policy: Policy) -> None:
    with pytest.raises(ConfigError, match="did you mean 'vault'") as caught:
        load_runtime(policy(keys="keys: valut:apps/mail#keys"))
    assert caught.value.diagnostics[0].line == 4
