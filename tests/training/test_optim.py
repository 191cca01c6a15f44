"""Which parameters decay, and by which optimizer."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from pipeline.model.gpt import GPT, GPTConfig
from pipeline.params import Train
from pipeline.training.optim import OPTIMIZERS, build_optimizer, groups_by_decay


def test_only_matrices_decay(config) -> None:
    model = GPT(config)
    optimizer = build_optimizer(model, Train(weight_decay=0.3))
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in model.named_parameters():
        assert decay[id(parameter)] == (0.3 if parameter.dim() == 2 else 0.0), name
    assert len(decay) == len(list(model.parameters()))


def test_the_optimizer_is_pytorchs_fused_adamw(config) -> None:
    optimizer = build_optimizer(GPT(config), Train())
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["fused"]


def test_an_optimizer_is_a_function_and_an_entry(config, monkeypatch) -> None:
    def sgd(model, settings):
        return torch.optim.SGD(groups_by_decay(model.parameters(), settings), lr=0.5)

    monkeypatch.setitem(OPTIMIZERS, "sgd", sgd)
    settings = Train(weight_decay=0.3).model_copy(update={"optimizer": "sgd"})
    optimizer = build_optimizer(GPT(config), settings)
    assert isinstance(optimizer, torch.optim.SGD)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]


def test_betas_and_eps_are_adamws(config) -> None:
    settings = Train(betas=(0.8, 0.95), eps=1e-6)
    for name in OPTIMIZERS:
        chosen = settings.model_copy(update={"optimizer": name})
        groups = build_optimizer(GPT(config), chosen).param_groups
        assert {g["betas"] for g in groups if "betas" in g} == {(0.8, 0.95)}
        assert {g["eps"] for g in groups if "betas" in g} == {1e-6}


def give_gradients(parameters, step: int) -> None:
    torch.manual_seed(step)
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)


@pytest.fixture(params=[{}, {"tie_weights": True, "qkv_bias": True}])
def shape(request, config) -> GPTConfig:
    return replace(config, **request.param)


def test_muons_step_is_pytorchs_on_each_matrix_and_adamws_on_the_rest(shape) -> None:
    settings = Train(optimizer="muon", learning_rate=0.02, weight_decay=0.3, betas=(0.8, 0.9))
    model = GPT(shape)
    expected = {name: p.detach().clone() for name, p in model.named_parameters()}
    matrices = {
        name: parts_of(p) for name, p in expected.items() if name[:2] == "h." and p.dim() == 2
    }
    others = [p for name, p in expected.items() if name not in matrices]
    parts = [part for of_one in matrices.values() for part in of_one]
    theirs = [
        torch.optim.Muon(parts, lr=0.02, weight_decay=0.3, adjust_lr_fn="match_rms_adamw"),
        *(
            torch.optim.AdamW(group, lr=0.02, weight_decay=decay, betas=(0.8, 0.9))
            for group, decay in (
                ([p for p in others if p.dim() == 2], 0.3),
                ([p for p in others if p.dim() == 1], 0.0),
            )
        ),
    ]
    assert len(parts) == shape.n_layer * 6
    ours = build_optimizer(model, settings)
    for step in range(3):
        give_gradients(model.parameters(), step)
        for name, parameter in model.named_parameters():
            expected[name].grad = parameter.grad
        for name, of_one in matrices.items():
            gradients = parts_of(model.get_parameter(name).grad)
            for part, gradient in zip(of_one, gradients, strict=True):
                part.grad = gradient
        for optimizer in (ours, *theirs):
            optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=0, atol=1e-6, msg=name)


def parts_of(matrix: torch.Tensor) -> list[torch.Tensor]:
    """A fused matrix's queries', keys' and values', as views; another one by itself."""
    rows, columns = matrix.shape
    return list(matrix.chunk(3)) if rows == 3 * columns else [matrix]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_dict_is_plain_tensors_by_parameter_and_goes_on_bit_for_bit(config, name) -> None:
    settings = Train(optimizer=name, ema_decay=0.9)
    model = GPT(config)
    optimizer = build_optimizer(model, settings)
    for step in range(2):
        give_gradients(model.parameters(), step)
        optimizer.step()
    again = copy.deepcopy(model)
    other = build_optimizer(again, settings)
    saved = copy.deepcopy(optimizer.state_dict())
    other.load_state_dict(saved)
    assert sorted(saved["state"]) == list(range(len(list(model.parameters()))))
    for tensors in saved["state"].values():
        assert {type(tensor) for tensor in tensors.values()} == {torch.Tensor}
    for trained, by in ((model, optimizer), (again, other)):
        give_gradients(trained.parameters(), 2)
        by.step()
    for parameter, expected in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(parameter, expected)
        assert_equal_states(other.state[parameter], optimizer.state[expected])


def assert_equal_states(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
