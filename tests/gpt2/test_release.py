"""The sizes that OpenAI released, to the byte."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.gpt2.release import check_size, read_hparams
from pipeline.gpt2.sizes import SIZES, Hparams
from pipeline.params import Gpt2


@pytest.mark.parametrize(
    ("size", "parameters", "data_bytes"),
    [
        ("124M", 124_439_808, 497_759_232),
        ("355M", 354_823_168, 1_419_292_672),
        ("774M", 774_030_080, 3_096_120_320),
        ("1558M", 1_557_611_200, 6_230_444_800),
    ],
)
def test_parameters_and_bytes(size: str, parameters: int, data_bytes: int) -> None:
    assert SIZES[size].hparams.parameters == parameters
    assert SIZES[size].hparams.data_bytes == data_bytes


def test_every_size_can_be_asked_for() -> None:
    assert Gpt2(sizes=tuple(SIZES)).sizes == tuple(SIZES)


def test_names_and_shapes_are_openai_s() -> None:
    hparams = SIZES["124M"].hparams
    assert hparams.variables["h.11.attn.c_attn.weight"] == "model/h11/attn/c_attn/w"
    assert hparams.variables["ln_f.bias"] == "model/ln_f/b"
    assert len(hparams.variables) == len(hparams.shapes) == 4 + 12 * 12
    assert hparams.shapes["model/h0/attn/c_attn/w"] == (1, 768, 2304)
    assert hparams.shapes["model/h0/attn/c_attn/b"] == (2304,)
    assert hparams.shapes["model/h0/attn/c_proj/w"] == (1, 768, 768)
    assert hparams.shapes["model/h0/mlp/c_fc/w"] == (1, 768, 3072)
    assert hparams.shapes["model/h0/mlp/c_proj/w"] == (1, 3072, 768)
    assert hparams.shapes["model/h0/mlp/c_proj/b"] == (768,)
    assert hparams.shapes["model/h0/ln_1/g"] == (768,)


def test_hparams_are_read_whatever_else_they_hold(tmp_path: Path) -> None:
    path = tmp_path / "hparams.json"
    path.write_text(json.dumps({**asdict(SIZES["355M"].hparams), "dropout": 0.1}))
    found = read_hparams(path)
    assert found == SIZES["355M"].hparams
    check_size(path, found, "355M")
    with pytest.raises(UserError, match=r"hparams.json: n_embd is 1024, but GPT-2 124M has 768"):
        check_size(path, found, "124M")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<html>", "not valid JSON"),
        ("[]", "should be a valid dictionary"),
        ('{"n_vocab": 1}', "n_ctx: field required"),
        ("\xff", "not valid JSON"),
        ("[" * 10**6, "not valid JSON"),
        (json.dumps(asdict(Hparams(50257, 1024, 768, 12, 10**9))), "n_layer: .* or equal to 10000"),
        (json.dumps(asdict(Hparams(10**400, 1024, 768, 12, 12))), "n_vocab: "),
        (json.dumps(asdict(Hparams(50257, -1, 768, 12, 12))), "n_ctx: .* or equal to 1"),
        (json.dumps(asdict(Hparams(50257, 1024, 768, 0, 12))), "n_head: .* or equal to 1"),
        (json.dumps(asdict(Hparams(50257, 1024, 768, True, 12))), "n_head: .* valid integer"),
        (json.dumps(asdict(Hparams(50257, 1024, 768, 12.0, 12))), "n_head: .* valid integer"),  # type: ignore[arg-type]
        (json.dumps(asdict(Hparams(50257, 1024, 768, 11, 12))), "not a multiple of n_head 11"),
    ],
)
def test_hparams_that_are_none(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "hparams.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=message) as error:
        read_hparams(path)
    assert str(error.value).startswith(str(path))


def test_hparams_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"hparams.json: no such file"):
        read_hparams(tmp_path / "hparams.json")
