"""`fl-sim faces`: a look at a dataset's users."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.console import ConfigFile, Overrides
from fl_sim.config import load


def faces(
    out: Annotated[Path, typer.Option(help="PNG file to write.")] = Path("faces.png"),
    config: ConfigFile = None,
    override: Overrides = None,
    users: Annotated[int, typer.Option(min=1, help="Rows.")] = 8,
    photos: Annotated[int, typer.Option(min=1, help="Columns.")] = 8,
) -> None:
    """Write a sheet of a dataset's users as PNG: one row per user, one column per private photo."""
    from clients.datasets import open_dataset
    from clients.datasets.contact_sheet import draw_sheet

    settings = load(config, override or [])
    sheet = draw_sheet(open_dataset(settings.dataset, settings.seed), users, photos)
    out.touch(mode=0o600)  # private photos, for their owner alone
    sheet.save(out)
    print(out)
