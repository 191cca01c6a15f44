"""Hugging Face's layout of the same weights: `config.json` and `model.safetensors`.

The names are ours, with or without `transformer.` before them; matrices lie as OpenAI's do,
(in, out). The causal masks that old files carry (`attn.bias`) are no parameters and are passed
over. A `lm_head.weight` makes a head of its own, unless `config.json` says that it is tied.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.gpt2.sizes import Hparams
from pipeline.system.files import read_json

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FILES = (CONFIG, WEIGHTS)
TYPES = ("F32", "F16", "BF16", "F64")
PREFIX = "transformer."
HEAD = "lm_head.weight"
MASKS = (".attn.bias", ".attn.masked_bias")
# Hugging Face's key: ours
KEYS = {
    "vocab_size": "n_vocab",
    "n_positions": "n_ctx",
    "n_embd": "n_embd",
    "n_head": "n_head",
    "n_layer": "n_layer",
}
# What GPT-2 is and no key of ours says; a file that says otherwise is another architecture.
FIXED = {
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


def read_config(path: Path) -> Hparams:
    """The architecture in a `config.json`.

    Raises:
        UserError: it is missing, lacks a key, or is not GPT-2's architecture.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: must hold an object")
    for key, wanted in FIXED.items():
        if values.get(key, wanted) != wanted:
            raise UserError(f"{path}: {key} is {values[key]!r}, but GPT-2 has {wanted!r}")
    sizes = {}
    for theirs, ours in KEYS.items():
        size = values.get(theirs)
        if type(size) is not int or size < 1:
            raise UserError(f"{path}: {theirs} must be a whole number above 0, not {size!r}")
        sizes[ours] = size
    if sizes["n_embd"] % sizes["n_head"]:
        raise UserError(f"{path}: n_embd is not a multiple of n_head")
    return Hparams(**sizes)


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
    hparams = read_config(folder / CONFIG)
    wanted = {ours: hparams.shapes[theirs] for ours, theirs in hparams.variables.items()}
    wanted = {name: shape[-2:] if len(shape) == 3 else shape for name, shape in wanted.items()}
    found = {
        name.removeprefix(PREFIX): {**entry, "name": name}
        for name, entry in _header(path).items()
        if not name.endswith(MASKS)
    }
    if HEAD in found:
        if read_json(folder / CONFIG).get("tie_word_embeddings", True):
            del found[HEAD]
        else:
            wanted[HEAD] = wanted["wte.weight"]
    for name in sorted(wanted.keys() - found.keys()):
        raise UserError(f"{path}: tensor {name} is missing")
    for name in sorted(found.keys() - wanted.keys()):
        raise UserError(f"{path}: tensor {name} is unknown to GPT-2")
    for name, shape in wanted.items():
        has = list(found[name]["shape"])
        if has != list(shape):
            raise UserError(
                f"{path}: tensor {name} has shape {has}, {CONFIG} asks for {list(shape)}"
            )
        if found[name]["dtype"] not in TYPES:
            raise UserError(f"{path}: tensor {name} is {found[name]['dtype']}, no floating point")
    return {ours: entry["name"] for ours, entry in found.items()}


def _header(path: Path) -> dict[str, Any]:
    """What a safetensors file says of its tensors, where the file is as long as it says."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > path.stat().st_size:
                raise ValueError
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if 8 + length + end != path.stat().st_size:
            raise ValueError
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f"{path}: is no whole safetensors file") from None
    return dict(header)
