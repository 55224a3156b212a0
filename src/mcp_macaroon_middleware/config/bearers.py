"""Opens what a file says of tokens as credentials: the services whose discharges count, the token of this process."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Final

from ..core.bearers import Bearers
from ..core.policy_engine import PolicyEngine
from ..errors import ConfigError, Diagnostic, KeyRingError
from ..tokens import KeyRing, ThirdParty
from .compile import Compiled
from .key_sources import secret_text
from .places import DataPath
from .settings import ConfigSettings

logger: Final = logging.getLogger("mcp_macaroon_middleware")

UNUSABLE: Final = (
    "the token in the environment variable %s does not count at this server [%s]: whoever brings a token or calls "
    "from here is refused; set a token for this server, unset the variable, or name another: tokens: {variable: NAME}"
)


def open_bearers(compiled: Compiled, engine: PolicyEngine, keys: KeyRing) -> Bearers | None:
    """What accepts the tokens of this server, or None where the file has no `tokens` section.

    Raises `ConfigError` for a shared secret that cannot be used. A token of the process that can never count is told.
    """
    config = compiled.settings.config
    parties = open_parties(compiled)
    if config.tokens is None:
        return None
    bearers = Bearers(
        keys=keys,
        audience=config.audience,
        revocations=engine.revocations,
        clock=engine.clock,
        parties=parties,
        namespace=config.identity.token_namespace or "",
        process=_process_token(config),
    )
    fault = bearers.process_fault()
    if fault is not None:
        logger.error(UNUSABLE, config.tokens.variable, fault)
    return bearers


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
    """The token that this process was started with, without white space around it; blanks alone are a bad one."""
    variable = config.tokens.variable if config.tokens is not None else None
    given = os.environ.get(variable, "") if variable is not None else ""
    return given.strip() or given or None
