"""The architecture: names, sizes, causality, initialisation."""

from __future__ import annotations

import pytest
import torch

from pipeline.model.gpt import GPT, GPTConfig, initialise, meta_model

TINY = GPTConfig(n_layer=2, n_head=2, n_embd=16, context_length=8, vocab_size=97)
GPT2 = {"context_length": 1024, "qkv_bias": True, "tie_weights": True}


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (GPTConfig(), 162_419_712),  # the book's, with its context of 256
        (GPTConfig(**GPT2), 124_439_808),
        (GPTConfig(n_layer=24, n_head=16, n_embd=1024, **GPT2), 354_823_168),
        (GPTConfig(n_layer=36, n_head=20, n_embd=1280, **GPT2), 774_030_080),
        (GPTConfig(n_layer=48, n_head=25, n_embd=1600, **GPT2), 1_557_611_200),
    ],
)
def test_published_parameter_counts(config: GPTConfig, parameters: int) -> None:
    assert meta_model(config).count_parameters() == parameters


def test_parameter_names_are_openais() -> None:
    names = {name.replace("h.1.", "h.N.") for name in GPT(TINY).state_dict()}
    expected = {"wte.weight", "wpe.weight", "ln_f.weight", "ln_f.bias", "lm_head.weight"}
    for layer in ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"):
        expected |= {f"h.N.{layer}.weight", f"h.N.{layer}.bias"}
    expected.remove("h.N.attn.c_attn.bias")
    assert {name for name in names if not name.startswith("h.0.")} == expected


def test_a_token_sees_only_what_came_before() -> None:
    model = GPT(TINY).eval()
    tokens = torch.randint(0, 97, (1, 8), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 97
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[0, :5], after[0, :5])
    assert not torch.allclose(before[0, 5], after[0, 5])


def test_a_tied_head_is_the_embedding() -> None:
    tied = GPT(GPTConfig(**{**vars(TINY), "tie_weights": True}))
    assert tied.head_weight is tied.wte.weight
    assert "lm_head.weight" not in tied.state_dict()


def test_dropout_only_in_training() -> None:
    model = GPT(GPTConfig(**{**vars(TINY), "dropout": 0.5}))
    tokens = torch.arange(8)[None]
    assert not torch.equal(model.train()(tokens), model(tokens))
    assert torch.equal(model.eval()(tokens), model(tokens))


@pytest.mark.parametrize("scheme", ["pytorch", "gpt2"])
def test_initialising_is_the_seeds_alone(scheme: str) -> None:
    first, second, third = GPT(TINY), GPT(TINY), GPT(TINY)
    initialise(first, scheme, 1)  # type: ignore[arg-type]
    before = torch.get_rng_state()
    initialise(second, scheme, 1)  # type: ignore[arg-type]
    initialise(third, scheme, 2)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), before)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
    assert not torch.equal(first.wte.weight, third.wte.weight)


def test_the_two_schemes_differ_as_they_should() -> None:
    config = GPTConfig(n_layer=8, n_head=4, n_embd=128, context_length=64, vocab_size=5000)
    book, gpt2 = GPT(config), GPT(config)
    initialise(book, "pytorch", 0)
    initialise(gpt2, "gpt2", 0)
    assert book.wte.weight.std().item() == pytest.approx(1.0, rel=0.02)
    assert gpt2.wte.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert gpt2.h[3].mlp.c_fc.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert gpt2.h[3].mlp.c_proj.weight.std().item() == pytest.approx(0.02 / 4, rel=0.02)
    assert gpt2.h[3].mlp.c_proj.bias.abs().max() == 0
    assert book.h[3].mlp.c_proj.bias.abs().max() > 0
