"""The server's side of the federation: rounds of FedSGD under the eyes of the malicious server.

`run_federation(setup, run, progress)` runs a whole federation on the configured engine. `app` is the
same ServerApp for `flwr run .`, whose run config names the config file and the folder of all runs.
"""

import math
import time
from pathlib import Path
from typing import Any

import pandas as pd
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp

from attacker.attacks import rewriter
from attacker.capture.plugin import MaliciousServer
from attacker.capture.rebuild_index import rebuild_index
from attacker.capture.reply_checks import ReplySchema
from attacker.capture.store import CaptureStore
from clients.app import client_app, config_file
from clients.defenses import mods
from experiments.plan.attackers import told_local_training
from experiments.plan.setup import Setup, prepare
from fl_sim import engines, models, seeds
from fl_sim.config import Config, ConfigError, Protocol, dump
from fl_sim.deployment import DeploymentError
from fl_sim.deployment.flower import Connection, find
from fl_sim.engines import deployment
from fl_sim.engines.deployment import Progress
from fl_sim.federation import protocol
from fl_sim.federation.private_sgd import PrivateSGD
from fl_sim.federation.strategy import FedSGD
from fl_sim.log import Log
from fl_sim.runs import RunFolder, locked, write_atomically
from fl_sim.threads import one_thread

LOGGED = ("round", "accepted", "rejected", "seconds", "accuracy", "loss")
NEXT_BOUND = "next_clipping_norm"  # column of rounds.parquet, under differential privacy: where the next round clips


def run_federation(
    setup: Setup, run: RunFolder, progress: Progress | None = None, superlink: Connection | None = None
) -> None:
    """Train for the configured rounds, capturing all replies into `run`; continues a run that was stopped.

    Writes captures/ and rounds.parquet. Raises ConfigError for a protocol that cannot work before anything
    starts, and whatever stops the server later. `superlink` is where the engine `deployment` runs; None: what
    `fl-sim up` has started.
    """
    config, section = setup.config, setup.config.federation
    _check(setup)
    if len(_finished(CaptureStore(run), run)) >= section.rounds:  # nothing to train, so no engine to start
        if progress is not None:
            progress(section.rounds, section.rounds)
        return
    if section.engine == "deployment":
        run_id = deployment.run(config, run, superlink or find(None, config.dataset.users), progress)
        captured = len(CaptureStore(run).finished_rounds())
        if captured < section.rounds:
            raise DeploymentError(
                f"Flower's run {run_id} completed, but {run.captures} holds {captured} of {section.rounds} rounds; "
                "the ServerApp's machine must see the folder of all runs under the same path"
            )
        if progress is not None:
            progress(section.rounds, section.rounds)
        return
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        federate(grid, setup, run, progress)

    engines.run(section.engine, server, client_app(lambda context: config), config.dataset.users, section.timeout)


def forget_unfinished(config: Config, run: RunFolder) -> None:
    """Drop the captures of rounds that will be trained again, before an attack can begin on one: it would lose it."""
    if not run.captures.exists():  # a new run
        return
    with locked(run.captures):
        store = CaptureStore(run)
        finished = len(_finished(store, run))
        if finished < config.federation.rounds:
            store.forget_from(finished + 1)


def _check(setup: Setup) -> None:
    """ConfigError for a protocol, or one of Flower's mods among the defenses, that cannot work."""
    protocol.check(setup.config)
    mods.check(setup.defenses, setup.config, setup.model)


def federate(grid: Grid, setup: Setup, run: RunFolder, progress: Progress | None = None) -> None:
    """The rounds of the federation over `grid`, from the first that is not yet on disk."""
    config, section = setup.config, setup.config.federation
    log = Log(run, "server")
    with one_thread(), locked(run.captures), log.around(rounds=section.rounds):
        attacked = config.workers.attack_rounds
        store = CaptureStore(run, keep=attacked if attacked and config.workers.keep == "attacked" else None)
        table = _finished(store, run)
        first = len(table) + 1
        store.forget_from(first)
        arrays = ArrayRecord(store.parameters(first) if first > 1 else setup.parameters)
        honest = protocol.strategy(config, setup.model, _bound(table, run, config.protocol))
        strategy = _malicious_server(setup, honest, store)
        channel = protocol.Channel(grid, config, dict(setup.model.named_parameters()))
        try:
            for server_round in range(first, section.rounds + 1):
                if progress is not None:
                    progress(server_round - 1, section.rounds)
                began, users = time.perf_counter(), channel.of_round(server_round)
                arrays = _train(strategy, users, config, server_round, arrays)
                for one in strategy.refused:
                    log("rejected", "warning", round=server_round, user=one.user, status=one.status, reason=one.reason)
                metrics = _evaluate(strategy, users, section.timeout, server_round, arrays)
                row = _row(strategy, metrics, server_round, time.perf_counter() - began)
                row |= setup.accountant.spent(server_round)
                if isinstance(honest, PrivateSGD):
                    row[NEXT_BOUND] = honest.bound
                table = pd.concat([table, pd.DataFrame([row])], ignore_index=True)
                write_atomically(run.rounds, table.to_parquet(index=False))
                log("round", **{key: row[key] for key in LOGGED})
        finally:
            store.wait()
    if progress is not None:
        progress(section.rounds, section.rounds)


def _malicious_server(setup: Setup, honest: FedSGD, store: CaptureStore) -> MaliciousServer:
    config, section, model = setup.config, setup.config.federation, setup.model
    schema = ReplySchema(
        parameter_names=[name for name, _ in model.named_parameters()],
        update=section.update,
        learning_rate=section.learning_rate,
        max_norm=section.max_norm,
        num_classes=setup.dataset.num_classes,
        statistics=models.statistics_like(model) if config.threat_model.batch_norm_statistics else {},
        users=config.dataset.users,
        aggregated=bool(config.protocol.secure_aggregation),
    )
    return MaliciousServer(honest, store, schema, section.timeout, told_local_training(config), rewriter(config))


def _train(
    strategy: MaliciousServer, users: Grid, config: Config, server_round: int, arrays: ArrayRecord
) -> ArrayRecord:
    """One round of training: the next model, or the same one where no reply was of use."""
    # SecAgg+ draws the order of users from Python's global generator.
    with seeds.global_generators(config.seed, "server", server_round):
        messages = strategy.configure_train(server_round, arrays, ConfigRecord(), users)
        replies = users.send_and_receive(messages, timeout=config.federation.timeout)
        return strategy.aggregate_train(server_round, replies)[0] or arrays


def _evaluate(
    strategy: MaliciousServer, users: Grid, timeout: float, server_round: int, arrays: ArrayRecord
) -> MetricRecord:
    """How well the users' held-out photos are classified."""
    messages = strategy.configure_evaluate(server_round, arrays, ConfigRecord(), users)
    replies = users.send_and_receive(messages, timeout=timeout)
    return strategy.aggregate_evaluate(server_round, replies) or MetricRecord()


def _row(strategy: MaliciousServer, metrics: MetricRecord, server_round: int, seconds: float) -> dict[str, Any]:
    """The row of a round in rounds.parquet, but for what was spent of epsilon."""
    return {
        "round": server_round,
        "accuracy": metrics.get("accuracy", math.nan),
        "loss": metrics.get("loss", math.nan),
        "examples": metrics.get("num-examples", 0),
        "accepted": strategy.accepted,
        "rejected": strategy.rejected,
        "seconds": seconds,
    }


def _finished(store: CaptureStore, run: RunFolder) -> pd.DataFrame:
    """The rows of the rounds 1, 2, ... that are whole on disk: captured and evaluated. Rebuilds a damaged index."""
    rebuild_index(run)
    if not run.rounds.exists():
        return pd.DataFrame()
    try:
        table = pd.read_parquet(run.rounds)
        table["round"]
    except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are ValueErrors
        raise ConfigError(
            f"{run.rounds} is damaged ({error}); remove it and give the command again, which trains from round 1"
        ) from error
    captured, done = set(store.finished_rounds()), 0
    while done < len(table) and done + 1 in captured:
        done += 1
    return table.iloc[:done]


def _bound(table: pd.DataFrame, run: RunFolder, section: Protocol) -> float | None:
    """The L2 norm to which the round after those of `table` clips; None for the one in the config."""
    if table.empty or not section.differential_privacy.endswith("_adaptive"):
        return None
    if NEXT_BOUND not in table:
        raise ConfigError(f"{run.rounds} lacks the column {NEXT_BOUND}, so the run cannot go on; give another name")
    return float(table[NEXT_BOUND].iloc[-1])


_app = ServerApp()


@_app.main()
def main(grid: Grid, context: Context) -> None:
    """`flwr run .`: the run config names the config file and the folder of all runs."""
    config = config_file(context)
    setup = prepare(config)
    _check(setup)
    run = RunFolder(Path(str(context.run_config.get("runs", "runs"))) / config.name)
    text = dump(config).encode()
    if run.config.exists() and run.config.read_bytes() != text:
        raise ConfigError(f"{run.root} holds a run with another config; give this one another name in its config file")
    write_atomically(run.config, text)
    deployment.await_users(grid, config.dataset.users, config.federation.timeout)
    federate(grid, setup, run)


app = engines.never_exiting(_app)
