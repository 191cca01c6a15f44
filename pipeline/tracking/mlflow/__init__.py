"""All that calls MLflow: its store, what is sent there, what is read back, its web interface.

Its settings stand here, for it reads some of them as it is imported, which takes a second or two.
So a stage imports `sender_process` only.
"""

import os

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # above the slowest answer that still counts as one
    "PGCONNECT_TIMEOUT": "10",  # PostgreSQL's; where nobody answers, its driver waits for minutes
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # the terminal is the stage's
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
