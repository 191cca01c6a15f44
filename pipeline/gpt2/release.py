"""OpenAI's release of a size: its addresses, its five files, and `hparams.json`.

From `download_model.py` of https://github.com/openai/gpt-2.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

from pipeline.errors import UserError
from pipeline.gpt2.sizes import SIZES, Hparams

OPENAI = "https://openaipublic.blob.core.windows.net/gpt-2/models"
FALLBACK = "https://f001.backblazeb2.com/file/LLMs-from-scratch/gpt2"

HPARAMS = "hparams.json"
PREFIX = "model.ckpt"
INDEX = f"{PREFIX}.index"
DATA = f"{PREFIX}.data-00000-of-00001"
UNREAD = ("checkpoint", f"{PREFIX}.meta")  # a path and a graph, of no use here
FILES = (HPARAMS, *UNREAD, INDEX, DATA)


def read_hparams(path: Path) -> Hparams:
    """Read `hparams.json`.

    Raises:
        UserError: it is missing, or holds no architecture.
    """
    keys = [field.name for field in fields(Hparams)]
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        sizes = [values[key] for key in keys]
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path}: must be JSON with the keys {', '.join(keys)}") from None
    if not all(type(size) is int and size > 0 for size in sizes):
        raise UserError(f"{path}: {', '.join(keys)} must be whole numbers above 0")
    hparams = Hparams(*sizes)
    if hparams.n_embd % hparams.n_head:
        raise UserError(
            f"{path}: n_embd {hparams.n_embd} is not a multiple of n_head {hparams.n_head}"
        )
    return hparams


def check_size(path: Path, found: Hparams, size: str) -> None:
    """Make sure that the architecture found in `path` is that of `size`.

    Raises:
        UserError: it is not; names what differs.
    """
    wanted = SIZES[size].hparams
    for field in fields(Hparams):
        ours, theirs = getattr(wanted, field.name), getattr(found, field.name)
        if ours != theirs:
            raise UserError(f"{path}: {field.name} is {theirs}, but GPT-2 {size} has {ours}")
