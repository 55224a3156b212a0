"""Opens what a file says of tokens as credentials: the services whose discharges count, the token of this process."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ..core.bearers import Bearers
from ..core.policy_engine import PolicyEngine
from ..errors import ConfigError, Diagnostic, KeyRingError
from ..tokens import KeyRing, ThirdParty
from .compile import Compiled
from .key_sources import secret_text
from .places import DataPath
from .settings import ConfigSettings


def open_bearers(compiled: Compiled, engine: PolicyEngine, keys: KeyRing) -> Bearers | None:
    """What accepts the tokens of this server, or None where the file has no `tokens` section.

    Raises `ConfigError` for a shared secret that cannot be used.
    """
    config = compiled.settings.config
    parties = open_parties(compiled)
    if config.tokens is None:
        return None
    return Bearers(
        keys=keys,
        audience=config.audience,
        revocations=engine.revocations,
        clock=engine.clock,
        parties=parties,
        namespace=config.identity.token_namespace or "",
        process=_process_token(config),
    )


def open_parties(compiled: Compiled) -> Mapping[str, ThirdParty]:
    """The services of `third_party`, by location. Raises `ConfigError` for every secret that cannot be used."""
    parties: dict[str, ThirdParty] = {}
    problems: list[Diagnostic] = []
    for index, given in enumerate(compiled.settings.config.third_party):
        where: DataPath = ("config", "third_party", index, "key")
        try:
            ring = KeyRing.from_secret(secret_text(compiled, given.key, where))
        except ConfigError as error:
            problems += error.diagnostics
        except KeyRingError as error:
            problems.append(compiled.source.diagnostic("keys_invalid", f"the shared secret: {error}", where))
        else:
            parties[given.location] = ThirdParty(location=given.location, key=ring, condition=given.condition)
    if problems:
        raise ConfigError(problems)
    return parties


def _process_token(config: ConfigSettings) -> str | None:
    """The token that this process was started with, if any."""
    variable = config.tokens.variable if config.tokens is not None else None
    return os.environ.get(variable) or None if variable is not None else None
