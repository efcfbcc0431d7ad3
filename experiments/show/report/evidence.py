"""What the verdict of a report rests on, as text: each test and proof, and how real the pictures look."""

from experiments.evaluate.arms import CAPTIONS, title
from experiments.evaluate.realism import SHARPNESS, SWD
from experiments.show.report.captions import p_value, spell, spell_share
from experiments.show.report.measured import Measured
from experiments.show.report.svg import DASH, number


def realism(run_data: Measured) -> list[list[str]]:
    """How real the pictures look, over all rounds: (attack or arm, face detected, sharpness, patch distance)."""
    rows = [(title(attack, arm), attack, arm) for attack in run_data.attacks for arm in ("attack", "determined")]
    rows += [(CAPTIONS[arm], run_data.attacks[0], arm) for arm in ("prior_only", "own_photo") if run_data.attacks]
    lines = []
    for name, attack, arm in rows:
        cells = [spell(run_data.interval(attack, arm, "face_probability"))]
        for names, places in ((SHARPNESS, 2), (SWD, 0)):
            levels = [run_data.interval(attack, arm, column) for column in names]
            cells.append("  ".join(DASH if level is None else number(level.mean, places) for level in levels))
        if any(cell.strip(f"{DASH} ") for cell in cells):
            lines.append([name, *cells])
    return lines


def verdicts(run_data: Measured) -> list[list[str]]:
    """What each attack tells in each round, as text; the columns are those of the page."""
    return [
        [
            title(finding.attack, finding.arm),
            finding.knowledge,
            "any" if finding.server_round is None else str(finding.server_round),
            f"{finding.named} of {finding.users}",
            spell_share(finding.share),
            p_value(finding.p_named),
            p_value(finding.p_alike),
            p_value(finding.p_attributes),
            DASH if finding.epsilon_audited is None else number(finding.epsilon_audited, 1),
            DASH if finding.epsilon is None else f"{finding.epsilon:.3g}",
        ]
        for finding in run_data.findings
    ]
