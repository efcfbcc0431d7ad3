"""The page itself: what was measured of a federation, by the template that all reports have."""

from dataclasses import dataclass

from experiments.show.report import distributions, evidence, figures, svg, tables
from experiments.show.report.about import About
from experiments.show.report.captions import headline
from experiments.show.report.gallery import gallery
from experiments.show.report.hero import hero
from experiments.show.report.measured import Measured
from experiments.show.report.private_photos import PrivatePhotos
from experiments.show.report.templates import environment

IDENTITY = (  # metrics that say whether the person leaked, their headings and what they are
    ("rank1", "Named: rank-1", "Share of users who come out nearest to their picture."),
    ("facial_similarity", "Alike: facial similarity", "Cosine to the user's private photos."),
)


@dataclass(frozen=True)
class Live:
    """What the page of a run at work says of it, and by what its script knows that there is a newer one."""

    said: str  # what the run is doing, in a sentence
    token: str  # of this page; "": it asks for no other


def render(run_data: Measured, about: About, private: PrivatePhotos, live: Live | None = None) -> str:
    """The page as HTML; `live`: of a run that is being watched."""
    head = headline(run_data)
    label, first = head.strongest, head.server_round
    forests, rounds, strips, readings = [], [], None, []
    if label is not None and first is not None:
        forests = [
            figures.forest(run_data, metric, title, caption, label, first) for metric, title, caption in IDENTITY
        ]
        rounds = [figures.per_round(run_data, metric, title, label) for metric, title, _ in IDENTITY]
        strips = distributions.strips(run_data, label)
        readings = tables.readings(run_data, first)
    training_columns, training_rows = tables.training(run_data)
    shown = gallery(run_data, private)
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            run_data=run_data,
            about=about,
            live=live,
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
            gallery=shown,
        )
    )
