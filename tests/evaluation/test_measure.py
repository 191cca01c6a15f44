"""One measurement for every model: losses, losses of single tokens, completions."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluation.measure import measure_model
from pipeline.generation.decode import complete
from pipeline.generation.sampling import Sampling
from pipeline.model.gpt import GPT, GPTConfig, initialise
from pipeline.model.perplexity import measure
from pipeline.params import Compare
from pipeline.tokens.splits import Splits
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


def test_each_batch_is_kept_as_it_is_measured(model: GPT, splits: Splits) -> None:
    kept: dict[str, list[np.ndarray]] = {"train": [], "val": []}
    found = measure_model(
        model,
        splits,
        3,
        None,
        keep=lambda split, losses: kept[split].append(losses),
        progress=lambda windows: None,
    )
    for split, losses in kept.items():
        joined = np.concatenate(losses)
        assert joined.shape == (len(splits.windows[split]), LENGTH)
        reported = found.losses.by_split[split].loss
        assert joined.mean(dtype="f8") == pytest.approx(reported, rel=1e-12)


def test_a_test_split_and_a_part_of_the_windows(model: GPT, splits: Splits) -> None:
    write_split(splits.val.tokens.folder.parent / "test", encode("worse " * 2000))
    some = Splits.open(splits.val.tokens.folder.parent, LENGTH, most=2)
    found = measure_model(model, some, 3, None, progress=lambda windows: None)
    assert {name: one.windows for name, one in found.losses.by_split.items()} == {
        name: len(range(0, len(windows), -(-len(windows) // 2)))
        for name, windows in some.windows.items()
    }
    assert found.losses.test is not None
    assert found.losses.test == measure(model, some.test, 3, indices=some.test.spread(2))
    assert str(some).endswith(f"2 test and 2 validation windows of {LENGTH} tokens")


def test_what_was_measured_in_words(splits: Splits) -> None:
    assert str(splits).startswith("**tiny**: ")
    assert str(splits).endswith(f"validation windows of {LENGTH} tokens")
