"""The bf16 working copy: what it shares, what it rounds, how gradients come home."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from pipeline.model.gpt import GPT
from pipeline.model.loss import mean_loss
from pipeline.model.runtime import Runtime
from pipeline.training.precision import WorkingCopy

BF16 = Runtime(torch.device("cpu"), bf16=True)


@pytest.mark.parametrize("tied", [False, True])
def test_matrices_are_copied_and_the_rest_is_shared(config, tied: bool) -> None:
    master = GPT(replace(config, tie_weights=tied))
    working = WorkingCopy(master, BF16).model
    shared = dict(master.named_parameters())
    for name, parameter in working.named_parameters():
        is_linear = any(part in name for part in ("c_attn", "c_proj", "c_fc", "lm_head"))
        if is_linear or (tied and name == "wte.weight"):
            assert parameter.dtype == torch.bfloat16
            rows = parameter[: len(shared[name])].float()
            torch.testing.assert_close(rows, shared[name], rtol=1e-2, atol=1e-3)
            assert not parameter[len(rows) :].any()
        else:
            assert parameter is shared[name], name


def test_fp32_computes_on_the_model_itself(config) -> None:
    master = GPT(config)
    assert WorkingCopy(master, Runtime(torch.device("cpu"), bf16=False)).model is master


def test_gradients_are_added_in_fp32_and_let_go(config) -> None:
    master = GPT(config)
    copy = WorkingCopy(master, BF16)
    mine, theirs = master.h[0].mlp.c_fc.weight, copy.model.h[0].mlp.c_fc.weight
    for _ in range(2):  # the second step starts from nothing again
        copy.reset_gradients()
        for value in (1.0, 2.0**-9):  # bf16 alone would lose the second
            for parameter in copy.model.parameters():
                parameter.grad = torch.full_like(parameter, value)
            copy.collect_gradients()
            assert theirs.grad is None
        assert mine.grad is not None
        assert mine.grad.dtype == torch.float32
        assert torch.equal(mine.grad, torch.full_like(mine, 1.0 + 2.0**-9))


def test_shared_gradients_are_forgotten_too(config) -> None:
    master = GPT(config)
    copy = WorkingCopy(master, BF16)
    master.wte.weight.grad = torch.ones_like(master.wte.weight)
    copy.reset_gradients()
    assert master.wte.weight.grad is None


def test_refresh_rounds_the_masters_new_weights(config) -> None:
    master = GPT(config)
    copy = WorkingCopy(master, BF16)
    with torch.no_grad():
        master.lm_head.weight.add_(1.0)
    copy.refresh()
    assert torch.equal(copy.model.head_weight, master.lm_head.weight.to(torch.bfloat16))


@pytest.mark.parametrize("tied", [False, True])
def test_a_padded_head_changes_no_loss_and_no_gradient(config, tied: bool) -> None:
    """A vocabulary that is no multiple of 64, as GPT-2's."""
    config = replace(config, vocab_size=67, tie_weights=tied)
    master = GPT(config)
    copy = WorkingCopy(master, BF16)
    assert len(copy.model.padded_head_weight) == 128
    rows = torch.arange(63).view(7, 9)
    tokens, targets = rows[:, :-1], rows[:, 1:]
    with BF16.autocast():
        hidden = copy.model.eval().hidden(tokens).detach().requires_grad_()
        losses = [
            mean_loss(hidden, weight, targets, classes=67)
            for weight in (copy.model.padded_head_weight, copy.model.head_weight)
        ]
        logits = F.linear(hidden, copy.model.head_weight).flatten(0, 1)
    assert losses[0] == losses[1]
    expected = F.cross_entropy(logits.float(), targets.flatten())
    torch.testing.assert_close(losses[0], expected, rtol=1e-2, atol=1e-3)
    gradients = [torch.autograd.grad(loss, hidden)[0] for loss in losses]
    assert torch.equal(*gradients)


def test_the_token_embeddings_gradient_is_that_of_the_step(config) -> None:
    """Tokens that come twice, in two micro-batches, and none of the step before."""
    master = GPT(config)
    copy = WorkingCopy(master, BF16)
    for tokens in ([[1, 1, 3], [1, 5, 5]], [[2, 2, 2], [2, 3, 63]]):
        copy.reset_gradients()
        expected = torch.zeros_like(master.wte.weight)
        for row in tokens:
            batch = torch.tensor([row])
            scale = torch.arange(1.0, 4.0)[:, None]
            copy.model.wte(batch).mul(scale).sum().backward()
            for _, theirs in copy._pairs:
                theirs.grad = torch.zeros_like(theirs)
            copy.collect_gradients()
            expected.index_add_(0, batch[0], scale.expand(3, config.n_embd))
        assert torch.equal(master.wte.weight.grad, expected)
