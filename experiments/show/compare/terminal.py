"""A comparison for the terminal, 80 columns wide."""

from rich.console import Group
from rich.table import Table

from experiments.show.compare import Comparison
from experiments.show.compare.changes import Tested
from experiments.show.compare.sentences import p_value, signed, spelled
from experiments.show.compare.sides import Scores
from experiments.statistics.summary import LOOK
from experiments.statistics.verdict import exact

ROW = "\n"


def tables(comparison: Comparison) -> Group:
    """A table of the runs, each by its strongest attack; then attack by attack, where there is more than one."""
    found = [_runs(comparison)]
    if any(len(pair.by_attack) > 1 for pair in comparison.pairs):
        found.append(_attacks(comparison))
    return Group(*found)


def _runs(comparison: Comparison) -> Table:
    rounds = comparison.rounds
    when = f"in round {rounds[0]}" if len(rounds) == 1 else f"identified in any of {len(rounds)} rounds"
    table = Table(title=f"the same {len(comparison.users)} users, {when}; strongest attack of each run", **LOOK)
    table.add_column("run", overflow="fold", min_width=12)
    for title in ("accuracy", "epsilon\npromised\naudited", "similarity\n[95 %]", "change\n[95 %]\np"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("identified\n[95 %]\np", justify="right", no_wrap=True)
    for one, tested in zip(comparison.sides, [None, *(pair.strongest for pair in comparison.pairs)], strict=True):
        epsilon = ("-" if value is None else f"{value:.3g}" for value in (one.epsilon, one.epsilon_audited))
        accuracy = "-" if one.accuracy is None else f"{one.accuracy:.2f}"
        table.add_row(one.name, accuracy, ROW.join(epsilon), *_cells(one.strongest, tested))
    return table


def _attacks(comparison: Comparison) -> Table:
    table = Table(title="attack by attack", **LOOK)
    table.add_column("attack", overflow="fold", min_width=12)
    table.add_column("run", overflow="fold", min_width=10)
    for title in ("similarity\n[95 %]", "change\n[95 %]\np", "identified\n[95 %]\np"):
        table.add_column(title, justify="right", no_wrap=True)
    for label in dict.fromkeys(one.before.attack for pair in comparison.pairs for one in pair.by_attack):
        told = [(pair, one) for pair in comparison.pairs for one in pair.by_attack if one.before.attack == label]
        table.add_row(label, told[0][0].baseline.name, *_cells(told[0][1].before, None))
        for pair, one in told:
            table.add_row("", pair.other.name, *_cells(one.after, one))
    return table


def _cells(scores: Scores, tested: Tested | None) -> tuple[str, str, str]:
    ends = spelled(scores.likeness).replace(" [", "\n[")
    named, answered = scores.count
    identified = f"{named} of {answered}\n{exact(scores.share)}"
    if tested is None:
        return ends, "", identified
    change = signed(tested.likeness.difference).replace(" [", "\n[")
    return ends, f"{change}\n{p_value(tested.likeness.p)}", f"{identified}\n{p_value(tested.share.p)}"
