"""The tables of docs/frontier.md, from stored results.

python -m experiments.show.frontier runs/defenses > docs/results/frontier_synthetic.csv    # what a sweep found
python -m experiments.show.frontier docs/results/frontier_synthetic.csv                    # the table, as Markdown
"""

import sys
from pathlib import Path

import pandas as pd

from experiments.evaluate.arms import PICTURES
from experiments.show.frontier.points import DELTA, KNOWLEDGE, PERSON
from experiments.show.markdown import markdown_table
from experiments.statistics.audited_epsilon import audited_epsilon
from experiments.statistics.shares import share_of
from experiments.statistics.verdict import exact

COLUMNS = ["cell", "accuracy", "epsilon", "mechanism", "users", "gallery", "attack", "knowledge", "similarity", "named"]
COLUMNS += ["readings"]


def stored(sweep: pd.DataFrame) -> pd.DataFrame:
    """The rows of `docs/results`: COLUMNS, one row a cell, attack and knowledge, from those of a sweep.

    `epsilon` is promised for the updates that the attack saw, at 1e-5; `similarity` is the answers' mean facial
    similarity, `named` the users at rank 1 among `gallery` people, in the round and by the reading (answer, mean face,
    all images) of `readings` in which most are: as the page has it.
    """
    keys = ["cell", "attack", "knowledge"]
    groups = sweep[sweep["arm"] == "attack"].groupby(keys, sort=False)
    read = sweep[sweep["arm"].isin(PICTURES)].assign(named=(sweep["rank"] == 1).fillna(False))
    named = read.groupby([*keys, "round", "arm"], sort=False)["named"].sum().groupby(keys, sort=False)
    rows = groups.agg(
        accuracy=("accuracy", "first"),
        epsilon=("epsilon", "max"),
        mechanism=("mechanism", "first"),
        gallery=("gallery_size", "max"),
        similarity=("facial_similarity", "mean"),
    )
    rows["users"] = groups.apply(lambda group: len(group[PERSON].drop_duplicates()))
    rows["named"], rows["readings"] = named.max(), named.size()
    return rows.reset_index()[COLUMNS].round({"accuracy": 3, "similarity": 3})


def markdown(rows: pd.DataFrame) -> str:
    """A line a cell: accuracy, what each knowledge reaches, the share that the best names, both epsilons."""
    rows = rows if "readings" in rows else rows.assign(readings=1)  # of runs whose only picture was the mean face
    headings = ["cell", "accuracy", "knows nothing", "the mechanism", "its parameters", "most named [95 %]"]
    headings += ["epsilon promised", "proved"]
    lines = []
    for cell, own in rows.groupby("cell", sort=False):
        first, levels = own.iloc[0], own.set_index("knowledge")
        knowing = [
            f"{levels.similarity[known]:.2f}, {levels.named[known]}" if known in levels.index else "-"
            for known in KNOWLEDGE
        ]
        most, users = int(own["named"].max()), int(first["users"])
        interval = exact(share_of(most, users))
        gaussian = first["mechanism"] == "gaussian"
        proved = audited_epsilon(most, users, int(first["gallery"]), DELTA, gaussian, tried=int(own["readings"].sum()))
        promised = "none" if pd.isna(first["epsilon"]) else f"{first['epsilon']:.3g}"
        line = [
            cell,
            "" if pd.isna(first["accuracy"]) else f"{first['accuracy']:.2f}",
            *knowing,
            f"{most} of {users} {interval}",
            promised,
            f"{proved:.1f}",
        ]
        lines.append(line)
    return markdown_table(headings, lines)


def main(path: Path) -> None:
    if path.is_dir():
        print(stored(pd.read_parquet(path / "sweep.parquet")).to_csv(index=False), end="")
    else:
        print(markdown(pd.read_csv(path)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
