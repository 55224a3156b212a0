"""The examples in the plugins' READMEs are policy files that load."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mcp_macaroon_middleware.config.compile import compile_file

ROOT = Path(__file__).parents[2]
READMES = sorted((ROOT / "plugins").glob("*/README.md"))


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
def test_every_example_in_a_plugins_readme_loads(readme: Path, tmp_path: Path) -> None:
    examples = re.findall(r"```yaml\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL)
    assert examples
    for number, example in enumerate(examples):
        head = "config: {default: allow}\n"
        tail = "" if "policies:" in example else "policies: []\n"
        path = tmp_path / f"{number}.yaml"
        path.write_text(head + example + tail)
        path.chmod(0o600)
        assert [each.render() for each in compile_file(path).errors] == []
