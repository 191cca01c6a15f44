"""What OpenAI released: four sizes, five files each, and the names and shapes of the weights.

From https://github.com/openai/gpt-2 (`model.py`, `download_model.py`). The weights are float32
TensorFlow variables end to end in one file, so the architecture in `hparams.json` gives that
file's size to the byte: 4 bytes a parameter.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from math import prod
from pathlib import Path

from pipeline.errors import UserError

OPENAI = "https://openaipublic.blob.core.windows.net/gpt-2/models"
FALLBACK = "https://f001.backblazeb2.com/file/LLMs-from-scratch/gpt2"

HPARAMS = "hparams.json"
PREFIX = "model.ckpt"
INDEX = f"{PREFIX}.index"
DATA = f"{PREFIX}.data-00000-of-00001"
UNREAD = ("checkpoint", f"{PREFIX}.meta")  # a path and a graph, of no use here
FILES = (HPARAMS, *UNREAD, INDEX, DATA)

# Ours, within a block: OpenAI's. Weights of rank 2 are stored [1, in, out] there, (out, in) here.
BLOCK = {
    "ln_1.weight": "ln_1/g",
    "ln_1.bias": "ln_1/b",
    "attn.c_attn.weight": "attn/c_attn/w",
    "attn.c_attn.bias": "attn/c_attn/b",
    "attn.c_proj.weight": "attn/c_proj/w",
    "attn.c_proj.bias": "attn/c_proj/b",
    "ln_2.weight": "ln_2/g",
    "ln_2.bias": "ln_2/b",
    "mlp.c_fc.weight": "mlp/c_fc/w",
    "mlp.c_fc.bias": "mlp/c_fc/b",
    "mlp.c_proj.weight": "mlp/c_proj/w",
    "mlp.c_proj.bias": "mlp/c_proj/b",
}
ENDS = {
    "wte.weight": "model/wte",
    "wpe.weight": "model/wpe",
    "ln_f.weight": "model/ln_f/g",
    "ln_f.bias": "model/ln_f/b",
}


@dataclass(frozen=True)
class Hparams:
    """An architecture, in the words of `hparams.json`."""

    n_vocab: int
    n_ctx: int
    n_embd: int
    n_head: int
    n_layer: int

    @property
    def variables(self) -> dict[str, str]:
        """Our parameters' names to OpenAI's variables, each once: the head is `model/wte`."""
        blocks = {
            f"h.{layer}.{ours}": f"model/h{layer}/{theirs}"
            for layer in range(self.n_layer)
            for ours, theirs in BLOCK.items()
        }
        return ENDS | blocks

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every variable, by OpenAI's name."""
        C = self.n_embd
        widths = {"c_attn": (C, 3 * C), "c_fc": (C, 4 * C), "mlp/c_proj": (4 * C, C)}
        shapes: dict[str, tuple[int, ...]] = {
            "model/wte": (self.n_vocab, C),
            "model/wpe": (self.n_ctx, C),
        }
        for name in self.variables.values():
            if name in shapes:
                continue
            layer, leaf = name.rsplit("/", 1)
            rows, columns = next((w for end, w in widths.items() if layer.endswith(end)), (C, C))
            shapes[name] = (1, rows, columns) if leaf == "w" else (columns,)
        return shapes

    @property
    def parameters(self) -> int:
        return sum(prod(shape) for shape in self.shapes.values())

    @property
    def data_bytes(self) -> int:
        """The size of `model.ckpt.data-00000-of-00001`."""
        return 4 * self.parameters


SIZES = {
    "124M": Hparams(50257, 1024, 768, 12, 12),
    "355M": Hparams(50257, 1024, 1024, 16, 24),
    "774M": Hparams(50257, 1024, 1280, 20, 36),
    "1558M": Hparams(50257, 1024, 1600, 25, 48),
}


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
    """Make sure that the architecture found in `path` is that of OpenAI's `size`.

    Raises:
        UserError: it is another's; names what differs.
    """
    for field in fields(Hparams):
        ours, theirs = getattr(SIZES[size], field.name), getattr(found, field.name)
        if ours != theirs:
            raise UserError(f"{path}: {field.name} is {theirs}, but GPT-2 {size} has {ours}")
