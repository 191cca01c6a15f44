"""The mean of models' probabilities, from their losses alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.special import logsumexp

from pipeline.evaluation.ensemble import MeanProbability, find_ensemble, measure_ensemble
from pipeline.evaluation.measure import measure_model
from pipeline.model.gpt import GPT, GPTConfig, initialise
from pipeline.model.saved import save_config, save_weights
from pipeline.tokens.splits import Splits
from pipeline.tokens.tokenizer import encode
from tests.helpers.tokens import write_split

LENGTH = 16


def mixed(members: np.ndarray, batch: int = 2) -> np.ndarray:
    """The ensemble's losses, (W, T), of members' (N, W, T), which come in batches."""
    mean = MeanProbability(*members.shape[1:])
    for losses in members:
        for row in range(0, len(losses), batch):
            mean.add(losses[row : row + batch])
    return mean.losses(0, members.shape[1])


nats = st.floats(0, 2000, width=32)
losses = arrays(np.float32, array_shapes(min_dims=3, max_dims=3, max_side=5), elements=nats)


@given(losses)
def test_it_is_never_worse_than_its_members_mean_and_never_better_than_the_best(
    members: np.ndarray,
) -> None:
    """By Jensen, for each token and so in the total; a probability is at most the largest's."""
    found, exact = mixed(members).astype(float), members.astype(float)
    slack = 1e-6 * (1 + exact.max(0))  # what float32 rounds off
    assert (found <= exact.mean(0) + slack).all()
    assert (found >= exact.min(0) - slack).all()
    assert found.mean() <= exact.mean() + slack.mean()


@given(losses)
def test_it_is_what_scipy_makes_of_all_at_once(members: np.ndarray) -> None:
    wanted = np.log(len(members)) - logsumexp(-members.astype(float), axis=0)
    np.testing.assert_allclose(mixed(members), wanted, rtol=1e-6, atol=1e-6)


def test_equal_members_are_each_of_them_and_what_is_not_finite_stays_so() -> None:
    one = np.float32([[0.3, 7.5], [np.inf, np.nan]])
    np.testing.assert_array_equal(mixed(np.stack([one] * 4)), one)
    assert mixed(np.float32([[[np.inf]], [[1.0]]])) == pytest.approx(1 + np.log(2))


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    folder = tmp_path_factory.mktemp("tokens")
    for name, words in (("train", 40), ("val", 60), ("test", 50)):
        write_split(folder / name, encode(f"best {name} " * words))
    return Splits.open(folder, LENGTH, most=4)


def write_model(folder: Path, seed: int, **more: int) -> str:
    size = {"n_layer": 1, "n_head": 1, "n_embd": 8, "context_length": LENGTH}
    model = GPT(GPTConfig(**{**size, **more}))
    initialise(model, "pytorch", seed)
    folder.mkdir()
    save_config(folder, model.config)
    save_weights(folder, model.state_dict(), "best")
    return str(folder)


def test_models_of_other_sizes_are_measured_as_their_tokens_losses_say(
    splits: Splits, tmp_path: Path
) -> None:
    names = [write_model(tmp_path / f"{n}", n, n_layer=1 + n, n_embd=8 * n) for n in (1, 2, 3)]
    sources = find_ensemble(names, splits)
    kept: dict[str, list[np.ndarray]] = {name: [] for name in splits.windows}
    counted: list[int] = []
    found = measure_ensemble(
        sources,
        splits,
        3,
        torch.device("cpu"),
        keep=lambda split, losses: kept[split].append(losses),
        progress=counted.append,
    )
    assert sum(counted) == 3 * len(splits)
    models = [source.load() for source in sources]
    assert found.members == tuple(names)
    assert found.parameters == sum(model.count_parameters() for model in models)
    alone: list[dict[str, list[np.ndarray]]] = [{name: [] for name in kept} for _ in models]
    for model, of_model in zip(models, alone, strict=True):
        measure_model(
            model,
            splits,
            2,
            None,
            keep=lambda split, losses, into=of_model: into[split].append(losses),
            progress=lambda windows: None,
        )
    for split, losses in found.by_split.items():
        members = np.stack([np.concatenate(of_model[split]) for of_model in alone]).astype(float)
        wanted = np.log(3) - logsumexp(-members, axis=0)
        np.testing.assert_allclose(np.concatenate(kept[split]), wanted, rtol=1e-5)
        assert losses.loss == pytest.approx(np.concatenate(kept[split]).mean(dtype=float))
        assert losses.loss < members.mean()
        assert (losses.windows, losses.tokens) == (len(wanted), wanted.size)
