"""What compilation and recomputation change: nothing, but rounding."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipeline.errors import UserError
from pipeline.model import objective as objective_module
from pipeline.model.gpt import GPT, initialise
from pipeline.model.objective import Objective, compiles
from pipeline.params import Train

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def loss_and_gradients(config, **settings: object) -> tuple[float, dict[str, torch.Tensor], int]:
    """Of a batch with dropout; also how often a block was computed."""
    model = GPT(config)
    initialise(model, "gpt2", seed=3)
    computed = []
    model.h[0].mlp.register_forward_hook(lambda *_: computed.append(1))
    tokens = torch.randint(0, 64, (2, 9), generator=torch.Generator().manual_seed(4))
    objective = Objective(model, Train.model_validate(settings), CPU)
    torch.manual_seed(5)
    loss = objective.train()(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters()}, len(computed)


def test_recomputed_activations_give_the_same_bits(config) -> None:
    loss, gradients, once = loss_and_gradients(config)
    again, others, twice = loss_and_gradients(config, activation_checkpointing=True)
    assert (once, twice) == (1, 2)
    assert again == loss
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        assert torch.equal(others[name], gradient), name


def test_a_training_with_recomputation_ends_with_the_same_weights(make_trainer) -> None:
    plain, every = make_trainer(epochs=1)
    frugal, recomputed = make_trainer(epochs=1, activation_checkpointing=True)
    plain.run()
    frugal.run()
    assert every.evaluations == recomputed.evaluations
    names = plain.model.state_dict().keys()
    assert names == frugal.model.state_dict().keys()
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(frugal.model.state_dict()[name], tensor), name


@pytest.mark.slow  # the compiler takes half a minute
@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_equals_eager(config, recompute: bool) -> None:
    still = replace(config, dropout=0.0)
    if not _has_compiler():
        pytest.skip("no C++ compiler here")
    loss, gradients, _ = loss_and_gradients(still)
    same, others, _ = loss_and_gradients(still, compile=True, activation_checkpointing=recompute)
    assert same == pytest.approx(loss, rel=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_compiled_training_learns_and_repeats_itself(make_trainer) -> None:
    if not _has_compiler():
        pytest.skip("no C++ compiler here")
    eager, _ = make_trainer(epochs=2)
    (first, one), (second, two) = (make_trainer(epochs=2, compile=True) for _ in range(2))
    for trainer in (eager, first, second):
        trainer.run()
    assert one.evaluations == two.evaluations
    assert first.history[-1].train_loss == pytest.approx(eager.history[-1].train_loss, abs=0.1)


@pytest.mark.parametrize(
    ("device", "whole", "recompute", "blocks", "graphs"),
    [
        (CUDA, True, False, 24, 1),
        (CUDA, True, False, 25, 25),
        (CUDA, False, False, 2, 2),
        (CUDA, True, True, 2, 2),
        (CPU, True, False, 2, 2),
    ],
)
def test_blocks_are_compiled_together_on_a_gpu_that_is_alone(
    config, monkeypatch, device, whole: bool, recompute: bool, blocks: int, graphs: int
) -> None:
    """`graphs`: functions that the compiler is given."""
    given: list[object] = []
    monkeypatch.setattr(objective_module, "_missing_compiler", lambda device: None)
    monkeypatch.setattr(torch, "compile", lambda function, **_: given.append(function) or function)
    settings = Train(compile=True, activation_checkpointing=recompute)
    Objective(GPT(replace(config, n_layer=blocks)), settings, device, whole=whole)
    assert len(given) == graphs


def _has_compiler() -> bool:
    try:
        return compiles(Train(compile=True), CPU)
    except UserError:
        return False


def test_auto_compiles_nothing_on_a_cpu() -> None:
    assert not compiles(Train(compile="auto"), CPU)
    assert not compiles(Train(compile=False), CUDA)


@pytest.mark.parametrize(("device", "what"), [(CPU, r"C\+\+ compiler"), (CUDA, "Triton")])
def test_a_compiler_that_is_asked_for_must_be_there(monkeypatch, device, what: str) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr("pipeline.model.objective.find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"train\.compile: true needs .*{what}.* not there"):
        compiles(Train(compile=True), device)
    assert not compiles(Train(compile="auto"), device)
