"""bf16 training on a CPU: matrices kept twice, in fp32 to learn and in bf16 to multiply.

Autocast would cast every matrix in every forward pass and cast every gradient back into fresh
memory. Here the bf16 copies stay allocated and are written once per step, and bf16 gradients are
added into fp32 buffers that stay allocated too. The head's copy has the rows of padding that its
products want. Embeddings and layer norms are one tensor in both models, so the residual stream
stays fp32, as under autocast.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.model.gpt import GPT, meta_model
from pipeline.model.loss import padded
from pipeline.model.runtime import Runtime


class WorkingCopy:
    """The model that computes, beside the model that learns.

    Attributes:
        model: run forward and backward on this one. It is `master` itself where nothing is gained
            by a copy (fp32; CUDA, whose autocast is cheap; FSDP2, which casts what it gathers).
    """

    def __init__(self, master: GPT, runtime: Runtime, *, copies: bool = True) -> None:
        """
        Args:
            copies: whether there may be a copy at all.
        """
        self.model = self._master = master
        self._pairs: list[tuple[nn.Parameter, nn.Parameter]] = []  # (master, working)
        self._collected = False  # whether the master's gradients are of this step already
        if runtime.bf16 and runtime.device.type == "cpu" and copies:
            self.model = self._build(master)

    def _build(self, master: GPT) -> GPT:
        working = meta_model(master.config)
        matrices = {id(p) for p in _matrices(master)}
        state: dict[str, nn.Parameter] = {}
        for name, parameter in master.named_parameters():
            state[name] = parameter
            if id(parameter) in matrices:
                rounded = padded if parameter is master.head_weight else Tensor.to
                state[name] = nn.Parameter(rounded(parameter.detach(), torch.bfloat16))
                self._pairs.append((parameter, state[name]))
        for name, parameter in state.items():  # the very tensors, so that gradients meet
            module, _, attribute = name.rpartition(".")
            setattr(working.get_submodule(module), attribute, parameter)
        return working.train(master.training)

    def reset_gradients(self) -> None:
        """Drop the last step's gradients; the fp32 buffers stay, to be written over."""
        buffered = {id(master) for master, _ in self._pairs}
        for parameter in self.model.parameters():
            parameter.grad = None
        for parameter in self._master.parameters():
            if id(parameter) not in buffered:
                parameter.grad = None
        self._collected = False

    @torch.no_grad()
    def collect_gradients(self) -> None:
        """Add the copies' gradients to the step's in the master, and free the copies'."""
        for master, working in self._pairs:
            assert working.grad is not None, "every matrix takes part in every forward pass"
            if master.grad is None:
                master.grad = torch.empty_like(master)
            grad = working.grad[: len(master)]
            if self._collected:
                master.grad.add_(grad)
            else:
                master.grad.copy_(grad)
            working.grad = None
        self._collected = True

    @torch.no_grad()
    def refresh(self) -> None:
        """Round the master's matrices into the copies, after an optimizer step."""
        for master, working in self._pairs:
            working[: len(master)] = master


def _matrices(model: GPT) -> list[nn.Parameter]:
    """The weights and biases of linear layers, and the token embedding where it is the head."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    head = [model.wte] if model.config.tie_weights else []
    return [p for layer in [*layers, *head] for p in layer.parameters()]
