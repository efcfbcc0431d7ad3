"""What the paper shows, item by item: what it reports as far as that is known, and how it is made here."""

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
SHOWN = 0  # partition of the user in the pictures: the first, whoever that is


@dataclass(frozen=True)
class Item:
    """One figure, table or algorithm."""

    name: str  # of the command and of the files
    title: str  # as the paper numbers it, and what it shows
    configs: tuple[str, ...]  # TOML files here; each is one run
    paper: str  # what the paper reports; only what its abstract and captions say
    differs: str  # from the paper, whatever the data


ITEMS = {
    item.name: item
    for item in (
        Item(
            "figure1",
            "Figure 1: 30 photos of one user, and what one gradient says of them",
            ("figure1",),
            "In-batch pairwise facial similarity from 0.5217 to 0.9579; mean similarity of the reconstruction to the "
            "batch 0.5565.",
            "The paper shows one user of its choice; the user shown here is the first one, and the table has them all.",
        ),
        Item(
            "figure2",
            "Figure 2: one photo of the batch, by every attack",
            ("attacks", "imprint"),
            "Pictures of one image of a batch of 30 beside reconstructions by existing attacks; no number is known.",
            "Of several images that an attack leaves, the one nearest to the photo (PSNR) is shown: a choice that "
            "needs the truth, and flatters them. Their step counts are far below those of their papers.",
        ),
        Item(
            "figure3",
            "Figure 3: the full batch, by every attack",
            ("attacks", "imprint"),
            "Pictures of a full batch of 30 beside reconstructions by existing attacks; no number is known.",
            "All images that each attack leaves, in the order in which it leaves them. Step counts as in Figure 2.",
        ),
        Item(
            "figure4",
            "Figure 4: 100 photos of one user",
            ("figure4",),
            "In-batch pairwise facial similarity from 0.4371 to 0.9528; mean similarity of the reconstruction to the "
            "batch 0.7080.",
            "As in Figure 1.",
        ),
        Item(
            "figure5",
            "Figure 5: time schedule and sliding window",
            ("figure5",),
            "A plot of the time step against the optimisation step, with the window from which it is drawn.",
            "The schedule is that of `user_diffusion` here; the paper's numbers are not known. What other schedules "
            "and windows give on the same updates is drawn below it.",
        ),
        Item(
            "table1",
            "Table 1: what existing attacks reveal about the person",
            ("attacks", "imprint"),
            "A table of what existing attacks reveal beyond the images, private attributes among it; no number known.",
            "Attacks that leave one image a photo are read by their first image, by all of them together (embedded and "
            "averaged, attributes by vote) and by the best one, which takes the truth to choose. Step counts as in "
            "Figure 2.",
        ),
        Item(
            "table2",
            "Table 2: what the new attack reveals about the person",
            ("table2",),
            "A table of what the new attack reveals, private attributes among it; no number is known.",
            "The paper reads gender, race and age. Synthetic people have glasses, beard, hair, skin tone, age group.",
        ),
        Item(
            "algorithm1",
            "Algorithm 1: the attack",
            (),
            "The attack as pseudo-code.",
            "Where the paper is silent (the balance of the two terms, labels, several photos of different labels) the "
            "docstrings say what was decided and why.",
        ),
    )
}

ALGORITHM = (
    (
        "Read the label proportions off the update, where they are not told",
        "attacker.inversion.labels",
        "recover_proportions",
    ),
    ("Give each label one image and its weight", "attacker.inversion.representatives", "by_label"),
    ("Slide the window of time steps, and add the two terms", "attacker.attacks.user_diffusion", "attack"),
    (
        "Distance of the dummy gradient to the observed one, and its gradient in the pixels",
        "attacker.inversion.matching",
        "matching_loss_and_grad",
    ),
    ("The prior's term: the gradient of score distillation", "attacker.priors.prior", "Prior.sds_gradient"),
    (
        "Step: each term at unit norm, Adam, what the images share first",
        "attacker.inversion.descent",
        "descend",
    ),
)
"""(step, module, function) of the attack, in the order of the algorithm."""
