"""GPT-2's sizes: the one table of what OpenAI released, and what others published about it.

A new size is one entry of `SIZES`: settings, fetching, reading, measuring and the comparison read
it. Settings are checked against it, so this module imports nothing of the project.

Names and shapes of the weights are those of `model.py` in https://github.com/openai/gpt-2. They
are float32 TensorFlow variables end to end in one file, so the architecture gives that file's size
to the byte: 4 bytes per parameter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

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


@dataclass(frozen=True)
class PublishedText:
    """The text and windows that published losses are of."""

    corpus_sha256: str
    context_length: int
    val_windows: int


@dataclass(frozen=True)
class PublishedLosses:
    """Losses of a size that somebody else measured on `PUBLISHED_TEXT`, in nats per token."""

    val: float
    train: float


@dataclass(frozen=True)
class Size:
    """One size of GPT-2.

    Attributes:
        name: as settings, files and commands name it.
        title: as people call it.
        hparams: the architecture; the number of parameters and of bytes follow from it.
        repository: the weights' repository on Hugging Face's Hub.
        published: None where nobody has published losses.
        sha256: of the file of weights, by source, where it is on public record.
    """

    name: str
    title: str
    hparams: Hparams
    repository: str
    published: PublishedLosses | None = None
    sha256: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """`GPT-2 small (124M)`."""
        return f"{self.title} ({self.name})"

    @property
    def short_title(self) -> str:
        """`small`."""
        return self.title.removeprefix("GPT-2 ")

    @property
    def nominal_parameters(self) -> int:
        """The number of parameters to the million, as the name says it."""
        return round(self.hparams.parameters, -6) or self.hparams.parameters


# "The Verdict", its last tenth by characters for validation: chapter 5 of *Build a Large Language
# Model (From Scratch)* and its notebook.
PUBLISHED_TEXT = PublishedText(
    corpus_sha256="b41e41a68f0398a3154ae69e2e4c0e2694e17fe0d66730536837f1b01935b31f",
    context_length=256,
    val_windows=2,
)

# By name, from small to large: the order of every table. OpenAI states no digests; those of its own
# files are what public checksum lists say (for 124M two agree, of which one has `hparams.json` and
# `checkpoint` too, whose digests follow from their few lines). Those of the hub are the names that
# it gives its large files.
SIZES = {
    size.name: size
    for size in (
        Size(
            "124M",
            "GPT-2 small",
            Hparams(n_vocab=50257, n_ctx=1024, n_embd=768, n_head=12, n_layer=12),
            "openai-community/gpt2",
            PublishedLosses(val=3.5596, train=3.7547),
            {
                "openai": "2060c885360cc0cf41d7a6dbc4d24b5127aae20260c8b5ae521b5a6578407118",
                "huggingface": "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707",
            },
        ),
        Size(
            "355M",
            "GPT-2 medium",
            Hparams(n_vocab=50257, n_ctx=1024, n_embd=1024, n_head=16, n_layer=24),
            "openai-community/gpt2-medium",
        ),
        Size(
            "774M",
            "GPT-2 large",
            Hparams(n_vocab=50257, n_ctx=1024, n_embd=1280, n_head=20, n_layer=36),
            "openai-community/gpt2-large",
            sha256={
                "huggingface": "5f47f3e12f91cd33b662ce7e433b6150ad5512b5884a2cee961b50e9c3bbebce"
            },
        ),
        Size(
            "1558M",
            "GPT-2 XL",
            Hparams(n_vocab=50257, n_ctx=1024, n_embd=1600, n_head=25, n_layer=48),
            "openai-community/gpt2-xl",
            PublishedLosses(val=3.1195, train=3.3046),
            {"huggingface": "0f8b28eb05a8075f48b61b6f35332978c74fc7763fa9fb4051a1c30511736a6a"},
        ),
    )
}
