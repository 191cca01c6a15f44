"""One measurement for every model: losses, losses of single tokens, completions."""

from __future__ import annotations

import pytest

from pipeline.evaluation.measure import (
    SHOWN_TOKENS,
    Splits,
    measure_model,
    token_losses_report,
)
from pipeline.generation.decode import complete
from pipeline.generation.sampling import Sampling
from pipeline.model.gpt import GPT, GPTConfig, initialise
from pipeline.model.perplexity import measure
from pipeline.params import Compare
from pipeline.tokens.tokenizer import encode
from tests.helpers.tokens import write_split

LENGTH = 300  # so that the tokens shown end within a window
PROMPTS = Compare(prompts=("The capital of France is", "Water"), max_new_tokens=4)


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    folder = tmp_path_factory.mktemp("tokens")
    for name, words in (("train", 400), ("val", 1600)):
        write_split(folder / name, encode("best worst " * words))
    return Splits.open(folder, LENGTH)


@pytest.fixture(scope="module")
def model() -> GPT:
    model = GPT(GPTConfig(n_layer=1, n_head=1, n_embd=8, context_length=LENGTH))
    initialise(model, "pytorch", 0)
    return model.eval()


def test_everything_is_measured_and_every_window_counted(model: GPT, splits: Splits) -> None:
    counted: list[int] = []
    found = measure_model(model, splits, 3, PROMPTS, progress=counted.append)
    assert found.losses.train == measure(model, splits.train, 3)
    assert found.losses.val == measure(model, splits.val, 3)
    assert sum(counted) == len(splits) == len(splits.train) + len(splits.val)
    greedy = Sampling(temperature=0.0)
    assert [(c.prompt, c.completion) for c in found.completions] == [
        (prompt, complete(model, prompt, greedy, 4)) for prompt in PROMPTS.prompts
    ]
    assert measure_model(model, splits, 3, None, progress=counted.append).completions == ()


def test_the_losses_by_token_are_of_the_first_targets(model: GPT, splits: Splits) -> None:
    found = measure_model(model, splits, 3, None, progress=lambda windows: None)
    report = token_losses_report(splits, {"tiny": found.token_losses})
    assert len(report.tokens) == SHOWN_TOKENS
    assert list(report.tokens) == splits.val.tokens.read(1, SHOWN_TOKENS + 1).tolist()
    first = measure(model, splits.val, 3, indices=range(1)).loss
    assert sum(report.models["tiny"][:LENGTH]) / LENGTH == pytest.approx(first, abs=1e-4)
    assert (report.corpus_sha256, report.context_length) == ("c" * 64, LENGTH)


def test_what_was_measured_in_words(splits: Splits) -> None:
    assert str(splits).startswith("**tiny**: ")
    assert str(splits).endswith(f"validation windows of {LENGTH} tokens")
