"""The arms of the experiment: what is judged in the place of a user's photo.

A generative attack prints a plausible face whatever it is fed, so a similarity means nothing alone. Each attack stands
beside controls that know nothing of this user's update, and references that no attack can be expected to exceed.
"""

from typing import Literal, NamedTuple

Group = Literal["attack", "reading", "upper_bound", "prediction", "control", "reference"]


class Arm(NamedTuple):
    name: str  # in the column `arm` of the leakage table
    caption: str  # in tables and figures
    group: Group
    meaning: str


ARMS = (  # in the order of tables and figures
    Arm("attack", "attack", "attack", "the reconstruction made from this user's update: its first image, the answer"),
    Arm(
        "determined",
        "determined",
        "reading",
        "the mean face that the update determines, before the prior drew the rest of the answer",
    ),
    Arm("all_images", "all images", "reading", "all images of the reconstruction, embedded and averaged by weight"),
    Arm(
        "best_image",
        "best image",
        "upper_bound",
        "the one of them most like the user, chosen by who knows the truth: an upper bound, no attack",
    ),
    Arm(
        "best_member",
        "best of the sum",
        "upper_bound",
        "the reconstruction from a sum of several users' updates, of the one alone whom it is most like",
    ),
    Arm(
        "attribute_inference",
        "attribute inference",
        "prediction",
        "no picture: attributes and an embedding regressed from this user's update (`leakage.attribute_inference`)",
    ),
    Arm(
        "base_rate",
        "base rate",
        "prediction",
        "no picture: the commonest attributes of the public people in the gallery, their mean embedding",
    ),
    Arm("prior_only", "prior only", "control", "what the prior draws without any update"),
    Arm(
        "wrong_update",
        "wrong update",
        "control",
        "the reconstruction made from another user's update of the same round (the next one's, cyclically)",
    ),
    Arm("public_mean", "mean of others", "control", "the mean photo of people who are not users"),
    Arm(
        "own_photo",
        "a real photo",
        "reference",
        "one real photo of the user that is neither private nor in the gallery",
    ),
    Arm("own_mean", "own mean", "reference", "the mean of the user's private photos"),
)


def names(*groups: Group) -> tuple[str, ...]:
    """The arms of these groups, in the order of ARMS."""
    return tuple(arm.name for arm in ARMS if arm.group in groups)


CAPTIONS = {arm.name: arm.caption for arm in ARMS}
GROUPS = {arm.name: arm.group for arm in ARMS}
PICTURES = names("attack", "reading")  # what an attack left of the user
BELIEVABLE = (*PICTURES, "attribute_inference")  # what an attacker may choose to believe
CONTROLS = names("control")
REFERENCES = names("reference")


def heading(arm: str) -> str:
    """The caption in two lines, for narrow columns: `a real` above `photo`."""
    return "\n".join(CAPTIONS[arm].rsplit(" ", 1))


def title(attack: str, arm: str) -> str:
    """The answer of an attack by its label, another reading of it as `LABEL, all images`."""
    return f"{attack}, {CAPTIONS[arm]}" if GROUPS[arm] == "reading" else attack
