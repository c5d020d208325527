"""What the tests of `uniapl collect` share."""

import json
from pathlib import Path
from typing import Any

from uniapl.cli import main

GREEDY = ("--temperature", "0", "--max-tokens", "60")


def plain(path: Path, *texts: str) -> Path:
    """Write prompts without instructions."""
    path.write_text("".join(json.dumps({"key": t, "prompt": t}) + "\n" for t in texts))
    return path


def summary(output: Path) -> dict[str, Any]:
    return json.loads(output.with_suffix(".summary.json").read_text())


def collect(*words: str | Path) -> int:
    return main(["collect", *map(str, words)])
