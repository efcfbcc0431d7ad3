"""`fl-sim compare`: finished runs of the same users, side by side."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from experiments.cli.console import AsJson, messages


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, the baseline first.")],
    out: Annotated[
        Path | None, typer.Option(metavar="HTML", help="The page; default: compare.html in the folder of the last run.")
    ] = None,
    as_json: AsJson = False,
    with_private_photos: Annotated[
        bool, typer.Option(help="Embed private photos of real people, which are left out by default.")
    ] = False,
) -> None:
    """Compare finished runs user by user: who leaks less, by how much, and at what cost.

    For example: fl-sim compare runs/open runs/defended
    """
    from experiments.show import compare as show
    from experiments.show.compare import page, terminal

    compared = show.compare(runs)
    written = page.write(compared, out or runs[-1] / "compare.html", with_private_photos)
    if as_json:
        print(json.dumps(compared.facts()))
    else:
        console = Console(highlight=False)
        console.print(terminal.tables(compared))
        for sentence in [*compared.conclusions, *compared.notes]:
            console.print(sentence, soft_wrap=True, markup=False)
    messages.print(f"page: {written}", soft_wrap=True)
