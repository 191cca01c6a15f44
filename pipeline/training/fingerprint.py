"""One short name for everything that decides a stage's result: values, data and code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.system.files import sha256_of

CODE = Path(__file__).parents[1]


def fingerprint(values: Any, files: Iterable[Path] = (), code: Iterable[str] = ()) -> str:
    """16 hex digits that change when any of these does.

    Args:
        values: JSON-like, e.g. sections of params.
        files: whose contents count.
        code: glob patterns of modules under `pipeline/`, e.g. `model/*.py`.
    """
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    modules = sorted(path for pattern in code for path in CODE.glob(pattern))
    for path in [*files, *modules]:
        digest.update(path.name.encode() + b"\0")
        digest.update(bytes.fromhex(sha256_of(path)))
    return digest.hexdigest()[:16]
