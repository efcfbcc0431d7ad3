"""What the verdict of a report rests on, as text: each test and proof, and how real the pictures look."""

from experiments.evaluate.realism import SHARPNESS, SWD
from experiments.show.report.material import Material
from experiments.show.report.svg import DASH, number
from experiments.show.report.words import ARM_NAMES, p_value, spell, spell_share

READ = {"all_images": ", all images", "determined": ", determined"}  # how an attack is read, where not by its answer


def realism(material: Material) -> list[list[str]]:
    """How real the pictures look, over all rounds: (attack or arm, face detected, sharpness, patch distance)."""
    read = {"attack": "", "determined": READ["determined"]}
    rows = [(f"{attack}{title}", attack, arm) for attack in material.attacks for arm, title in read.items()]
    rows += [(ARM_NAMES[arm], material.attacks[0], arm) for arm in ("prior_only", "own_photo") if material.attacks]
    found = []
    for title, attack, arm in rows:
        cells = [spell(material.interval(attack, arm, "face_probability"))]
        for names, places in ((SHARPNESS, 2), (SWD, 0)):
            each = [material.interval(attack, arm, name) for name in names]
            cells.append("  ".join(DASH if one is None else number(one.mean, places) for one in each))
        if any(cell.strip(f"{DASH} ") for cell in cells):
            found.append([title, *cells])
    return found


def verdicts(material: Material) -> list[list[str]]:
    """What each attack tells in each round, as text; the columns are those of the page."""
    return [
        [
            f"{one.attack}{READ.get(one.arm, '')}",
            one.knowledge,
            "any" if one.server_round is None else str(one.server_round),
            f"{one.named} of {one.users}",
            spell_share(one.share),
            p_value(one.p_named),
            p_value(one.p_alike),
            p_value(one.p_attributes),
            DASH if one.epsilon_audited is None else number(one.epsilon_audited, 1),
            DASH if one.epsilon is None else f"{one.epsilon:.3g}",
        ]
        for one in material.findings
    ]
