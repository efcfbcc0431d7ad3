"""Make items of the paper, and the page that holds them.

    python -m experiments.studies.paper ITEM... [-o KEY=VALUE] [--faces FOLDER --prior PRIOR --embedder ONNX] [--out
    FOLDER]

ITEM is one of the figures and tables, `all`, or `page` (only assemble what is there). Of synthetic people the
page is docs/paper.md; of real ones it stays in the folder of the runs, which git does not see.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path

from experiments.studies.paper import page
from experiments.studies.paper.items import ITEMS
from experiments.studies.paper.make import Options, make
from experiments.studies.real_faces import add_options, base_with_faces
from fl_sim.config import ConfigError


def main(arguments: list[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    real = given.faces is not None
    runs = given.runs / ("paper-faces" if real else "paper")
    options = Options(
        runs=runs,
        out=given.out or (runs / "page" if real else Path("docs/paper")),
        base=lambda table: base_with_faces(table, given),
        overrides=tuple(given.override),
        private_photos=given.with_private_photos,
        tell=lambda line: print(line, file=sys.stderr, flush=True),
    )
    names = list(ITEMS) if "all" in given.items else [name for name in given.items if name != "page"]
    arguments = sys.argv[1:] if arguments is None else arguments
    problems = []
    try:
        for name in names:
            started = time.monotonic()
            command = shlex.join(["python", "-m", "experiments.studies.paper", *_for(name, arguments)])
            problems += make(ITEMS[name], options, command)
            print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(page.write(options.out))
    for problem in problems:
        print(f"failed: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments.studies.paper", description="The paper, item by item.")
    parser.add_argument("items", nargs="+", choices=[*ITEMS, "all", "page"], metavar="ITEM", help=", ".join(ITEMS))
    parser.add_argument("-o", "--override", action="append", default=[], metavar="KEY=VALUE", help="of the configs")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all runs")
    parser.add_argument("--out", type=Path, help="folder of pictures and records; the page is OUT.md")
    parser.add_argument("--with-private-photos", action="store_true", help="show private photos of real people too")
    add_options(parser)
    return parser


def _for(item: str, arguments: list[str]) -> list[str]:
    """The command line for one item alone."""
    return [item, *(argument for argument in arguments if argument not in {*ITEMS, "all", "page"})]


if __name__ == "__main__":
    sys.exit(main())
