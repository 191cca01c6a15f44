"""Logged models, MLflow 3's own: found by their weights, and what was measured of them linked to
them, so that MLflow ranks models by their losses on one data set.

    data = {"dataset_name": name, "dataset_digest": digest}
    by_loss = {"field_name": "metrics.val_loss", "ascending": True, **data}
    client.search_logged_models([experiment_id], datasets=[data], order_by=[by_loss])

A model of this repository is its training run's, and published (`publish`). GPT-2's are external:
MLflow has their name and losses, and not their files. There is one of each size in an experiment,
whichever run measured it.

Sharp edge: MLflow takes NaN for 0 where it belongs to a model, so NaN is the run's alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelInput, Metric
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_IS_EXTERNAL

from pipeline.tracking.journal import ExternalModel, Measured
from pipeline.tracking.mlflow.store import Store, literal

HASH = "lossbook.weights"  # a tag: their SHA-256
MODEL_TYPE = "text-generation"


def models_with(
    client: MlflowClient, experiment: str, weights: str, field: str, text: str
) -> list[LoggedModel]:
    """The models of these weights whose field has this text, oldest first."""
    return list(
        client.search_logged_models(
            [experiment],
            filter_string=f"tags.`{HASH}` = '{weights}' AND {field} = {literal(text)}",
            order_by=[{"field_name": "creation_timestamp"}, {"field_name": "model_id"}],
        )
    )


def link_losses(
    store: Store, run_id: str, parent: str | None, measured: Measured, timestamp: int
) -> None:
    """Link losses that a run measured to their model and data sets; again, it changes nothing.

    Args:
        parent: the key of the run that published the model, where it is no external one.

    Raises:
        LookupError: the store does not have the model.
    """
    weights = measured["weights"]
    if "external" in measured:
        model = _external(store.client, run_id, weights, measured["external"])
    else:
        model = _published(store, parent, weights)
    on = [(losses["metrics"], losses["name"], losses["digest"]) for losses in measured["losses"]]
    log_metrics(store.client, run_id, model.model_id, timestamp, on)
    store.client.log_inputs(run_id, models=[LoggedModelInput(model.model_id)])


def log_metrics(
    client: MlflowClient,
    run_id: str,
    model_id: str,
    timestamp: int,
    metrics: Iterable[tuple[Mapping[str, float], str | None, str | None]],
) -> None:
    """Log metrics of a model, which are the run's too.

    Args:
        metrics: with the name and digest of the data set that they were measured on.
    """
    linked = [
        Metric(
            key,
            float(value),
            timestamp,
            0,
            model_id=None if math.isnan(value) else model_id,
            dataset_name=name,
            dataset_digest=digest,
            run_id=run_id,
        )
        for numbers, name, digest in metrics
        for key, value in numbers.items()
    ]
    client.log_batch(run_id, metrics=linked)


def _published(store: Store, parent: str | None, weights: str) -> LoggedModel:
    run = store.find_run(parent) if parent is not None else None
    if run is not None:
        place = run.info.experiment_id, weights, "source_run_id", run.info.run_id
        if found := models_with(store.client, *place):
            return found[0]
    raise LookupError("the run that they come from has published no such model yet")


def _external(client: MlflowClient, run_id: str, weights: str, given: ExternalModel) -> LoggedModel:
    """Found again, or created; of two processes that create it at once, the first one's stays."""
    experiment = client.get_run(run_id).info.experiment_id

    def found() -> list[LoggedModel]:
        models = models_with(client, experiment, weights, "name", given["name"])
        return [model for model in models if model.params == given["params"]]

    known = found()
    if not known:
        created = client.create_logged_model(
            experiment,
            name=given["name"],
            source_run_id=run_id,
            tags={HASH: weights, MLFLOW_MODEL_IS_EXTERNAL: "true"},
            params=given["params"],
            model_type=MODEL_TYPE,
        )
        known = found()
        if known[0].model_id != created.model_id:
            client.delete_logged_model(created.model_id)
    if str(known[0].status) != "READY":
        client.finalize_logged_model(known[0].model_id, "READY")
    return known[0]
