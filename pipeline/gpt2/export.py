"""Write a model in Hugging Face's layout, for `transformers` and all that reads its files.

`config.json`, `model.safetensors` and, for GPT-2's vocabulary, the tokenizer. Hugging Face keeps
OpenAI's names and orientation, so matrices are transposed back. It has no GPT-2 without a bias on
queries, keys and values: such a model gets one of zeros, which changes no logit.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from pipeline.errors import UserError
from pipeline.gpt2.assemble import MATRICES
from pipeline.gpt2.huggingface import CONFIG, FIXED, HEAD, PREFIX, WEIGHTS
from pipeline.model.gpt import GPT, GPTConfig
from pipeline.system.files import folder_aside, read_json, write_json
from pipeline.tokens.tokenizer import END_OF_TEXT, VOCABULARY, packaged

TOKENIZER = {"vocab.json": "encoder.json", "merges.txt": "vocab.bpe"}  # theirs: OpenAI's


MARK = {"written_by": "lossbook export"}  # in config.json: safetensors' metadata has no order


def export(model: GPT, folder: Path) -> None:
    """Write `model` into `folder`, whole or not at all.

    Raises:
        UserError: as `check_target`, or the disk is full.
    """
    check_target(folder)
    with folder_aside(folder.resolve()) as aside:
        try:
            save_file(_tensors(model), aside / WEIGHTS, metadata={"format": "pt"})
        except SafetensorError as error:
            raise UserError(f"{folder / WEIGHTS}: cannot be written ({error})") from None
        write_json(aside / CONFIG, _config(model.config, model.wte.weight.dtype))
        if model.config.vocab_size == VOCABULARY:
            _write_tokenizer(aside, model.config)


def check_target(folder: Path) -> None:
    """Make sure that an export may take the place of `folder`.

    Raises:
        UserError: it is neither absent, nor empty, nor an earlier export and nothing else; or one
            works in it.
    """
    place = folder.resolve()
    if place in (here := Path.cwd(), *here.parents):
        raise UserError(f"{folder}: is, or holds, the folder that you are in; name another")
    if not os.path.lexists(folder):
        return
    if not (place.is_dir() and (not any(place.iterdir()) or _is_export(place))):
        raise UserError(f"{folder}: holds something else already; name a folder that is not there")


def _is_export(folder: Path) -> bool:
    known = {CONFIG, WEIGHTS, "tokenizer_config.json", *TOKENIZER}
    if not {path.name for path in folder.iterdir()} <= known:
        return False
    try:
        config = read_json(folder / CONFIG)
    except UserError:
        return False
    return isinstance(config, dict) and MARK.items() <= config.items()


def _tensors(model: GPT) -> dict[str, Tensor]:
    """Hugging Face's names to tensors in its orientation."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        key = name if name == HEAD else PREFIX + name
        tensors[key] = tensor.T.contiguous() if name.endswith(MATRICES) else tensor.contiguous()
    if not model.config.qkv_bias:
        zeros = model.wte.weight.new_zeros(3 * model.config.n_embd, requires_grad=False)
        for layer in range(model.config.n_layer):
            tensors[f"{PREFIX}h.{layer}.attn.c_attn.bias"] = zeros.clone()
    return tensors


def _config(config: GPTConfig, dtype: torch.dtype) -> dict[str, Any]:
    values = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_embd": config.n_embd,
        "n_head": config.n_head,
        "n_layer": config.n_layer,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "tie_word_embeddings": config.tie_weights,
        "dtype": str(dtype).removeprefix("torch."),
        **FIXED,
        **MARK,
    }
    if config.vocab_size > END_OF_TEXT:
        values |= {"bos_token_id": END_OF_TEXT, "eos_token_id": END_OF_TEXT}
    return values


def _write_tokenizer(folder: Path, config: GPTConfig) -> None:
    for theirs, name in TOKENIZER.items():
        (folder / theirs).write_bytes(packaged(name))
    settings = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": config.context_length}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
