"""Composes a running policy from a file: plugins, keys, store, audit, plan, engine; and replaces the plan, atomically.

A file that cannot be used never takes the place of one that can: the old revision stays, is counted as stale, and says
so. What is bound at the start (keys, store, audience, identity, audit, plugins) changes only with a restart.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ..core.approvers import Approvers
from ..core.audit import AuditLog
from ..core.floods import BadCredentials
from ..core.policy_engine import PolicyEngine
from ..errors import AuditUnavailable, ConfigError, Diagnostic
from ..host.discovery import Discovery
from ..host.registry import Registry
from ..plugin.contract import Store
from ..tokens.keys import KeyRing
from .bearers import open_bearers
from .compile import Compiled, compile_file, compile_source
from .keeping import Presence, present, store_warnings
from .keys import load_keys
from .opening import open_approvers, open_audit, open_store
from .places import DataPath, Source
from .settings import ConfigSettings
from .source import read_source, source_of
from .status import Status
from .trying import try_store

logger: Final = logging.getLogger("mcp_macaroon_middleware")

SETTLED: Final = 0.1
SETTLING: Final = 50
BOUND_AT_START: Final = (
    "secret_key",
    "keys",
    "store",
    "audience",
    "identity",
    "audit",
    "clear_arguments",
    "tokens",
    "third_party",
)

Signature = tuple[str, int, int, int, int]


class Runtime:
    """A policy in force. `reload` replaces its plan as a whole; a request keeps the plan that it began with."""

    def __init__(
        self,
        compiled: Compiled,
        *,
        keys: KeyRing,
        store: Store,
        audit: AuditLog,
        approvers: Approvers | None = None,
        path: Path | None = None,
        signature: Signature | None = None,
    ) -> None:
        if compiled.plan is None:
            raise ConfigError(compiled.errors)
        self.keys: Final = keys
        self.store: Final = store
        self.audit: Final = audit
        self.bad_credentials: Final = BadCredentials(audit.event)
        self.path: Final = path
        self.approvers: Final = approvers or Approvers()
        self.engine: Final = PolicyEngine(compiled.plan, store=store, audit=audit, keys=keys, approvers=self.approvers)
        self.bearers: Final = open_bearers(compiled, self.engine, keys)
        self.enforced = False
        self.presence: Presence | None = None
        self._compiled = compiled
        self._status = Status.started(compiled.revision)
        self._signature = signature
        self._lock = threading.Lock()
        self._tickets = itertools.count(1)
        self._latest = 0
        self._users = 1

    def __repr__(self) -> str:
        return f"Runtime({str(self.path or '')!r}, revision={self.revision!r})"

    @property
    def compiled(self) -> Compiled:
        """The file in force, with its warnings."""
        return self._compiled

    @property
    def settings(self) -> ConfigSettings:
        """The `config:` section in force."""
        return self._compiled.settings.config

    @property
    def sections(self) -> Mapping[str, Any]:
        """The validated plugin sections, by their names in the file."""
        return self._compiled.sections.named

    @property
    def discovery(self) -> Discovery:
        """The plugins, loaded once at the start."""
        return self._compiled.discovery

    @property
    def registry(self) -> Registry:
        """Everything that the plugins contribute."""
        return self._compiled.discovery.registry

    @property
    def revision(self) -> str:
        """The id of the revision in force: equal for files of equal content."""
        return self._compiled.revision

    def status(self) -> Status:
        """Which revision serves, since when, and whether a newer file was refused."""
        return self._status

    # --- reload ---------------------------------------------------------------------------------------------------

    async def reload(self, config: Mapping[str, Any] | None = None) -> bool:
        """Reads the file again, in a worker thread, and puts it in force; a request in flight keeps its revision.

        True: what the file says is in force; False: the old revision stays, and `status` says why. Never raises for
        what is wrong with the file. A runtime made of a mapping takes the new one as `config`.
        """
        ticket, prepared = await asyncio.to_thread(self._prepared, config)
        with self._lock:
            return self._adopt(ticket, prepared)

    def reload_now(self, config: Mapping[str, Any] | None = None) -> bool:
        """`reload` for programs without an event loop; it waits for the file system."""
        ticket, prepared = self._prepared(config)
        with self._lock:
            return self._adopt(ticket, prepared)

    async def watch(self, *, interval: float = 1.0) -> None:
        """Reloads whenever the file changes, or a link on the way to it; runs until it is cancelled.

        Looks every `interval` seconds, which costs one `stat` and works on every file system.
        """
        if self.path is None:
            raise ConfigError("a configuration given as a mapping has no file to watch")
        while True:
            found = await asyncio.to_thread(signature_of, self.path)
            if found != self._signature:
                self._signature = found
                await self.reload()
            await asyncio.sleep(interval)

    def _prepared(self, config: Mapping[str, Any] | None) -> tuple[int, Compiled | ConfigError]:
        """The new revision, compiled against the plugins of the start, with its place in the order of reading.

        Nothing is changed yet.
        """
        ticket = next(self._tickets)
        try:
            compiled = self._compile(config)
            errors = (*_bound_at_start(self._compiled, compiled), *compiled.errors)
        except ConfigError as error:
            return ticket, error
        except Exception as error:  # a plugin's own check of its params; the old revision stays
            logger.exception("the new revision cannot be compiled")
            return ticket, ConfigError(f"the file cannot be compiled: {type(error).__name__}")
        return ticket, ConfigError(errors) if errors else compiled

    def _compile(self, config: Mapping[str, Any] | None) -> Compiled:
        if config is not None:
            return compile_file(config, discovery=self.discovery)
        if self.path is None:
            raise ConfigError("a configuration given as a mapping is reloaded with the new mapping")
        return compile_source(_settled(self.path), discovery=self.discovery)

    def _adopt(self, ticket: int, prepared: Compiled | ConfigError) -> bool:
        """Puts a prepared revision in force, unless one that was read later is already."""
        if ticket < self._latest:
            return self._status.stale_since is None
        self._latest = ticket
        if isinstance(prepared, ConfigError):
            return self._keep(prepared)
        if prepared.plan is None:
            return self._keep(ConfigError(prepared.errors))
        same = prepared.revision == self.revision and prepared.sections == self._compiled.sections
        if same:
            self._status = self._status.current()
            return True
        facts = {"revision": prepared.revision, "previous": self.revision, "rules": len(prepared.rules)}
        try:
            opened = open_approvers(prepared, self.approvers)
            self.audit.event("reload", facts)
        except ConfigError as error:
            return self._keep(error)
        except AuditUnavailable as error:
            return self._keep(ConfigError(str(error)))
        self.approvers.adopt(opened)
        self.engine.adopt(prepared.plan)
        self._compiled = prepared
        self._status = self._status.reloaded(prepared.revision)
        logger.info("policy revision %s is in force", prepared.revision)
        _say(prepared.warnings)
        return True

    def _keep(self, error: ConfigError) -> bool:
        self._status = self._status.failed(str(error))
        logger.error("the policy file cannot be used; revision %s stays:\n%s", self.revision, error)
        codes = sorted({diagnostic.code for diagnostic in error.diagnostics})
        try:
            self.audit.event("reload_failed", {"revision": self.revision, "codes": codes})
        except AuditUnavailable:
            logger.error("a failed reload could not be recorded")
        return False

    # --- end ------------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Releases threads, store and sinks, once every user of a shared runtime has closed it."""
        if self._release():
            await self._end()

    def close_now(self) -> None:
        """`close` for programs without a running event loop."""
        if self._release():
            asyncio.run(self._end())

    def _release(self) -> bool:
        with _shared_lock:
            self._users -= 1
            if self._users == 0:
                for key in [key for key, runtime in _shared.items() if runtime is self]:
                    del _shared[key]
            return self._users == 0

    async def _end(self) -> None:
        self.presence = None
        self.engine.close()
        await self.approvers.close()
        try:
            await self.store.close()
        finally:
            self.bad_credentials.close()
            self.audit.close()


def load_runtime(config: str | Path | Mapping[str, Any], *, application: Sequence[object] = ()) -> Runtime:
    """A policy in force, from a file or the same as a mapping.

    `application` are enforcers of the program itself. Raises `ConfigError` with everything that is wrong, at once;
    then nothing is left open. A store that cannot be used is wrong too: it is tried first, which may wait for as long
    as one of its operations may.
    """
    path = None if isinstance(config, Mapping) else Path(os.path.abspath(config))
    signature = signature_of(path) if path is not None else None
    source = source_of(config) if isinstance(config, Mapping) else read_source(config)
    compiled = compile_source(source, application=application)
    keys, key_problems = load_keys(compiled)
    errors = [d for d in (*compiled.errors, *key_problems) if d.severity == "error"]
    if errors or keys is None:
        raise ConfigError(sorted(errors, key=lambda d: (d.line, d.column)))
    try_store(compiled)
    audit = open_audit(compiled, keys)
    try:
        approvers = Approvers(open_approvers(compiled))
        store = open_store(compiled, audit.event)
        runtime = Runtime(
            compiled, keys=keys, store=store, audit=audit, approvers=approvers, path=path, signature=signature
        )
        runtime.presence = present(path) if not store.shared else None
        warnings = (*compiled.warnings, *key_problems, *store_warnings(compiled, store, runtime.presence))
        audit.event("start", _start_facts(compiled, warnings))
    except BaseException:
        audit.close()
        raise
    _say(warnings)
    if os.name != "posix":
        logger.warning("this system's file permissions are not checked: keep the policy file and keys to yourself")
    return runtime


def shared_runtime(path: str | Path, *, application: Sequence[object] = ()) -> Runtime:
    """The one runtime of a file in this process, loaded when it is first asked for. Each caller closes it once."""
    key = os.path.realpath(path)
    with _shared_lock:
        runtime = _shared.get(key)
        if runtime is not None:
            runtime._users += 1
            return runtime
        runtime = _shared[key] = load_runtime(path, application=application)
        return runtime


_shared: Final[dict[str, Runtime]] = {}
_shared_lock: Final = threading.RLock()


def signature_of(path: Path) -> Signature | None:
    """What changes when the file, or a link on the way to it, changes; None where there is no file."""
    try:
        facts = path.stat()
        return os.path.realpath(path), facts.st_dev, facts.st_ino, facts.st_mtime_ns, facts.st_size
    except OSError:
        return None


# --- parts ----------------------------------------------------------------------------------------------------------


def _settled(path: Path) -> Source:
    """The file, read while nobody wrote to it. Raises `ConfigError` if it does not come to rest."""
    for _ in range(SETTLING):
        before = signature_of(path)
        source = read_source(path)
        time.sleep(SETTLED)
        if before is not None and signature_of(path) == before:
            return source
    raise ConfigError([Diagnostic(code="file_unsettled", message="the file is being written", file=str(path))])


def _fixed(compiled: Compiled) -> tuple[Any, ...]:
    sections = compiled.sections
    return sections.sinks, sections.stores, sections.approvers, sections.key_sources


def _bound_at_start(old: Compiled, new: Compiled) -> list[Diagnostic]:
    """What a reload would change and may not."""
    first, second = old.settings, new.settings
    changed: list[tuple[DataPath, str]] = [
        (("config", name), f"config.{name}")
        for name in BOUND_AT_START
        if getattr(first.config, name) != getattr(second.config, name)
    ]
    changed += [
        (("plugins", name), f"plugins.{name}")
        for name in type(first.plugins).model_fields
        if getattr(first.plugins, name) != getattr(second.plugins, name)
    ]
    if _fixed(old) != _fixed(new):
        changed.append((("plugins",), "the settings of a store, an audit sink, an approver or a key source"))
    return [
        new.source.diagnostic(
            "restart_needed", f"{what} cannot change while the server runs", path, key=True, hint="restart"
        )
        for path, what in changed
    ]


def _start_facts(compiled: Compiled, warnings: Sequence[Diagnostic]) -> dict[str, Any]:
    config = compiled.settings.config
    return {
        "revision": compiled.revision,
        "audience": config.audience,
        "default": config.default_action.value,
        "mode": config.mode,
        "rules": len(compiled.rules),
        "plugins": [
            {"name": p.name, "distribution": p.distribution, "version": p.version, "status": p.status}
            for p in compiled.discovery.plugins
        ],
        "warnings": sorted({warning.code for warning in warnings}),
    }


def _say(warnings: Sequence[Diagnostic]) -> None:
    for warning in warnings:
        logger.warning("%s", warning.render())
