"""What we export, `transformers` loads, and it computes the same; so do we, from its files."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.errors import UserError
from pipeline.gpt2 import tf_checkpoint
from pipeline.gpt2.export import export
from pipeline.gpt2.load import load_huggingface
from pipeline.model.gpt import GPT, GPTConfig, initialise
from pipeline.model.saved import save_config, save_weights
from pipeline.tokens.tokenizer import encode
from tests.helpers.checkpoints import TINY

Write = Callable[..., Path]

SMALL = GPTConfig(n_layer=3, n_head=4, n_embd=32, context_length=16, vocab_size=300)


def scratch(seed: int = 0, **how: object) -> GPT:
    model = GPT(GPTConfig(**{**SMALL.__dict__, **how}))  # type: ignore[arg-type]
    initialise(model, "pytorch", seed)
    return model.eval()


def their_logits(
    folder: Path, ids: torch.Tensor, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    assert model.dtype == dtype
    with torch.no_grad():
        return model.eval()(ids).logits  # type: ignore[no-any-return]


def ids(model: GPT) -> torch.Tensor:
    shape = (2, model.config.context_length)
    generator = torch.Generator().manual_seed(1)
    return torch.randint(model.config.vocab_size, shape, generator=generator)


@pytest.mark.parametrize(
    ("qkv_bias", "tie_weights"), list(itertools.product([False, True], repeat=2))
)
def test_transformers_computes_the_same(qkv_bias: bool, tie_weights: bool, tmp_path: Path) -> None:
    model = scratch(qkv_bias=qkv_bias, tie_weights=tie_weights)
    export(model, tmp_path / "out")
    with torch.no_grad():
        ours = model(ids(model))
    theirs = their_logits(tmp_path / "out", ids(model))
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    with torch.no_grad():
        again = load_huggingface(tmp_path / "out")(ids(model))
    torch.testing.assert_close(ours, again, rtol=0, atol=1e-6)


def test_gpt2_goes_out_and_comes_back(tiny: Path, tmp_path: Path) -> None:
    model = tf_checkpoint.load(tiny)
    export(model, tmp_path / "out")
    again = load_huggingface(tmp_path / "out")
    assert again.config == model.config
    torch.testing.assert_close(dict(again.state_dict()), dict(model.state_dict()), rtol=0, atol=0)


def test_bf16_stays_bf16(tmp_path: Path) -> None:
    model = scratch().to(torch.bfloat16)
    export(model, tmp_path / "out")
    their_logits(tmp_path / "out", ids(model), torch.bfloat16)
    again = load_huggingface(tmp_path / "out", torch.bfloat16)
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)


def test_the_tokenizer_comes_along(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    export(scratch(vocab_size=50257), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    text = "Every effort moves you — naïve 漢字  and\tblanks"
    assert tokenizer(text)["input_ids"] == encode(text)
    assert tokenizer.model_max_length == 16
    assert tokenizer.eos_token_id == 50256


def test_an_earlier_export_is_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(scratch(), out)
    before = (out / "model.safetensors").read_bytes()
    export(scratch(seed=1), out)
    assert (out / "model.safetensors").read_bytes() != before
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds something else already"):
        export(scratch(), out)
    assert (out / "thesis.tex").read_text() == "years of work"
    with pytest.raises(UserError, match="holds something else already"):
        export(scratch(), out / "thesis.tex")


def test_the_command_exports_best_or_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder, models = Path("models/scratch"), {"best": scratch(1), "last": scratch(2)}
    save_config(folder, SMALL)
    for which, model in models.items():
        save_weights(folder, model.state_dict(), which)  # type: ignore[arg-type]
        done = CliRunner().invoke(main, ["export", which, "--weights", which])
        assert done.exit_code == 0, done.output
        again = load_huggingface(Path(which))
        assert torch.equal(again.lm_head.weight, model.lm_head.weight)
    done = CliRunner().invoke(main, ["export", "out", "--model", "gpt2-125M"])
    assert done.exit_code == 1
    assert done.output.startswith("Error: gpt2-125M: GPT-2's sizes are 124M")
    assert not Path("out").exists()


def test_gpt2_is_exported_by_its_name(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(name="weights/124M").parent
    monkeypatch.chdir(source.parent)
    Path("params.yaml").write_text("gpt2: {source: weights}")
    done = CliRunner().invoke(main, ["export", "out", "--model", "gpt2-124M"])
    assert done.output == f"out: {TINY.parameters:,} parameters\n"
    assert load_huggingface(Path("out")).count_parameters() == TINY.parameters


def test_config_holds_nothing_that_differs_between_runs(tmp_path: Path) -> None:
    for name in ("one", "two"):
        export(scratch(), tmp_path / name)
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert json.loads((tmp_path / "one" / "config.json").read_text())["model_type"] == "gpt2"
