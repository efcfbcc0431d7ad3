"""The columns of the leakage table, one by one, and how rows become that table."""

from typing import Any, NamedTuple

import pandas as pd

from experiments.evaluate.realism import BANDS
from fl_sim.runs import RunFolder, write_atomically


class Column(NamedTuple):
    dtype: str
    range: str
    direction: str  # which end means that more has leaked
    meaning: str


COLUMNS: dict[str, Column] = {
    "run": Column("string", "", "", "name of the run"),
    "seed": Column("int64", "0 or more", "", "seed of the run"),
    "round": Column("int64", "1 or more", "", "round of the federation"),
    "user": Column("int64", "0 or more", "", "partition id of the user"),
    "attack": Column("string", "", "", "label of the attack in the config"),
    "arm": Column(
        "string", "one of experiments.evaluate.arms.ARMS", "", "what was judged in the place of the user's photo"
    ),
    "knowledge": Column("string", "none, mechanism or parameters", "", "what the attack knew of the users' defenses"),
    "capture": Column("int64", "0 or more", "", "number of the update: the user's, its pseudonym's, its group's"),
    "group_size": Column("int64", "1 or more", "", "users of whose updates the server saw only the mean"),
    "epsilon": Column(
        "float64",
        "0 to inf",
        "",
        "promised for the updates that the attack saw, against the server, at delta; null: no guarantee",
    ),
    "epsilon_audited": Column(
        "float64",
        "0 to inf",
        "higher leaks",
        "proved by how many users the arm names in this round (statistics.audited_epsilon); null: not auditable",
    ),
    "delta": Column("float64", "0 to 1", "", "`protocol.delta`"),
    "facial_similarity": Column(
        "float64", "-1 to 1", "higher leaks", "mean cosine of the arm's embedding to the user's private photos"
    ),
    "similarity_min": Column("float64", "-1 to 1", "higher leaks", "smallest of these cosines"),
    "similarity_max": Column("float64", "-1 to 1", "higher leaks", "largest of these cosines"),
    "in_batch_min": Column(
        "float64", "-1 to 1", "", "smallest cosine between two of the user's private photos; null for a single photo"
    ),
    "in_batch_max": Column("float64", "-1 to 1", "", "largest cosine between two of them"),
    "rank": Column(
        "Int64",
        "1 to gallery_size",
        "lower leaks",
        "of the user among gallery_size people; ties count against the attacker",
    ),
    "gallery_size": Column("int64", "2 or more", "", "people in the gallery in which rank was taken"),
    "verified_at_far_1e2": Column(
        "boolean", "", "true leaks", "same person as the user's template, where 1 in 100 strangers passes"
    ),
    "verified_at_far_1e3": Column("boolean", "", "true leaks", "the same where 1 in 1,000 strangers passes"),
    "psnr": Column("float64", "0 dB to inf", "higher leaks", "to the private photo it is closest to, dB"),
    "ssim": Column("float64", "-1 to 1", "higher leaks", "to the private photo it is closest to"),
    "lpips": Column(
        "float64", "0 to inf", "lower leaks", "to the private photo it is closest to; null without its weights"
    ),
    "face_probability": Column(
        "float64",
        "0 to 1",
        "",
        "higher is more real: how sure MTCNN is of a face; null where it does not find those of public photos",
    ),
    **{
        f"sharpness_{band}": Column(
            "float64",
            "0 to inf",
            "",
            f"1 is a photo's: contrast to a blur of {pixels} px, by that of public photos",
        )
        for band, pixels in zip(("fine", "middle", "coarse"), BANDS, strict=True)
    },
    **{
        f"patch_swd_{scale}": Column(
            "float64",
            "0 to inf",
            "",
            f"lower is more real: of all users' pictures in this arm, attack and round, at {scale} size, 1,000 "
            "times the sliced Wasserstein distance of their patches to those of public photos",
        )
        for scale in ("full", "half", "quarter")
    },
    "draws": Column(
        "Int64", "1 or more", "", "faces that the attack drew for the one update; null, as all of them, without draws"
    ),
    "draws_similarity": Column(
        "float64", "-1 to 1", "higher leaks", "mean over the draws of facial_similarity, each taken by itself"
    ),
    "draws_spread": Column(
        "float64",
        "0 to 0.5",
        "",
        "standard deviation over the draws, mean over pixels and channels in [0, 1]; 0: all agree",
    ),
    "matching_loss": Column(
        "float64",
        "depends on the distance",
        "lower fits better",
        "the attack's own, of arms made from this user's update",
    ),
    "seconds": Column("float64", "0 to inf", "", "of attack time for this user; null for arms that no attack made"),
}
"""Where the attack left draws, the arms attack and wrong_update are one of them by all columns of pictures but
`draws_*`; an attribute is what most of them show, and `attr_NAME_share` the share that does.

Where an arm shows several images, the embedding is their weighted mean, an attribute is what they say by weighted
vote (the lower class of two that are even), and PSNR, SSIM, LPIPS, face_probability and sharpness are weighted means
over the images.

Each column but, per attribute, `attr_NAME_true` (of the person, from the dataset) and `attr_NAME_inferred` (read by
the classifier off the arm's picture; of the arms without one, said directly), Int64 classes from 0, and
`attr_NAME_share` (float64 in (0, 1]; null without draws). Null: the picture is missing or not finite, the arm has none,
or the dataset does not know the attribute."""

KEYS = ["run", "seed", "round", "user", "attack", "arm"]


def typed(rows: list[dict[str, Any]], attributes: list[str]) -> pd.DataFrame:
    """Every column, in the order of COLUMNS and then by attribute, of its dtype even where all is null."""
    kinds = {name: column.dtype for name, column in COLUMNS.items()}
    sides = {"true": "Int64", "inferred": "Int64", "share": "float64"}
    kinds |= {f"attr_{name}_{side}": kind for name in attributes for side, kind in sides.items()}
    return pd.DataFrame(rows).reindex(columns=list(kinds)).astype(kinds)


def write(run: RunFolder, table: pd.DataFrame) -> None:
    """Write the table of a run, as `leakage.parquet` and `leakage.csv`."""
    write_atomically(run.leakage, table.to_parquet(index=False))
    write_atomically(run.leakage.with_suffix(".csv"), table.to_csv(index=False).encode())


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of any table; None where it says nothing."""
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return [{str(key): value for key, value in row.items()} for row in rows]
