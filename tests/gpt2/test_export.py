"""What we export, `transformers` loads, and it computes the same; so do we, from its files."""

from __future__ import annotations

import itertools
import json
import os
import resource
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


FOREIGN = {"config.json": b"{}", "model.safetensors": b"another program's"}


@pytest.mark.parametrize("names", [["config.json"], ["model.safetensors"], list(FOREIGN), [".git"]])
def test_what_another_program_wrote_is_not_replaced(names: list[str], tmp_path: Path) -> None:
    """Its files are named as ours: the mark is in the weights."""
    for name in names:
        (tmp_path / name).write_bytes(FOREIGN.get(name, b""))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match="holds something else already"):
        export(scratch(), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    export(scratch(), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "model.safetensors").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "there"]
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds something else already"):
        export(scratch(), tmp_path / "dangling")


@pytest.mark.parametrize("name", [".", "..", "/", "sub/.."])
def test_the_folder_one_is_in_stays(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match="the folder that you are in"):
        export(scratch(), Path(name))


@pytest.mark.parametrize("name", ["x" * 300, "x" * 250, "a/" * 3000 + "b"])
def test_a_name_that_no_disk_takes_is_one_line(name: str, tmp_path: Path) -> None:
    save_config(tmp_path / "model", SMALL)
    save_weights(tmp_path / "model", scratch().state_dict(), "last")
    arguments = ["export", str(tmp_path / "out" / name), "--model", str(tmp_path / "model")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert done.output.strip().count("\n") == 0
    assert "File name too long" in done.output


def test_names_that_are_odd_are_names(tmp_path: Path) -> None:
    for name in ("[a]*", "-x", "a\nb", "ü ", "x" * 200):
        export(scratch(), tmp_path / "out" / name)
        assert load_huggingface(tmp_path / "out" / name).config.n_layer == 3


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_others_may_read_what_the_umask_lets_them(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        export(scratch(), tmp_path / "out")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()}
    assert modes == dict.fromkeys(modes, 0o666 & ~umask)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o777 & ~umask


def test_a_full_disk_leaves_the_earlier_export(tmp_path: Path) -> None:
    export(scratch(), tmp_path / "out")
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(UserError, match=r"model\.safetensors: cannot be written .*too large"):
            export(scratch(seed=1), tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


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
