"""Hugging Face's layout of the same weights: `config.json` and `model.safetensors`.

The names are ours, with or without `transformer.` before them; matrices lie as OpenAI's do,
(in, out). The causal masks that old files carry (`attn.bias`) are no parameters and are passed
over. A `lm_head.weight` makes a head of its own, unless `config.json` says that it is tied.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.gpt2.release import check_heads
from pipeline.gpt2.sizes import Hparams
from pipeline.system.files import read_json
from pipeline.system.records import Blocks, Dimension, Record
from pipeline.system.text import quoted

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FILES = (CONFIG, WEIGHTS)
TYPES = ("F32", "F16", "BF16", "F64")
PREFIX = "transformer."
HEAD = "lm_head.weight"
MASKS = (".attn.bias", ".attn.masked_bias")
# What GPT-2 is and no key of ours says; a file that says otherwise is another architecture.
FIXED = {
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


class ConfigFile(Record):
    """What of `config.json` is an architecture."""

    vocab_size: Dimension
    n_positions: Dimension
    n_embd: Dimension
    n_head: Dimension
    n_layer: Blocks
    tie_word_embeddings: bool = True

    @property
    def hparams(self) -> Hparams:
        """In OpenAI's words."""
        return Hparams(self.vocab_size, self.n_positions, self.n_embd, self.n_head, self.n_layer)


def read_config(path: Path) -> Hparams:
    """The architecture in a `config.json`.

    Raises:
        UserError: it is missing, lacks a key, or is not GPT-2's architecture.
    """
    return _read(path).hparams


def _read(path: Path) -> ConfigFile:
    values = read_json(path, remedy="")
    if not isinstance(values, dict):
        raise UserError(f"{path}: must hold an object")
    for key, wanted in FIXED.items():
        if values.get(key, wanted) != wanted:
            raise UserError(f"{path}: {key} is {quoted(values[key])}, but GPT-2 has {wanted!r}")
    config = ConfigFile.from_value(values, str(path))
    check_heads(path, config.hparams)
    return config


def verify(folder: Path) -> None:
    """Compare the header of the weights with the configuration; needs no torch.

    Raises:
        UserError: a file is missing or damaged; a tensor is missing, unknown or of another shape.
    """
    tensor_names(folder)


def tensor_names(folder: Path) -> dict[str, str]:
    """Our parameters' names to the file's, checked for shape; the head where it has its own.

    Raises:
        UserError: as `verify` does.
    """
    path = folder / WEIGHTS
    config = _read(folder / CONFIG)
    hparams = config.hparams
    wanted = {ours: hparams.shapes[theirs] for ours, theirs in hparams.variables.items()}
    wanted = {name: shape[-2:] if len(shape) == 3 else shape for name, shape in wanted.items()}
    found = {
        name.removeprefix(PREFIX): {**entry, "name": name}
        for name, entry in _header(path).items()
        if not name.endswith(MASKS)
    }
    if HEAD in found:
        if config.tie_word_embeddings:
            del found[HEAD]
        else:
            wanted[HEAD] = wanted["wte.weight"]
    for name in sorted(wanted.keys() - found.keys()):
        raise UserError(f"{path}: tensor {name} is missing")
    for name in sorted(found.keys() - wanted.keys()):
        raise UserError(f"{path}: tensor {quoted(name)} is unknown to GPT-2")
    for name, shape in wanted.items():
        has = found[name]["shape"]
        if has != list(shape):
            raise UserError(
                f"{path}: tensor {name} has shape {has}, {CONFIG} asks for {list(shape)}"
            )
        if found[name]["dtype"] not in TYPES:
            raise UserError(f"{path}: tensor {name} is {found[name]['dtype']}, no floating point")
    return {ours: entry["name"] for ours, entry in found.items()}


def _header(path: Path) -> dict[str, dict[str, Any]]:
    """What a safetensors file says of its tensors, where the file is as long as it says."""
    from safetensors import SafetensorError, safe_open  # numpy comes with it

    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: {"shape": part.get_shape(), "dtype": part.get_dtype()}
                for name, part in slices.items()
            }
    except SafetensorError as error:
        reason = quoted(str(error).rpartition("header: ")[2])
        raise UserError(f"{path}: is no whole safetensors file ({reason})") from None
