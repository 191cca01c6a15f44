"""Tokens joined into whole characters, with every model's losses."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.comparison.table import read_comparison
from pipeline.comparison.token_view import TokenView, token_view, whole_characters
from pipeline.errors import UserError
from pipeline.tokens.tokenizer import encode, token_bytes

GOLDEN = Path(__file__).parents[1] / "golden" / "comparison"


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN, tmp_path / "reports"))


def view_of(reports: Path) -> TokenView | None:
    comparison = read_comparison(
        reports / "evaluate.json", reports / "train.json", reports / "baselines", ["124M", "1558M"]
    )
    return token_view(comparison, reports / "token_losses", token_bytes)


def test_each_measured_model_has_a_loss_for_each_piece(reports: Path) -> None:
    view = view_of(reports)
    assert view is not None
    assert view.models == ("scratch (best)", "scratch (last)", "GPT-2 small (124M)")
    first, second, third = view.windows
    assert "".join(piece.text for piece in first) == "He said <b>no</b"
    assert [piece.text for piece in second] == [">", " &", " left", " 🙂", "\n", "\n", "“"]
    assert "".join(piece.text for piece in third) == "Well, café”, she sang"
    assert first[1].losses == (6.0, 6.6, 3.0)
    assert second[-1].tokens == 2
    # The losses of a character's two tokens are added.
    losses = json.loads((reports / "token_losses" / "scratch.json").read_text())["models"]
    assert second[-1].losses[0] == losses["best"][14] + losses["best"][15]


def test_a_model_without_losses_is_left_out(reports: Path) -> None:
    (reports / "token_losses" / "124M.json").unlink()
    view = view_of(reports)
    assert view is not None
    assert view.models == ("scratch (best)", "scratch (last)")
    (reports / "token_losses" / "scratch.json").unlink()
    assert view_of(reports) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [("corpus_sha256", "6" * 64), ("context_length", 12), ("tokens", list(range(24)))],
)
def test_losses_of_other_tokens_are_refused(reports: Path, key: str, value: object) -> None:
    path = reports / "token_losses" / "124M.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(UserError, match=f"{key} differs") as error:
        view_of(reports)
    assert str(path) in str(error.value)
    assert str(reports / "token_losses" / "scratch.json") in str(error.value)


def test_as_many_losses_as_tokens(reports: Path) -> None:
    path = reports / "token_losses" / "scratch.json"
    content = json.loads(path.read_text())
    content["models"]["last"].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"models\.last has 23 losses for 24 tokens"):
        view_of(reports)


def check_pieces(parts: list[bytes]) -> list[str]:
    """Every part is in one piece, in order; return the pieces' texts."""
    pieces = list(whole_characters(parts))
    places = [place for _, begin, stop in pieces for place in range(begin, stop)]
    assert places == list(range(len(parts)))
    return [text for text, _, _ in pieces]


@given(st.text(), st.data())
@settings(max_examples=60, deadline=None)
def test_text_cut_anywhere_comes_back_whole(text: str, data: st.DataObject) -> None:
    whole = text.encode("utf-8", errors="replace")
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)))) | {0, len(whole)})
    texts = check_pieces([whole[a:b] for a, b in itertools.pairwise(cuts)])
    assert "".join(texts) == whole.decode()


@given(st.lists(st.binary(max_size=4), max_size=12))
@settings(max_examples=60, deadline=None)
def test_bytes_that_are_no_text_lose_no_token(parts: list[bytes]) -> None:
    check_pieces(parts)


def test_a_character_cut_by_the_edge_of_a_window() -> None:
    smile = [token_bytes(token) for token in encode("a 🤖")]
    assert len(smile) == 4  # "a", and three for the robot and its blank
    assert check_pieces(smile) == ["a", " 🤖"]
    assert check_pieces(smile[:-1]) == ["a", " <F0 9F A4>"]
    assert check_pieces([*smile[-1:], b"ok"]) == ["<96>", "ok"]
