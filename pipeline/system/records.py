"""JSON that other people's programs may have written: a record class says what a file holds."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import UserError
from pipeline.numbers import to_json
from pipeline.system.files import parse_json, read_json, write_json
from pipeline.system.text import printable, shortened

# Of a model in a file. Products of two dimensions, times four, fit 64 bits; lists of blocks memory.
Dimension = Annotated[int, Field(strict=True, ge=1, le=2**24)]
Blocks = Annotated[int, Field(strict=True, ge=1, le=10_000)]


class Record(BaseModel):
    """A JSON file, or a part of one: writers construct it, readers load it.

    Keys that a reader does not know are left alone. A number may be NaN or infinite, which JSON
    holds as a string.
    """

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    def write(self, path: Path) -> None:
        """Write the record, its keys in the order of its fields."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def read(cls, path: Path, remedy: str = "`dvc repro -f` rewrites it") -> Self:
        """Load the record from `path`.

        Args:
            remedy: what a user can do about a file that is not as it should be.

        Raises:
            UserError: the file is missing, is not JSON, or lacks a key or has a wrong one; names
                the file and the key.
        """
        return cls.from_value(read_json(path, remedy), str(path), remedy)

    @classmethod
    def parse(cls, raw: str | bytes, where: str, remedy: str = "") -> Self:
        """Load the record from JSON text; `where` names it in errors.

        Raises:
            UserError: as `read`.
        """
        return cls.from_value(parse_json(raw, where, remedy), where, remedy)

    @classmethod
    def from_value(cls, value: Any, where: str, remedy: str = "") -> Self:
        """Load the record from what JSON text came to.

        Raises:
            UserError: it lacks a key or has a wrong one.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            key = printable(shortened(".".join(map(str, problem["loc"]))), keep="")
            message = problem["msg"][:1].lower() + problem["msg"][1:]
            detail = f"{key}: {message}" if key else message
            raise UserError(f"{where}: {detail}" + (f"; {remedy}" if remedy else "")) from None


SEAL = "_sha256"


class SealedRecord(Record):
    """A record that a number rests on: its file holds the SHA-256 of all else that it holds.

    A file without one, as another program may have made it, is read unchecked.
    """

    def write(self, path: Path) -> None:
        value = self.model_dump(mode="json")
        write_json(path, {**value, SEAL: _digest(value)})

    @classmethod
    def from_value(cls, value: Any, where: str, remedy: str = "") -> Self:
        record = super().from_value(value, where, remedy)
        rest = {key: item for key, item in value.items() if key != SEAL}
        if SEAL in value and value[SEAL] != _digest(rest):
            reason = f"{where}: it was changed after it was written, its {SEAL} is of other values"
            raise UserError(reason + (f"; {remedy}" if remedy else ""))
        return record


def _digest(value: Any) -> str:
    text = json.dumps(to_json(value), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
