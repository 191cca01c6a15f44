"""GPT-2's weights from Hugging Face's hub, by its own client."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.errors import Unavailable, UserError
from pipeline.gpt2.network import web_address
from pipeline.gpt2.sizes import SIZES
from pipeline.system.files import sha256_of
from pipeline.system.http import reason_of

HUB = "https://huggingface.co"
SHA256 = 64  # hex digits: the ETag of a large file on the hub is its SHA-256


def endpoint() -> str:
    """The hub's address: `HF_ENDPOINT`, or huggingface.co.

    Raises:
        UserError: `HF_ENDPOINT` is no URL.
    """
    return web_address(os.environ.get("HF_ENDPOINT") or HUB, "HF_ENDPOINT")


def download(size: str, name: str, folder: Path) -> str:
    """Fetch one file of `size` into `folder`; return its SHA-256.

    Raises:
        UserError: `huggingface_hub` is not installed.
        Unavailable: the file cannot be had, or does not match the digest that the hub states.
    """
    try:  # an optional package
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    except ImportError:
        raise UserError(
            "gpt2.source: huggingface needs a package: pip install 'lossbook[huggingface]'"
        ) from None
    repository, hub = SIZES[size].repository, endpoint()
    try:
        url = hf_hub_url(repository, name, endpoint=hub)
        etag = get_hf_file_metadata(url, endpoint=hub).etag or ""
        hf_hub_download(repository, name, local_dir=folder, endpoint=hub)
    except Exception as error:  # the client raises many types, from two HTTP libraries
        raise Unavailable(f"{repository}/{name} cannot be fetched ({reason_of(error)})") from None
    sha256 = sha256_of(folder / name)
    if len(etag) == SHA256 and etag != sha256:
        (folder / name).unlink()
        raise Unavailable(f"{repository}/{name} does not match the hub's digest")
    return sha256
