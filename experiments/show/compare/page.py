"""The page of a comparison: one HTML file with everything inside, that opens from disk in any browser."""

from dataclasses import dataclass
from html import escape
from pathlib import Path

from markupsafe import Markup
from safetensors import SafetensorError

from attacker.capture.store import read_reconstruction
from clients.datasets import open_dataset
from experiments.show.compare import Comparison
from experiments.show.compare.changes import Tested
from experiments.show.compare.sentences import claim, numbers, p_value, signed, spelled
from experiments.show.compare.sides import Scores, Side
from experiments.show.report import figures, svg
from experiments.show.report.gallery import USERS, data_uri, sender
from experiments.show.report.templates import environment
from experiments.statistics.verdict import exact
from fl_sim.runs import write_atomically

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Face:
    """A small picture of one user, with what it tells."""

    title: str
    source: str  # data URI of a PNG; "" where there is none
    alt: str
    told: str
    hit: bool  # the user comes first in the gallery


def write(comparison: Comparison, path: Path, with_private_photos: bool = False) -> Path:
    """Write the page to `path`, for its owner alone.

    Private photos are put in for synthetic people, else only if `with_private_photos`.
    """
    config = comparison.sides[0].run_data.config
    synthetic = config.dataset.name == "synthetic"
    page = (
        environment(HERE)
        .get_template("compare.html.j2")
        .render(
            comparison=comparison,
            config=config,
            legend=[(svg.swatch(index), one.name) for index, one in enumerate(comparison.sides)],
            conclusions=[(pair.kind.split()[0], claim(pair), numbers(pair)) for pair in comparison.pairs],
            columns=COLUMNS,
            figures=FIGURES,
            runs=_runs(comparison),
            attacks=_attacks(comparison),
            settings=[
                (pair, [(key, _plain(a), _plain(b)) for key, a, b in pair.settings]) for pair in comparison.pairs
            ],
            by_user=dumbbells(comparison),
            faces=_faces(comparison, synthetic or with_private_photos),
            synthetic=synthetic,
            left_out=len(comparison.users) - USERS,
        )
    )
    write_atomically(path, page.encode())
    return path


def fragment(comparison: Comparison) -> str:
    """The conclusions and the table of the runs, for a notebook."""
    said = "".join(f"<p><strong>{escape(sentence)}</strong></p>" for sentence in comparison.conclusions)
    said += "".join(f"<p>{escape(sentence)}</p>" for sentence in comparison.notes)
    heads = "".join(f"<th>{escape(head)}</th>" for head in COLUMNS)
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(said)} {escape(ends)}</td>' for said, ends in row)}</tr>"
        for row in _runs(comparison)
    )
    return f"<div>{said}<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"


FIGURES = ("similarity", "change", "p", "identified", "p")
COLUMNS = ("run", "strongest attack", *FIGURES, "accuracy", "epsilon promised", "audited")
Cell = tuple[str, str]  # what it says, and the 95 % interval under it, or ""


def dumbbells(comparison: Comparison) -> figures.DotTable:
    """A row a user: the facial similarity of each run on one axis, joined by a line."""
    values = [value for one in comparison.sides for value in one.strongest.similarity]
    scale = figures.scale_of("facial_similarity", [float(value) for value in values])
    rows = []
    for at, user in enumerate(comparison.users):
        scores = [float(one.strongest.similarity[at]) for one in comparison.sides]
        known = [score for score in scores if score == score]  # not NaN
        parts, y = figures.row_grid(scale), figures.ROW / 2
        if known:
            parts.append(svg.line(scale.percent(min(known)), y, scale.percent(max(known)), y, "joined"))
        parts += [
            svg.marker(scale.percent(score), y, index, f"mark s{index % svg.SERIES}")
            for index, score in enumerate(scores)
            if score == score
        ]
        told = " → ".join(svg.number(score) for score in scores)
        rows.append(figures.Row(f"User {user}", Markup(""), "attack", svg.strip(figures.ROW, parts), told, ""))
    return figures.DotTable(
        "Facial similarity, user by user", "Of the strongest attack of each run.", rows, figures.axis(scale)
    )


def _runs(comparison: Comparison) -> list[list[Cell]]:
    """The cells of a row a run, in the order of COLUMNS."""
    tests: list[Tested | None] = [None, *(pair.strongest for pair in comparison.pairs)]
    rows = []
    for one, tested in zip(comparison.sides, tests, strict=True):
        accuracy = svg.DASH if one.accuracy is None else svg.number(one.accuracy, 3)
        promised = "no guarantee" if one.epsilon is None else f"{one.epsilon:.3g}"
        audited = svg.DASH if one.epsilon_audited is None else f"at least {one.epsilon_audited:.3g}"
        audited = "nothing proved" if one.epsilon_audited == 0 else audited
        last = [(accuracy, ""), (promised, ""), (audited, "")]
        rows.append([(one.name, ""), (_attack(one.strongest), ""), *_cells(one.strongest, tested), *last])
    return rows


def _attacks(comparison: Comparison) -> list[tuple[str, list[list[Cell]]]]:
    """By label of an attack that the baseline shares with another run: a row a run."""
    found: dict[str, list[list[Cell]]] = {}
    for pair in comparison.pairs:
        for one in pair.by_attack:
            first = [[(pair.baseline.name, ""), *_cells(one.before, None)]]
            found.setdefault(one.before.attack, first).append([(pair.other.name, ""), *_cells(one.after, one)])
    return list(found.items())


def _cells(scores: Scores, tested: Tested | None) -> list[Cell]:
    """In the order of FIGURES."""
    none = (svg.DASH, "")
    identified = (f"{scores.count[0]} of {scores.count[1]}", exact(scores.share))
    if tested is None:
        return [_split(spelled(scores.likeness)), none, none, identified, none]
    change, p, p_share = signed(tested.likeness.difference), p_value(tested.likeness.p), p_value(tested.share.p)
    return [_split(spelled(scores.likeness)), _split(change), (p, ""), identified, (p_share, "")]


def _split(figure: str) -> Cell:
    mean, _, ends = figure.partition(" ")
    return mean, ends


def _attack(scores: Scores) -> str:
    read = {"all_images": ", all images", "determined": ", determined", "attribute_inference": ", no picture"}
    return f"{scores.attack}{read.get(scores.arm, '')}"


def _faces(comparison: Comparison, with_photos: bool) -> list[tuple[int, list[Face]]]:
    """The first users: a private photo, where it may be shown, and what the strongest attack of each run drew."""
    config = comparison.sides[0].run_data.config
    dataset = open_dataset(config.dataset, config.seed) if with_photos else None
    number = comparison.rounds[0]
    found = []
    for at, user in enumerate(comparison.users[:USERS]):
        faces = []
        if dataset is not None:
            photo = dataset.user(user).private.photos[0]
            faces.append(Face("private photo", data_uri(photo), f"a private photo of user {user}", "", False))
        faces += [_face(one, at, user, number) for one in comparison.sides]
        found.append((user, faces))
    return found


def _face(one: Side, at: int, user: int, number: int) -> Face:
    """In round `number`; an attack that is read without a picture shows none."""
    label, arm = one.strongest.attack, one.strongest.arm
    rows = one.table[(one.table["attack"] == label) & (one.table["arm"] == arm)]
    rows = rows[(rows["user"] == user) & (rows["round"] == number)]
    similarity, hit = one.strongest.similarity[at], one.strongest.identified[at] == 1
    told = f"{svg.number(float(similarity))}, {'identified' if hit else 'not identified'}"
    alt = f"user {user} in {one.name} by {label}: similarity {told}"
    try:
        capture = sender(dict(rows.iloc[0]) if len(rows) else {}, user)
        made = read_reconstruction(one.run_data.run, label, number, capture)
    except (OSError, ValueError, TypeError, SafetensorError):
        return Face(one.name, "", alt, told, bool(hit))
    image = made.determined if arm == "determined" and made.determined is not None else made.images[0]
    return Face(one.name, data_uri(image), alt, told, bool(hit))


def _plain(value: object) -> str:
    if isinstance(value, list):
        return "; ".join(_plain(one) for one in value) or "none"
    if isinstance(value, dict):
        settings = ", ".join(f"{key}={setting}" for key, setting in value.items() if key != "name")
        return f"{value.get('name', '')}({settings})"
    return svg.DASH if value is None else str(value)
