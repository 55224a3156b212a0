"""A policy file in a folder of its own, a key in the environment, and no runtime left behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

WritePolicy = Callable[..., Path]


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MACAROON_SECRET_KEY", "k" * 16 + "-a key for tests, long enough")


@pytest.fixture
def write(tmp_path: Path) -> WritePolicy:
    """Writes a policy file that only we may read, by replacing it, as deployments do."""

    def written(text: str, name: str = "policies.yaml") -> Path:
        path = tmp_path / name
        draft = tmp_path / f".{name}.draft"
        draft.write_text(text)
        draft.chmod(0o600)
        os.replace(draft, path)
        return path

    return written
