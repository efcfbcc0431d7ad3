"""The page of a run at work: the report of what is there, with a word of what is going on."""

from dataclasses import replace

from experiments.show.report.about import about
from experiments.show.report.page import Live, render
from experiments.show.report.private_photos import private_photos
from experiments.show.report.run_data import read
from fl_sim.runs import RunFolder


def live_page(run: RunFolder, live: Live) -> str:
    """The page of a run as its folder is now, as HTML; no private photo of a real person."""
    run_data = read(run)
    if live.token:  # what is missing is still to come
        run_data = replace(run_data, missing=list(run_data.manifest.get("notes", [])))
    return render(run_data, about(run_data), private_photos(run_data, False), live)
