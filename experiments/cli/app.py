"""The command line, `fl-sim COMMAND`. A command is a file of `experiments/cli/commands/` and a line here."""

import functools
import json
import os
import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any, NoReturn

import typer
from rich.markup import escape

from experiments.cli.commands import (
    attack,
    audit,
    compare,
    config,
    doctor,
    down,
    faces,
    invert,
    report,
    run,
    sweep,
    train_attributes,
    train_identity,
    train_model,
    train_prior,
    up,
    watch,
)
from experiments.cli.console import messages
from fl_sim import import_path
from fl_sim.config import ConfigError
from fl_sim.deployment import DeploymentError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""Click's, of the package or of the copy that newer versions of Typer bring along."""


STOPPED = "stopped; give the same command again to go on from here"


class Interrupted(Exception):
    """Ctrl-C or SIGTERM in a command, and its exit code; Typer takes KeyboardInterrupt itself for an exit."""

    def __init__(self, by: signal.Signals) -> None:
        self.code = 128 + by


def _print_version(asked: bool) -> None:
    if asked:
        print(f"fl-sim {version('fl-sim')}")
        raise typer.Exit


@app.callback()
def fl_sim(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Measure how much of a person leaks from federated learning.

    Start with fl-sim run: 8 users, 3 rounds, every update attacked; then open runs/quickstart/report.html.
    """


# In the order of `fl-sim --help`; a command imports what is heavy where it is used, so that all of them start fast.
app.command("run")(run.run)
app.command("attack")(attack.attack)
app.command("report")(report.report)
app.command("watch")(watch.watch)
app.command("sweep")(sweep.sweep)
app.command("frontier")(sweep.frontier)
app.command("compare")(compare.compare)
app.command("audit")(audit.audit)
app.command("invert")(invert.invert)
app.command("up")(up.up)
app.command("down")(down.down)
app.command("train-prior")(train_prior.train_prior)
app.command("train-identity")(train_identity.train_identity)
app.command("train-model")(train_model.train_model)
app.command("train-attributes")(train_attributes.train_attributes)
app.command("faces")(faces.faces)
app.command("config")(config.config)
app.command("doctor")(doctor.doctor)


def _never_exiting(command: Callable[..., None]) -> Callable[..., None]:
    """`command`, in which a `sys.exit` of a plug-in is an error, for with code 0 it would read as success.

    Ctrl-C is Interrupted in it, and SIGTERM, for which Ray's handler calls `sys.exit(signum)` (ray 2.55).
    """

    @functools.wraps(command)
    def call(*arguments: Any, **named: Any) -> None:
        try:
            command(*arguments, **named)
        except KeyboardInterrupt as error:
            raise Interrupted(signal.SIGINT) from error
        except SystemExit as end:
            if end.code == signal.SIGTERM:
                raise Interrupted(signal.SIGTERM) from end
            raise ConfigError(
                f"something called sys.exit({end.code!r}) before the command's end; a plug-in (a dataset, a model, an "
                "attack) must raise an exception instead"
            ) from end

    return call


for registered in app.registered_commands:
    if registered.callback is not None:
        registered.callback = _never_exiting(registered.callback)


def main() -> None:
    """Entry point: every foreseen mistake ends in one sentence and an exit code, never in a traceback."""
    import_path.append_current_folder()
    try:
        code = app(prog_name="fl-sim", standalone_mode=False)
    except UsageError as error:
        _fail_usage(error)
    except (ConfigError, ValueError) as error:
        _fail(str(error), 2)
    except DeploymentError as error:
        _fail(str(error), 1)
    except Interrupted as stop:
        _fail(STOPPED, stop.code)
    except KeyboardInterrupt:
        _fail(STOPPED, 128 + signal.SIGINT)
    except OSError as error:
        _fail(
            f"{error.strerror or error}: {error.filename or ''}; free or mend it, then give the same command again", 1
        )
    except Exception as error:  # not foreseen: of a third party's code, or ours
        _fail(f"{type(error).__name__}: {error}; not foreseen, see {_keep_traceback()} and report it", 70)
    sys.exit(code if isinstance(code, int) else 0)


def _fail_usage(error: Any) -> NoReturn:
    """Say what is wrong with the words of a command; of none at all, print the help."""
    if len(sys.argv) == 1:
        error.show()
        sys.exit(error.exit_code)
    command = error.ctx.command_path if error.ctx else "fl-sim"
    said = " ".join(dict.fromkeys(re.split(r"(?<=[.?]) ", error.format_message())))  # typer and click both guess
    _fail(f"{said.rstrip('.')}; {command} --help lists what it takes", error.exit_code)


def _fail(sentence: str, code: int) -> NoReturn:
    messages.print(f"[red]error:[/] {escape(sentence)}", soft_wrap=True)  # it may hold [brackets] of the user's
    if "--json" in sys.argv:
        print(json.dumps({"error": sentence, "exit_code": code}))
    sys.exit(code)


def _keep_traceback() -> str:
    """Write the traceback of the exception at hand to a file; its path."""
    with tempfile.NamedTemporaryFile("w", prefix="fl-sim-", suffix=".log", delete=False, encoding="utf-8") as file:
        traceback.print_exc(file=file)
    return file.name


def entry() -> None:
    """`main` for a process of its own, which ends at once after a failure.

    Flower's simulation leaves threads that wait for replies until the round's timeout, if Ray dies under it.
    """
    try:
        main()
    except SystemExit as end:
        if end.code:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else 1)
        raise


if __name__ == "__main__":
    entry()
