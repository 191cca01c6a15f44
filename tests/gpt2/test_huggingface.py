"""Hugging Face's files become our model, as `transformers` and as old hands wrote them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.errors import UserError
from pipeline.gpt2 import huggingface
from pipeline.gpt2.fetch import fetch
from pipeline.gpt2.huggingface import CONFIG, WEIGHTS
from pipeline.gpt2.load import load_gpt2, load_huggingface
from pipeline.params import Gpt2

Change = Callable[[dict[str, torch.Tensor]], None]


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A GPT-2 saved by `transformers`."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=300, n_positions=16, n_embd=32, n_head=4, n_layer=3)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "124M")
    return tmp_path / "124M"


def change(folder: Path, how: Change) -> None:
    tensors = load_file(folder / WEIGHTS)
    how(tensors)
    save_file(tensors, folder / WEIGHTS)


def set_config(folder: Path, **values: object) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def their_logits(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    from transformers import GPT2LMHeadModel

    with torch.no_grad():
        return GPT2LMHeadModel.from_pretrained(folder).eval()(ids).logits  # type: ignore[no-any-return]


def our_logits(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return load_huggingface(folder)(ids)


IDS = torch.arange(32).view(2, 16)


def test_logits_equal_those_of_transformers(theirs: Path) -> None:
    model = load_huggingface(theirs)
    assert model.config.tie_weights
    torch.testing.assert_close(
        our_logits(theirs, IDS), their_logits(theirs, IDS), rtol=0, atol=1e-4
    )


def bare_names(tensors: dict[str, torch.Tensor]) -> None:
    for name in list(tensors):
        tensors[name.removeprefix("transformer.")] = tensors.pop(name)


def with_masks(tensors: dict[str, torch.Tensor]) -> None:
    for layer in range(3):
        tensors[f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 16, 16).tril()
        tensors[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)


def with_tied_head(tensors: dict[str, torch.Tensor]) -> None:
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()


@pytest.mark.parametrize("how", [bare_names, with_masks, with_tied_head])
def test_what_older_files_hold_makes_no_difference(how: Change, theirs: Path) -> None:
    before = our_logits(theirs, IDS)
    change(theirs, how)
    torch.testing.assert_close(our_logits(theirs, IDS), before, rtol=0, atol=0)


def test_half_precision_files_are_read_as_asked(theirs: Path) -> None:
    def halve(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({name: t.to(torch.float16) for name, t in tensors.items()})

    change(theirs, halve)
    assert load_huggingface(theirs).wte.weight.dtype == torch.float32
    assert load_huggingface(theirs, torch.bfloat16).wte.weight.dtype == torch.bfloat16


def drop(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["transformer.h.2.ln_1.bias"]


def add(tensors: dict[str, torch.Tensor]) -> None:
    tensors["transformer.h.3.ln_1.bias"] = torch.ones(32)


def misshape(tensors: dict[str, torch.Tensor]) -> None:
    tensors["transformer.h.0.mlp.c_fc.weight"] = torch.ones(128, 32)


def retype(tensors: dict[str, torch.Tensor]) -> None:
    tensors["transformer.ln_f.bias"] = torch.ones(32, dtype=torch.int64)


def spoil(tensors: dict[str, torch.Tensor]) -> None:
    tensors["transformer.wpe.weight"][3, 4] = torch.nan


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (drop, "tensor h.2.ln_1.bias is missing"),
        (add, "tensor 'h.3.ln_1.bias' is unknown to GPT-2"),
        (misshape, r"tensor h.0.mlp.c_fc.weight has shape \[128, 32\], config.json asks for \[32,"),
        (retype, "tensor ln_f.bias is I64, no floating point"),
        (spoil, r"tensor wpe.weight holds nan at \[3, 4\]"),
    ],
)
def test_a_wrong_tensor_is_named(how: Change, message: str, theirs: Path) -> None:
    change(theirs, how)
    with pytest.raises(UserError, match=message):
        load_huggingface(theirs)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"activation_function": "relu"}, "activation_function is 'relu', but GPT-2 has"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ({"n_layer": None}, "n_layer: input should be a valid integer"),
        ({"n_head": 5}, "n_embd 32 is not a multiple of n_head 5"),
        ({"n_layer": 10**9}, "n_layer: .* less than or equal to 10000"),
        ({"n_positions": -5}, "n_positions: .* greater than or equal to 1"),
        ({"vocab_size": 10**30}, "vocab_size: .* less than or equal to"),
        ({"tie_word_embeddings": "perhaps"}, "tie_word_embeddings: "),
        ({"n_layer": 2}, "tensor 'h.2.attn.c_attn.bias' is unknown"),
    ],
)
def test_another_architecture_is_refused(values: dict, message: str, theirs: Path) -> None:
    set_config(theirs, **values)
    with pytest.raises(UserError, match=message):
        load_huggingface(theirs)


@pytest.mark.parametrize("size", [0, 5, 100, 5000, -1])
def test_a_short_or_long_file_is_refused(size: int, theirs: Path) -> None:
    content = (theirs / WEIGHTS).read_bytes()
    (theirs / WEIGHTS).write_bytes(content + b"x" if size == -1 else content[:size])
    with pytest.raises(UserError, match="is no whole safetensors file"):
        huggingface.verify(theirs)


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("length", "header"),
    [
        (2**60, {}),
        (2**64 - 1, {}),
        (None, {"wte.weight": {**ENTRY, "shape": [3]}}),
        (None, {"wte.weight": {**ENTRY, "shape": [2**40, 2**40]}}),
        (None, {"wte.weight": {**ENTRY, "shape": [-2]}}),
        (None, {"wte.weight": {**ENTRY, "dtype": "F99"}}),
        (None, {"wte.weight": {**ENTRY, "data_offsets": [8, 0]}}),
        (None, {"wte.weight": {**ENTRY, "data_offsets": [0, 2**62]}}),
        (None, {"wte.weight": ENTRY, "wpe.weight": ENTRY}),
        (None, {"wte.weight": [ENTRY]}),
        (None, "[" * 10**6),
        (None, '{"\x1b[31mname\ud800": 5}'),
    ],
)
def test_a_header_that_lies_is_refused(
    length: int | None, header: dict | str, theirs: Path
) -> None:
    text = header if isinstance(header, str) else json.dumps(header)
    raw = text.encode("utf-8", "surrogatepass")
    start = (len(raw) if length is None else length).to_bytes(8, "little")
    (theirs / WEIGHTS).write_bytes(start + raw + bytes(8))
    for read in (huggingface.verify, load_huggingface):
        with pytest.raises(UserError, match="is no whole safetensors file") as caught:
            read(theirs)
        message = str(caught.value)
        assert message.isprintable()
        assert len(message) < len(str(theirs)) + 200


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_missing_file_is_named(name: str, theirs: Path) -> None:
    (theirs / name).unlink()
    with pytest.raises(UserError, match=f"{name}: no such file"):
        huggingface.verify(theirs)


def test_a_local_folder_of_this_layout_is_a_source(theirs: Path, cache: Path) -> None:
    settings = Gpt2(source=str(theirs.parent))
    report = fetch("124M", settings)
    assert (report.status, list(report.files)) == ("available", [CONFIG, WEIGHTS])
    assert load_gpt2("124M", settings).config.n_layer == 3
    itself = fetch("124M", Gpt2(source=str(theirs)))
    assert itself.reason == "config.json: n_vocab is 300, but GPT-2 124M has 50257"
