"""Search settings with Optuna: each trial is a DVC experiment, the study lives in MLflow.

    python docs/search.py --trials 20

Edit `suggest` for what to search. Run it again to go on: the study, its trials and what they
taught the sampler are read back from MLflow.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path

import mlflow
import optuna
from mlflow.optuna.storage import MlflowStorage

from pipeline.params import load_params
from pipeline.tracking.mlflow.store import connect
from pipeline.tracking.tags import git


class ExperimentFailed(Exception):
    """`dvc exp run` ended badly; its own words stand above."""


def suggest(trial: optuna.Trial) -> dict[str, float]:
    """The settings of a trial, by their keys in params.yaml."""
    return {
        "train.learning_rate": trial.suggest_float("train.learning_rate", 1e-4, 1e-2, log=True),
        "train.weight_decay": trial.suggest_float("train.weight_decay", 0.01, 0.3, log=True),
        "model.dropout": trial.suggest_float("model.dropout", 0.0, 0.3, step=0.05),
    }


def best_val_loss(trial: optuna.Trial) -> float:
    """Run the trial as the experiment STUDY-NUMBER; the lowest validation loss that it reached."""
    name = f"{trial.study.study_name}-{trial.number}"
    settings = [f"--set-param={key}={value:.6g}" for key, value in suggest(trial).items()]
    command = ["dvc", "exp", "run", "--temp", "--name", name, *settings]
    if subprocess.run(command, check=False).returncode != 0:
        raise ExperimentFailed(name)
    trial.set_user_attr("experiment", name)
    ref = git("for-each-ref", "--format=%(refname)", f"refs/exps/*/*/{name}")
    return float(json.loads(git("show", f"{ref}:reports/train.json"))["best"]["val_loss"])


def opened(name: str, storage: MlflowStorage) -> optuna.Study:
    """The study of this name, with the trials that it has had; begun where there is none."""
    if storage.get_study_id_by_name_if_exists(name) is None:
        optuna.create_study(study_name=name, storage=storage, direction="minimize")
    study = optuna.load_study(study_name=name, storage=storage)
    # a seed of its own for each part, or the second would try again what the first began with
    study.sampler = optuna.samplers.TPESampler(seed=123 + len(study.trials))
    return study


def main() -> None:
    parser = argparse.ArgumentParser(description="Search settings with Optuna.")
    parser.add_argument("--trials", type=int, default=20, help="how many more to run")
    parser.add_argument("--study", default="search", help="a name; the study of this name goes on")
    asked = parser.parse_args()

    store = connect()
    mlflow.set_tracking_uri(store.uri)
    experiment = f"{load_params(Path('params.yaml')).tracking.experiment}-search"
    storage = MlflowStorage(experiment_id=store.experiment_id(experiment))
    study = opened(asked.study, storage)
    study.optimize(best_val_loss, n_trials=asked.trials, catch=ExperimentFailed)
    if any(trial.state == optuna.trial.TrialState.COMPLETE for trial in study.trials):
        best = study.best_trial
        print(f"best: {study.best_value:.4f} at {best.params}")
        print(f"to take it: dvc exp apply {best.user_attrs['experiment']}")


if __name__ == "__main__":
    main()
