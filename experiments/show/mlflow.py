"""A run for MLflow: its config as parameters, leakage per round as metrics, report and tables as artifacts.

    parameters  dataset.users, model.name, ... as config.toml has them; defenses and attacks as JSON
    metrics     training/FIGURE: accuracy, loss, accepted, rejected, seconds
                ATTACK/ARM/FIGURE: the figures of experiments.statistics.aggregate, their 95 % ends FIGURE_low, _high
    artifacts   config.toml, manifest.json, leakage.csv, leakage.parquet, rounds.parquet, report.html
                faces/ATTACK/round-0001/user-0003.png: the reconstructions, only if asked for

Steps are rounds. Unless faces are asked for, the pictures of the report are replaced by grey: many people read a
tracking server. Photos are never written as files, whoever they are of. Each call writes a new run of MLflow.
"""

import json
import math
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from experiments.show import tracking
from experiments.show.images import picture
from experiments.show.report.run_data import RunData, read
from fl_sim.config import ConfigError, short
from fl_sim.runs import RunFolder

EXPERIMENT = "fl-sim"
BATCH = 100  # parameters that MLflow takes in one request; of metrics it takes 1,000
PICTURE = re.compile(r"data:image/(?!svg)[a-z+.-]+;base64,[A-Za-z0-9+/=]+")
GREY = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' style='background:gray'/%3E"
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # nothing of a privacy experiment is reported home
    "MLFLOW_ALLOW_FILE_STORE": "true",  # refused by MLflow 3 otherwise, though it was named
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}


def connect(uri: str) -> Any:
    """A client of the tracking server, or of the file store, at `uri`. ConfigError where there is none."""
    if find_spec("mlflow") is None:
        raise ConfigError("--mlflow needs the package mlflow; install it with pip install 'fl-sim[mlflow]'")
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        with tracking.private():
            client = MlflowClient(tracking_uri=uri)
            if client.get_experiment_by_name(EXPERIMENT) is None:
                client.create_experiment(EXPERIMENT)
    except (MlflowException, OSError) as error:
        raise ConfigError(
            f"--mlflow {uri}: {short(error)}; give the address of an MLflow server, file:FOLDER or sqlite:///FILE"
        ) from error
    return client


def write(run: RunFolder, client: Any, faces: bool = False) -> str:
    """Write what `run` holds as a new run of MLflow; its id there.

    Raises FileNotFoundError for a folder without config.toml.
    """
    from mlflow.entities import Metric, Param

    run_data, now = read(run), int(time.time() * 1000)
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    parameters = [Param(key, value) for key, value in _parameters(run_data)]
    metrics = [Metric(key, value, now, step) for key, value, step in _metrics(run_data)]
    with tracking.private(), tempfile.TemporaryDirectory() as made:
        target = str(client.create_run(experiment, run_name=run.name).info.run_id)
        for at in range(0, max(len(parameters), len(metrics)), BATCH):
            client.log_batch(target, metrics=metrics[at : at + BATCH], params=parameters[at : at + BATCH])
        for table in (run.config, run.manifest, run.root / "leakage.csv", run.leakage, run.rounds):
            if table.is_file():
                client.log_artifact(target, str(table))
        _report(run, Path(made), faces)
        if faces:
            _pictures(run_data, Path(made) / "faces")
        client.log_artifacts(target, made)
    client.set_terminated(target)
    return target


def _parameters(run_data: RunData) -> Iterator[tuple[str, str]]:
    """(dotted key, value) of the config."""
    for name, section in run_data.config.model_dump(mode="json", exclude_none=True).items():
        if isinstance(section, Mapping) and name != "attacks":
            yield from ((f"{name}.{key}", str(value)) for key, value in section.items())
        else:
            yield name, json.dumps(section) if isinstance(section, list | dict) else str(section)


def _metrics(run_data: RunData) -> Iterator[tuple[str, float, int]]:
    """(key, value, round) of all that is finite."""
    yield from tracking.training(run_data)
    for attack, arm, figure, interval, server_round in tracking.leakage(run_data):
        for suffix, end in {"": interval.mean, "_low": interval.low, "_high": interval.high}.items():
            if math.isfinite(end):
                yield f"{attack}/{arm}/{figure}{suffix}", end, server_round


def _report(run: RunFolder, folder: Path, faces: bool) -> None:
    if run.report.is_file():
        page = run.report.read_text(encoding="utf-8")
        (folder / run.report.name).write_text(page if faces else PICTURE.sub(GREY, page), encoding="utf-8")


def _pictures(run_data: RunData, folder: Path) -> None:
    """The reconstructions of the first users who were measured, a PNG each, below `folder`."""
    for label, user, image, server_round in tracking.reconstructions(run_data):
        path = folder / label / f"round-{server_round:04d}" / f"user-{user:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(image).save(path)
