"""Every matmul kernel and KV cache computes the same numbers, to its precision."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from pipeline.errors import UserError
from pipeline.generation import matmul_kernels as kernels
from pipeline.generation.cuda_graph import StaticKVCache
from pipeline.generation.decode import generate
from pipeline.generation.forward import Network
from pipeline.generation.kv_cache import KVCache
from pipeline.generation.sampling import Sampling
from pipeline.model.gpt import GPT

Tiny = Callable[..., GPT]
SHAPES = [(1, 5, 3), (1, 64, 48), (4, 64, 48), (10, 33, 17)]  # rows, inputs, outputs


def operands(rows: int, inputs: int, outputs: int) -> tuple[torch.Tensor, ...]:
    seeded = torch.Generator().manual_seed(rows)
    sizes = [(rows, 1, inputs), (outputs, inputs), (outputs,)]
    x, weight, bias = (torch.randn(size, generator=seeded) for size in sizes)
    return x * torch.logspace(-2, 2, rows)[:, None, None], weight, bias


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("biased", [True, False])
def test_exact_kernels_are_linear(rows: int, inputs: int, outputs: int, biased: bool) -> None:
    x, weight, bias = operands(rows, inputs, outputs)
    bias = bias if biased else None
    for make in (kernels.plain, kernels.onednn, kernels.reordered):
        torch.testing.assert_close(make(weight, bias)(x), F.linear(x, weight, bias))


@pytest.mark.parametrize("shape", [(1,), (2,), (3, 1), (1, 4), (5,), (2, 3)])
@pytest.mark.parametrize("biased", [True, False])
def test_reordered_weights_take_rows_of_any_shape(shape: tuple[int, ...], biased: bool) -> None:
    _, weight, bias = operands(1, 64, 48)
    bias = bias if biased else None
    x = torch.randn(*shape, 64, generator=torch.Generator().manual_seed(1))
    got = kernels.reordered(weight, bias)(x)
    torch.testing.assert_close(got, F.linear(x, weight, bias))


@pytest.fixture(params=["fbgemm", "onednn"])
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either library, where this machine has it."""
    if request.param == "onednn":
        monkeypatch.setattr(kernels, "_has_fbgemm", lambda: False)
    elif not kernels._has_fbgemm():
        pytest.skip("needs FBGEMM and VNNI")


@pytest.mark.usefixtures("by")
@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("biased", [True, False])
def test_eight_bits_are_about_1_percent_off_row_by_row(
    rows: int, inputs: int, outputs: int, biased: bool
) -> None:
    x, weight, bias = operands(rows, inputs, outputs)
    matmul = kernels.int8(weight, bias if biased else None)
    exact = F.linear(x, weight)
    y, alone = matmul(x), torch.cat([matmul(row[None]) for row in x])
    for near in (y, alone):
        off = near - bias - exact if biased else near - exact
        assert (off.norm(dim=-1) / exact.norm(dim=-1)).max() < 0.03
    pairs = torch.cat([matmul(torch.stack([row, row]))[:1] for row in x])
    among_others = matmul(torch.cat([x, 1000 * x]))[:rows]
    torch.testing.assert_close(among_others, pairs, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("by")
@pytest.mark.parametrize("rows", [1, 2])
def test_eight_bits_of_nothing_are_nothing(rows: int) -> None:
    matmul = kernels.int8(torch.zeros(3, 4), None)
    assert matmul(torch.zeros(rows, 4)).tolist() == [[0, 0, 0]] * rows


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_rounded_weights_give_nearly_the_models_logits(tiny: Tiny, precision: str) -> None:
    model = tiny(4, n_embd=32)
    tokens = [[3, 1, 4, 1, 5]] * 3
    sampling = [Sampling(seed=seed) for seed in range(3)]
    exact = generate(model, tokens, sampling, 1, end_of_text=-1)
    near = generate(model, tokens, sampling, 1, precision=precision, end_of_text=-1)  # type: ignore[arg-type]
    for a, b in zip(exact, near, strict=True):
        assert a.tokens == b.tokens
        assert a.mean_log_prob == pytest.approx(b.mean_log_prob, abs=0.05)


def test_eight_bits_on_another_device_are_refused(tiny: Tiny) -> None:
    model = tiny().to("meta")
    with pytest.raises(UserError, match="int8 decoding is for the CPU"):
        kernels.choose_kernel(model, rows=1, steps=10, precision="int8")


@pytest.mark.parametrize(
    ("rows", "steps", "name"),
    [(1, 50, "onednn"), (4, 50, "reordered"), (4, 2, "onednn")],
)
def test_the_kernel_follows_the_work(tiny: Tiny, rows: int, steps: int, name: str) -> None:
    assert kernels.choose_kernel(tiny(), rows=rows, steps=steps, precision="model") == name


@pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="a CPU without bf16 matmuls"
)
def test_in_bf16_weights_are_reordered_for_one_row_too(tiny: Tiny) -> None:
    model = tiny(2, n_embd=32).bfloat16()
    assert kernels.choose_kernel(model, rows=1, steps=50, precision="model") == "reordered"
    assert kernels.choose_kernel(model, rows=1, steps=2, precision="model") == "onednn"
    linear = model.h[0].mlp.c_fc
    with torch.inference_mode():
        for rows in (1, 3):
            x = torch.randn(rows, 32).bfloat16()
            for make in (kernels.onednn, kernels.reordered):
                got = make(linear.weight.detach(), linear.bias.detach())(x)
                torch.testing.assert_close(got, linear(x), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("prompts", [[[1, 2, 3]], [[1, 2, 3], [4]], [[9], [8, 7, 6, 5], [3, 2]]])
def test_a_static_kv_cache_gives_the_same_logits(tiny: Tiny, prompts: list[list[int]]) -> None:
    """What a CUDA graph captures, run on the CPU."""
    model = tiny(6)
    network = Network(model)
    logits = []
    with torch.inference_mode():
        for kind in (KVCache, StaticKVCache):
            lengths = [len(prompt) for prompt in prompts]
            cache = kind(model.config, lengths, 7, like=network.wte, max_sequences=4)
            steps = [network.prefill(prompts, cache)]
            addresses = [tensor.data_ptr() for tensor in cache.keys + cache.values]
            for token in range(5):
                tokens = torch.full((len(prompts), 1), token)
                steps.append(network.advance(tokens, cache, network.plain)[:, 0])
            cache.select([*range(1, len(prompts)), 0, 0])  # sequences leave, move and fork
            tokens = torch.arange(len(prompts) + 1)[:, None]
            for _ in range(2):
                steps.append(network.advance(tokens, cache, network.plain)[:, 0])
            assert addresses == [tensor.data_ptr() for tensor in cache.keys + cache.values]
            logits.append(torch.cat(steps))
    torch.testing.assert_close(*logits)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_captured_step_decodes_as_the_cpu_does(tiny: Tiny) -> None:
    model = tiny(7, context_length=32)
    prompts = [[1, 2, 3], [4], [1, 2, 3]]
    sampling = [Sampling(0.0), Sampling(1.0, 10, seed=1), Sampling(1.0, seed=2)]
    expected = generate(model, prompts, sampling, 20, end_of_text=60)
    on_gpu = generate(model.cuda(), prompts, sampling, 20, end_of_text=60)
    assert [c.tokens for c in on_gpu] == [c.tokens for c in expected]
