"""The architecture: names, sizes, causality, initialisation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.model import gpt
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


@pytest.mark.parametrize(
    ("narrow_on", "bf16", "expected"),
    [
        ({"cpu"}, True, torch.bfloat16),
        ({"cpu"}, False, torch.float32),
        ({"cuda"}, True, torch.float32),  # what a CPU's training has been, to the bit
    ],
)
def test_the_residual_stream_is_in_the_products_type_where_that_gains(
    monkeypatch: pytest.MonkeyPatch, narrow_on: set[str], bf16: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(gpt, "NARROW_ON", narrow_on)
    model = GPT(TINY)
    seen: list[torch.dtype] = []
    for block in model.h:
        block.register_forward_hook(lambda _, inputs, y: seen.extend([inputs[0].dtype, y.dtype]))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        seen.append(model.hidden(torch.zeros(1, 8, dtype=torch.int64)).dtype)
    assert set(seen) == {expected}


def test_a_narrow_residual_stream_costs_little_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and gradients of bf16 products beside float64, with either stream."""
    config = replace(TINY, n_layer=6, n_embd=64, dropout=0.0)
    model, exact = GPT(config), GPT(config).double()
    initialise(model, "gpt2", 1)
    exact.load_state_dict(model.state_dict())
    tokens = torch.randint(0, 97, (4, 9), generator=torch.Generator().manual_seed(2))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]

    def loss_and_gradient(of: GPT) -> tuple[float, Tensor]:
        loss = F.cross_entropy(of(inputs).flatten(0, 1).to(of.wte.weight.dtype), targets.flatten())
        gradients = torch.autograd.grad(loss, list(of.parameters()))
        return loss.item(), torch.cat([each.flatten().double() for each in gradients])

    expected, direction = loss_and_gradient(exact)
    errors = []
    for narrow_on in (set(), {"cpu"}):
        monkeypatch.setattr(gpt, "NARROW_ON", narrow_on)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, gradient = loss_and_gradient(model)
        assert loss == pytest.approx(expected, rel=1e-3)
        errors.append(((gradient - direction).norm() / direction.norm()).item())
    assert 0 < errors[0] != errors[1] < 0.01
