"""OpenAI's release of a size: its addresses, its five files, and `hparams.json`.

From `download_model.py` of https://github.com/openai/gpt-2.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from pipeline.errors import UserError
from pipeline.gpt2.sizes import SIZES, Hparams
from pipeline.system.records import Blocks, Dimension, Record

OPENAI = "https://openaipublic.blob.core.windows.net/gpt-2/models"
FALLBACK = "https://f001.backblazeb2.com/file/LLMs-from-scratch/gpt2"

HPARAMS = "hparams.json"
PREFIX = "model.ckpt"
INDEX = f"{PREFIX}.index"
DATA = f"{PREFIX}.data-00000-of-00001"
UNREAD = ("checkpoint", f"{PREFIX}.meta")  # a path and a graph, of no use here
FILES = (HPARAMS, *UNREAD, INDEX, DATA)


class HparamsFile(Record):
    """`hparams.json`."""

    n_vocab: Dimension
    n_ctx: Dimension
    n_embd: Dimension
    n_head: Dimension
    n_layer: Blocks


def read_hparams(path: Path) -> Hparams:
    """Read `hparams.json`.

    Raises:
        UserError: it is missing, or holds no architecture.
    """
    hparams = Hparams(**HparamsFile.read(path, remedy="").model_dump())
    check_heads(path, hparams)
    return hparams


def check_heads(path: Path, hparams: Hparams) -> None:
    """Make sure that the heads divide the width.

    Raises:
        UserError: they do not; `path` is where it says so.
    """
    if hparams.n_embd % hparams.n_head:
        raise UserError(
            f"{path}: n_embd {hparams.n_embd} is not a multiple of n_head {hparams.n_head}"
        )


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
