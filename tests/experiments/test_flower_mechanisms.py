"""The figures of docs/protocol.md on Flower's own mechanisms are those of the Flower that is installed."""

import re

from experiments.benchmarks import flower_mechanisms


def test_the_page_says_what_the_installed_flower_does(repository, capsys):
    flower_mechanisms.main()
    printed = capsys.readouterr().out.splitlines()[1:]
    page = (repository / "docs" / "protocol.md").read_text(encoding="utf-8")
    blocks = [block.splitlines() for block in re.findall(r"```\n(.*?)```", page, re.DOTALL)]
    assert printed in blocks
