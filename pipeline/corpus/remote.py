"""What lies under a URL that fsspec opens: `s3://`, `gs://`, `hf://datasets/…`, `memory://`, …"""

from __future__ import annotations

from pathlib import PurePosixPath

from fsspec.core import has_magic, url_to_fs

from pipeline.corpus.storage import File, suffix_of
from pipeline.errors import UserError
from pipeline.system.http import public
from pipeline.system.text import printable


def remote_files(url: str, suffixes: tuple[str, ...]) -> list[File]:
    """The files with these suffixes under a URL: a folder's, one file, or what a pattern matches.

    Hidden ones are passed over, and the card that describes a data set on the Hub.

    Raises:
        UserError: the protocol is unknown or its package missing, or the place cannot be listed.
    """
    try:
        system, root = url_to_fs(url)
        if has_magic(root):
            found = system.glob(root, detail=True)
            root = root[: root.index("*")].rpartition("/")[0] if "*" in root else root
        else:
            found = system.find(root, detail=True)
    except (ImportError, ValueError) as error:  # fsspec's words say what to install
        raise UserError(f"prepare.corpus: {public(url)}: {error}") from None
    except Exception as error:  # each protocol has exceptions of its own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"prepare.corpus: {public(url)} cannot be read ({reason})") from None
    files = []
    card = "README.md" if url.startswith("hf://") else None
    for path, about in found.items():
        name = path.removeprefix(root).strip("/") or PurePosixPath(path).name
        hidden = any(part.startswith(".") for part in name.split("/"))
        if name == card or hidden:
            continue
        if about["type"] == "file" and suffix_of(name) in suffixes:
            files.append(
                File(system.unstrip_protocol(path), printable(name, keep=""), about["size"] or 0)
            )
    return sorted(files, key=lambda file: file.name)
