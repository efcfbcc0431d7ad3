"""`fl-sim watch`: what a run is doing, in the terminal and, if asked, in a browser."""

import json
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from experiments.cli.console import AsJson, Run, messages
from fl_sim.config import ConfigError
from fl_sim.runs import RunFolder, config_of

if TYPE_CHECKING:
    from experiments.run.watch import State, Watch

LOOK = 1.0  # seconds between two looks at the folder
SHOWN = 4  # jobs under way
COLOURS = {
    "running": "cyan",
    "finished": "green",
    "failed": "red",
    "stopped": "yellow",
    "warning": "yellow",
    "error": "red",
}
CODES = {"finished": 0, "failed": 1, "running": 3, "stopped": 3}  # 2 is a mistake in the command, as everywhere


def watch(
    folder: Run,
    once: Annotated[
        bool, typer.Option("--once", help="Print the state and end, as where stdout is no terminal.")
    ] = False,
    as_json: AsJson = False,
    web: Annotated[
        bool, typer.Option("--web", help="Serve the page of the run, too, to a browser of this machine alone.")
    ] = False,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Where --web serves; default: a free port.")
    ] = None,
) -> None:
    """Show what a run is doing, until it has ended; from another terminal, or on another machine that sees the folder.

    For example: fl-sim watch runs/quickstart --web

    Exit code: 0 finished, 1 it or some of its jobs failed, 2 no such run, 3 not finished: at work, or stopped.
    """
    if port is not None and not web:
        raise ConfigError("--port says where --web serves; give --web with it")
    if web and (once or as_json):
        raise ConfigError(f"--web goes on until the run has ended; leave {'--once' if once else '--json'} out")
    run = RunFolder(folder)
    config_of(run)
    from experiments.run.watch import Watch  # and so pandas, which takes a second to import

    watched, console = Watch(run), Console(highlight=False)
    state = watched.look()
    if web and state.state != "running":
        messages.print(f"--web serves a run that is at work, and this one is {state.state}", soft_wrap=True)
    if as_json:
        print(json.dumps(asdict(state)))
    elif web and state.state == "running":
        state = _serve(watched, state, console, port or 0)
        if not console.is_terminal:
            console.print(draw(state))
    elif once or not console.is_terminal:
        console.print(draw(state))
    else:
        state = _follow(watched, state, console, lambda state: None)
    if web and state.state == "finished":
        messages.print(f"report: {run.report}", soft_wrap=True)
    elif web and state.state == "running":
        messages.print("the run goes on; the same command serves its page again")
    raise typer.Exit(CODES[state.state])


def _follow(watched: "Watch", state: "State", console: Console, told: Callable[["State"], None]) -> "State":
    """Look until the run has ended, or Ctrl-C; the last state. Each is drawn in a terminal, and `told`."""
    drawing = Live(draw(state), console=console, auto_refresh=False) if console.is_terminal else None
    with drawing or nullcontext(), suppress(KeyboardInterrupt):  # the way to leave while the run goes on
        while state.state == "running":
            time.sleep(LOOK)
            state = watched.look()
            told(state)
            if drawing is not None:
                drawing.update(draw(state), refresh=True)
    return state


def _serve(watched: "Watch", state: "State", console: Console, port: int) -> "State":
    """`_follow` with a page for a browser, which gets the end of the run, too."""
    from experiments.run.live import LivePage, served
    from fl_sim.threads import one_thread

    page = LivePage(watched.run, state)
    with one_thread(), served(page, port) as address:
        messages.print(f"page: {address}   (Ctrl-C ends it, and leaves the run alone)", soft_wrap=True)
        state = _follow(watched, state, console, page.update)
        if state.state != "running":
            with suppress(KeyboardInterrupt):
                page.linger()
    return state


def draw(state: "State") -> RenderableType:
    """The state as a person reads it; 80 columns are enough."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(width=20)
    table.add_column()
    each = "" if state.seconds_per_round is None else f", {_time(state.seconds_per_round)} each"
    table.add_row("rounds", _bar(state.rounds_done, state.rounds), f"{state.rounds_done} of {state.rounds}{each}")
    if state.accepted is not None:
        rejected = Text(f"{state.rejected} rejected", style="yellow" if state.rejected else "")
        after = "" if state.accuracy is None else f", accuracy {state.accuracy:.2f}"
        after += "" if state.loss is None else f", loss {state.loss:.2f}"
        table.add_row("", f"round {state.rounds_done}", Text(f"{state.accepted} users accepted, ") + rejected + after)
    if state.jobs:
        failed = Text(f", {state.failed} failed", style="red" if state.failed else "")
        queue = f", {state.retried} retried, {state.queued} in the queue"
        table.add_row("jobs", _bar(state.done, state.jobs), Text(f"{state.done} of {state.jobs}") + failed + queue)
        each = ", ".join(f"{label} {_time(mean)}" for label, mean in state.seconds_per_job.items())
        if each:
            table.add_row("", "a job", each)
    if state.workers:
        table.add_row("workers", f"{state.workers}, {state.backend}", "")
        for job in state.under_way[:SHOWN] if state.state == "running" else []:
            users = " ".join(map(str, job["users"]))
            table.add_row(
                "", f"at it for {_time(job['seconds'])}", f"{job['label']}, round {job['round']}, users {users}"
            )
    return Group(_heading(state), table, "", *map(_line, state.log))


def _heading(state: "State") -> Text:
    text = Text.assemble((state.run, "bold"), "  ", (state.state, COLOURS[state.state]))
    if state.state == "failed":
        text.append(f": {state.failure}")
    elif state.measuring:
        text.append(", measuring the leakage and writing the report")
    elif state.left is not None:
        text.append(f", about {_time(state.left)} left of training and attacks")
    if state.state == "running" and state.silence is not None:
        text.append(f"  (last word {_time(state.silence)} ago)", style="dim")
    return text


def _bar(done: int, total: int) -> ProgressBar:
    return ProgressBar(total=total, completed=done, width=20)


def _line(line: dict[str, Any]) -> Text:
    """A line of the log, cut off where the terminal ends."""
    at = datetime.fromisoformat(line["time"]).astimezone().strftime("%H:%M:%S")
    where, event = (f"{at}  {line['source']:<10}  ", "dim"), (f"{line['event']:<8}  ", COLOURS.get(line["level"], ""))
    text = Text.assemble(where, event, _facts(line))
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _facts(line: dict[str, Any]) -> str:
    left_out = {"time", "level", "source", "event", "pid", "host"}
    return ", ".join(f"{name} {_fact(value)}" for name, value in line.items() if name not in left_out)


def _fact(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
