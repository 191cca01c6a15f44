"""A split's folder, of tokens that a test gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.system.checksums import write_sums
from pipeline.tokens.windows import META, SplitMeta, TokenShard


def write_split(
    folder: Path,
    *shards: Sequence[int] | np.ndarray,
    sha256: str = "c" * 64,
    shared: Sequence[int] | np.ndarray | None = None,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number:05d}.bin" for number in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        np.asarray(shard, "<u2").tofile(folder / name)
    total = sum(map(len, shards))
    if shared is not None:
        np.asarray(shared, np.uint8).tofile(folder / "shared.bin")
    SplitMeta(
        split=folder.name,
        tokens=total,
        documents=1,
        characters=total,
        bytes=total,
        corpus="tiny",
        corpus_sha256=sha256,
        shared=None if shared is None else "shared.bin",
        shards=tuple(
            TokenShard(file=name, tokens=len(shard))
            for name, shard in zip(names, shards, strict=True)
        ),
    ).write(folder / META)
    write_sums(folder)
    return folder
