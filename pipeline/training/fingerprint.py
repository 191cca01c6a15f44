"""One short name for everything that decides a stage's result: values, data and code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.system.files import sha256_of

ROOT = Path(__file__).parents[2]


def fingerprint(values: Any, files: Iterable[Path] = (), code: Iterable[Path] = ()) -> str:
    """16 hex digits that change when any of these does.

    Args:
        values: JSON-like, e.g. sections of params.
        files: whose contents count.
        code: modules, as `code_of` lists them.
    """
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for path in [*files, *code]:
        digest.update(path.name.encode() + b"\0")
        digest.update(bytes.fromhex(sha256_of(path)))
    return digest.hexdigest()[:16]


@cache
def code_of(stage: str) -> tuple[Path, ...]:
    """The modules that decide the stage's result: those under its code paths in `dvc.yaml`."""
    stages = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text("utf-8"))["stages"]
    paths = [ROOT / path for path in stages[stage]["deps"] if path.startswith("pipeline/")]
    return tuple(m for path in paths for m in (sorted(path.rglob("*.py")) or [path]))
