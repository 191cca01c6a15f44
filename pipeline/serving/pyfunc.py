"""A model as MLflow serves it: prompts in, completions out, with typed params.

    MLFLOW_TRACKING_URI=sqlite:////REPO/mlflow.db \\
        mlflow models serve -m models:/lossbook@champion --env-manager local -p 5610
    curl -s 127.0.0.1:5610/invocations -H 'Content-Type: application/json' \\
        -d '{"inputs": [{"prompt": "Every effort"}], "params": {"temperature": 0.7, "seed": 3}}'

A model is code and safetensors, no pickle. The code is a file that ends in `serve(load)`, where
`load(folder)` gives a function from prompts to completions (`tracking.mlflow.publish` puts both
into the store).

Sharp edge: MLflow drops params that the signature does not name, with a line in a log, makes texts
of numbers and null, and answers with its own error where JSON is nested too deep; here all of these
are refused, for which two of its private functions are wrapped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from numbers import Number
from pathlib import Path
from types import ModuleType
from typing import Any

from mlflow import pyfunc
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from pandas import DataFrame

from pipeline.errors import UserError
from pipeline.serving import PARAMS
from pipeline.system.files import parse_json
from pipeline.system.text import quoted, shortened

Complete = Callable[..., list[str]]  # (prompts, *, temperature, top_k, max_new_tokens, seed)
Load = Callable[[Path], Complete]

ENFORCER = "_enforce_params_schema"  # what `mlflow.pyfunc` checks params with
SERVER = "mlflow.pyfunc.scoring_server"
DECODER = "_decode_json_input"  # what it reads a request with


def serve(load: Load) -> None:
    """Set what MLflow, which executes the calling file, serves."""

    class Served(PythonModel):
        def load_context(self, context: PythonModelContext) -> None:
            refuse_unknown_params()
            if (server := sys.modules.get(SERVER)) is not None:
                refuse_what_is_no_prompt(server)
            self.complete = load(Path(context.artifacts["model"]))

        def predict(
            self,
            context: PythonModelContext,
            model_input: DataFrame,
            params: dict[str, Any] | None = None,
        ) -> DataFrame:
            prompts = model_input["prompt"].tolist()
            return DataFrame({"completion": _completed(self.complete, prompts, params or {})})

        # MLflow wants the class itself, not its name, or it advises to annotate
        predict.__annotations__ = {"model_input": DataFrame, "return": DataFrame}  # noqa: RUF012

    set_model(Served())


def _completed(complete: Complete, prompts: Sequence[Any], params: dict[str, Any]) -> list[str]:
    for prompt in prompts:
        if not isinstance(prompt, str):  # as of a DataFrame's column of lists
            raise refusal(f"a prompt is text, not {quoted(prompt)}")
    try:
        return complete(prompts, **params)
    except UserError as error:
        raise refusal(str(error)) from error


def refusal(message: str) -> MlflowException:
    """An error that a client reads as it is: MLflow's server puts the whole input before others."""

    class Refusal(MlflowException):
        def serialize_as_json(self) -> str:
            return json.dumps({"error_code": self.error_code, "message": message})

    return Refusal(message, INVALID_PARAMETER_VALUE)


def refuse_unknown_params() -> None:
    """Make MLflow refuse, for models with our signature, the params that it would drop."""
    enforce = getattr(pyfunc, ENFORCER)
    if getattr(enforce, "refuses_unknown", False):
        return

    def enforce_strictly(params: Any, schema: Any) -> Any:
        names = {spec.name for spec in schema.params} if schema is not None else set()
        if names == PARAMS.keys() and isinstance(params, dict):
            if unknown := sorted(map(str, params.keys() - names)):
                names_given = shortened(", ".join(unknown))
                raise refusal(f"unknown params {names_given}; there are {', '.join(PARAMS)}")
            for name, value in params.items():
                if not isinstance(value, Number):
                    raise refusal(f"{name} must be a number, not {quoted(value)}")
        return enforce(params, schema)

    enforce_strictly.refuses_unknown = True  # type: ignore[attr-defined]
    setattr(pyfunc, ENFORCER, enforce_strictly)


def refuse_what_is_no_prompt(server: ModuleType) -> None:
    """Make MLflow's server refuse a request that is no JSON, or holds a prompt that is no text."""
    decode = getattr(server, DECODER)
    fields = {*server.SUPPORTED_FORMATS, server.SERVING_PARAMS_KEY}

    def decode_strictly(request: Any) -> Any:
        if isinstance(request, str | bytes):
            try:
                request = parse_json(request, "the request")
            except UserError as error:
                raise refusal(str(error)) from None
        if not isinstance(request, dict):
            raise refusal(f"the request must be an object, not {quoted(request)}")
        if unknown := sorted(request.keys() - fields):
            given = shortened(", ".join(unknown))
            raise refusal(f"unknown fields {given}; there are {', '.join(sorted(fields))}")
        prompts = [value for key, value in request.items() if key in server.SUPPORTED_FORMATS]
        for value in _not_text(prompts):
            raise refusal(f"a prompt must be text, not {quoted(value)}")
        return decode(request)

    setattr(server, DECODER, decode_strictly)


def _not_text(value: Any) -> Iterator[Any]:
    """What is neither text nor holds any."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key != "index":  # the rows' numbers
                yield from _not_text(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _not_text(inner)
    elif not isinstance(value, str):
        yield value
