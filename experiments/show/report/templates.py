"""The templates of the pages: report, frontier, comparison."""

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from experiments.show.report.captions import breakable, kept_together

REPORT = Path(__file__).parent  # whose style and parts all pages share


@cache
def environment(folder: Path = REPORT) -> Environment:
    """The templates in `folder`, and behind them those of the report. A name that a page lacks is an error."""
    made = Environment(
        loader=FileSystemLoader([folder, REPORT]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["breakable"] = breakable
    made.filters["kept_together"] = kept_together
    return made
