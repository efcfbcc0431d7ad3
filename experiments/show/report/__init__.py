"""The report of a run: one HTML page with everything inside, that opens from disk in any browser.

It fetches nothing: styles, charts (SVG), pictures (PNG) and frames (JPEG) are part of the page. Its script sorts,
filters and enlarges; the page is complete without it.
"""

from pathlib import Path

from experiments.show.report.about import about
from experiments.show.report.page import render
from experiments.show.report.private_photos import private_photos
from experiments.show.report.run_data import RunData, read
from fl_sim.runs import RunFolder, write_atomically


def write_report(run: RunFolder, with_private_photos: bool = False, run_data: RunData | None = None) -> Path:
    """Write the page of a run and return its path. What the run does not hold yet is said on the page.

    `run_data`: what `run` holds, if it was read already.
    Private photos are put in for synthetic people, else only if `with_private_photos`.
    Raises FileNotFoundError for a folder without config.toml.
    """
    run_data = run_data or read(run)
    page = render(run_data, about(run_data), private_photos(run_data, with_private_photos))
    write_atomically(run.report, page.encode())
    return run.report
