"""The report of a run: one HTML page with everything inside, that opens from disk in any browser.

It fetches nothing: styles, charts (SVG) and pictures (PNG) are part of the page. Its script sorts, filters and
enlarges; the page is complete without it.
"""

from pathlib import Path

from experiments.show.report import distributions, evidence, figures, svg, tables
from experiments.show.report.captions import headline
from experiments.show.report.gallery import gallery
from experiments.show.report.hero import hero
from experiments.show.report.run_data import RunData, read
from experiments.show.report.templates import environment
from fl_sim.runs import RunFolder, write_atomically


def write_report(run: RunFolder, with_private_photos: bool = False, run_data: RunData | None = None) -> Path:
    """Write the page of a run and return its path. What the run does not hold yet is said on the page.

    `run_data`: what `run` holds, if it was read already.
    Private photos are put in for synthetic people, else only if `with_private_photos`.
    Raises FileNotFoundError for a folder without config.toml.
    """
    run_data = run_data or read(run)
    head = headline(run_data)
    label, first = head.strongest, head.server_round
    forests, rounds, strips, readings = [], [], None, []
    if label is not None and first is not None:
        forests = [
            figures.forest(
                run_data,
                "rank1",
                "Named: rank-1",
                "Share of users who come out nearest to their picture.",
                label,
                first,
            ),
            figures.forest(
                run_data,
                "facial_similarity",
                "Alike: facial similarity",
                "Cosine to the user's private photos.",
                label,
                first,
            ),
        ]
        rounds = [
            figures.per_round(run_data, "rank1", "Named: rank-1", label),
            figures.per_round(run_data, "facial_similarity", "Alike: facial similarity", label),
        ]
        strips = distributions.strips(run_data, label)
        readings = tables.readings(run_data, first)
    training_columns, training_rows = tables.training(run_data)
    shown = gallery(run_data, with_private_photos)
    page = (
        environment()
        .get_template("page.html.j2")
        .render(
            run_data=run_data,
            head=head,
            hero=hero(run_data, shown),
            knows={finding.attack: finding.knowledge for finding in run_data.findings},
            swatch=svg.swatch,
            forests=[forest for forest in forests if forest],
            legend=list(figures.series_of(run_data).items()),
            rounds=[panel for panel in rounds if panel],
            readings=readings,
            numbers=tables.numbers(run_data),
            verdicts=evidence.verdicts(run_data),
            realism=evidence.realism(run_data),
            ranks=[panel for attack in run_data.attacks if (panel := distributions.ranks(run_data, attack))],
            strips=strips,
            attributes=figures.attributes(run_data, label) if label else [],
            accuracy=figures.accuracy(run_data),
            training_columns=training_columns,
            training_rows=training_rows,
            timing=tables.timing(run_data),
            setup=tables.setup(run_data),
            threat_model=tables.threat_model(run_data),
            gallery=shown,
            in_sweep=(run.root.parent / "sweep.toml").is_file(),
            config_text=run.config.read_text(encoding="utf-8"),
        )
    )
    write_atomically(run.report, page.encode())
    return run.report
