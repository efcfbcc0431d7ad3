"""Print every figure of the documents anew from its stored result.

    make figures
    python -m experiments.studies.figures

Tables are written into README.md and docs/*.md, pictures into docs; files that changed are named. Nothing is measured:
docs/figures.md has the command that measures each figure, and what it takes.
"""

from pathlib import Path

from experiments.studies.figures.pages import PICTURES, changes
from experiments.studies.figures.tables import TABLES
from fl_sim.runs import write_atomically

ROOT = Path(__file__).parents[3]


def main() -> None:
    changed = dict(changes(ROOT))
    for path, content in changed.items():
        write_atomically(path, content)
        print(path.relative_to(ROOT))
    print(f"{len(TABLES)} tables and {len(PICTURES)} pictures printed; {len(changed)} files changed")


if __name__ == "__main__":
    main()
