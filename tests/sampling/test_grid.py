"""The grid: every cell is there, and its samples are those that its settings give alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.generation.decode import generate, next_token_probabilities
from pipeline.generation.sampling import Sampling
from pipeline.model.gpt import GPT
from pipeline.params import Sample
from pipeline.reports import SampleReport
from pipeline.sampling.grid import SamplingGrid, plan, sample_grid, tokens_to_draw
from pipeline.sampling.metrics import METRICS, SampleMetric
from pipeline.sampling.section import sampling_section
from pipeline.sampling.stage import numbers, write
from pipeline.tokens.tokenizer import decode, encode

SETTINGS = Sample.model_validate(
    {
        "prompts": ("Every effort", "He said"),
        "max_new_tokens": 12,
        "temperature": 1.4,
        "top_k": 25,
        "seed": 7,
        "grid": {"temperature": (0.0, 1.0), "top_k": (1, 5, None)},
    }
)


class Corpus:
    """Tokens in memory."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = np.array(tokens, dtype=np.uint16)

    def __len__(self) -> int:
        return len(self.tokens)

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.tokens[start:stop]


@pytest.fixture(scope="module")
def model(tiny: Callable[..., GPT]) -> GPT:
    return tiny(5, vocab_size=50257, n_embd=8, context_length=32)


@pytest.fixture(scope="module")
def greedy(model: GPT) -> tuple[int, ...]:
    return generate(model, [encode("He said")], [Sampling(0.0)], 12)[0].tokens


@pytest.fixture(scope="module")
def result(model: GPT, greedy: tuple[int, ...]) -> SamplingGrid:
    corpus = Corpus([1, 2, *greedy[2:], 3])
    return sample_grid(model, SETTINGS, corpus, judge=lambda prompts, drawn: [24.0 for _ in drawn])


def test_the_grid_is_every_temperature_with_every_top_k(result: SamplingGrid) -> None:
    cells = [(cell.sampling.temperature, cell.sampling.top_k) for cell in result.cells]
    assert cells == [(t, k) for t in (0.0, 1.0) for k in (1, 5, None)]
    assert result.chosen.sampling == Sampling(1.4, 25, seed=7)
    assert len(result.samples) == 2 * (6 + 1)
    assert [s.prompt for s in result.samples[:2]] == list(SETTINGS.prompts)
    assert result.samples[0].completion.sampling == result.chosen.sampling


def test_each_sample_is_what_its_settings_give_alone(model: GPT, result: SamplingGrid) -> None:
    for sample in result.samples:
        sampling = sample.completion.sampling
        (alone,) = generate(model, [encode(sample.prompt)], [sampling], 12)
        assert alone.tokens == sample.completion.tokens


def test_what_the_greedy_sample_copies_is_found(
    result: SamplingGrid, greedy: tuple[int, ...]
) -> None:
    cell = next(cell for cell in result.cells if cell.sampling == Sampling(0.0, 5, seed=7))
    assert cell.metrics["longest_copy"] == 10
    sample = next(
        s for s in result.samples if s.prompt == "He said" and s.completion.sampling.greedy
    )
    assert sample.copies.longest == greedy[2:]
    assert sample.copies.position == 2
    assert sample.copies.spans == ((2, 12),)
    ((start, stop),) = sample.report().copies
    assert sample.completion.text[start:stop] == decode(greedy[2:])
    assert cell.metrics["gpt2_perplexity"] == pytest.approx(np.exp(2))


def test_a_chosen_setting_that_is_in_the_grid_is_drawn_once() -> None:
    settings = SETTINGS.model_copy(update={"temperature": 1.0, "top_k": 5})
    chosen, grid = plan(settings)
    assert chosen in grid


def test_the_next_token_is_reshaped_as_the_settings_say(model: GPT, result: SamplingGrid) -> None:
    with torch.no_grad():
        logits = model(torch.tensor([encode("Every effort")]))[0, -1].double()
    best = logits.topk(10)
    by_temperature = [d for d in result.next_token if d.filter == "temperature"]
    by_top_k = [d for d in result.next_token if d.filter == "top_k"]
    assert [d.temperature for d in by_temperature] == [0.0, 1.0]
    assert by_temperature[0].probabilities == (1.0, *[0.0] * 9)
    expected = torch.softmax(logits, -1)[best.indices]
    assert by_temperature[1].probabilities == pytest.approx(expected.tolist(), rel=1e-4)
    assert by_temperature[1].others == pytest.approx(1 - float(expected.sum()), abs=1e-5)
    five = torch.softmax(best.values[:5] / 1.4, -1)
    assert by_top_k[1].probabilities == pytest.approx([*five.tolist(), *[0] * 5], rel=1e-4)


def test_the_record_is_json_of_the_contract(result: SamplingGrid) -> None:
    record = json.loads(json.dumps(result.report().model_dump(mode="json"), allow_nan=False))
    first = record["samples"][0]
    assert list(first)[:5] == ["prompt", "temperature", "top_k", "seed", "completion"]
    assert record["prompts"] == list(SETTINGS.prompts)
    for cell in record["grid"]:
        assert all(isinstance(value, int | float | None) for value in cell.values())


def test_next_token_probabilities_look_at_the_end_of_a_long_prompt(model: GPT) -> None:
    prompt = list(range(100))
    whole = next_token_probabilities(model, prompt, [Sampling(1.0)])
    end = next_token_probabilities(model, prompt[-32:], [Sampling(1.0)])
    assert torch.equal(whole, end)
    assert float(whole.sum()) == pytest.approx(1.0)


def test_progress_counts_each_token_that_is_drawn(model: GPT) -> None:
    counts: list[int] = []
    result = sample_grid(model, SETTINGS, Corpus([1, 2, 3]), progress=counts.append)
    lengths = [len(sample.completion.tokens) for sample in result.samples]
    assert sum(counts) == sum(lengths) <= tokens_to_draw(SETTINGS)


@pytest.fixture
def new_metric() -> Iterator[None]:
    """A metric that is an entry of the list, and nothing else."""
    metric = SampleMetric(
        "mean_id",
        "mean token id",
        lambda group: sum(map(sum, group.texts)) / group.tokens,
        headline=True,
        figure_place=2,
        page_place=1,
    )
    METRICS.append(metric)
    yield
    METRICS.remove(metric)


@pytest.mark.usefixtures("new_metric")
def test_a_new_metric_is_one_entry_of_the_list(model: GPT, tmp_path: Path) -> None:
    grid = sample_grid(model, SETTINGS, Corpus([1, 2, 3]))
    write(tmp_path, grid)
    record = json.loads((tmp_path / "samples.json").read_text())
    tokens = [token for sample in grid.samples[:2] for token in sample.completion.tokens]
    mean = pytest.approx(sum(tokens) / len(tokens), abs=1e-6)
    assert record["chosen"]["mean_id"] == mean
    assert all("mean_id" in cell for cell in record["grid"])
    assert json.loads((tmp_path / "diversity.json").read_text())["mean_id"] == mean
    header = (tmp_path / "samples.md").read_text().splitlines()[2]
    assert header.endswith("| mean token id |")
    section = sampling_section(SampleReport.read(tmp_path / "sampling_grid.json"))
    assert section is not None
    assert "mean token id" in [one.title for one in section.maps]
    assert numbers("chosen", grid.chosen)["chosen/mean_id"] == mean
