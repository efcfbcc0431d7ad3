"""The figures of docs/protocol.md on Flower's own mechanisms are those of the Flower that is installed."""

from experiments.benchmarks import flower_mechanisms


def test_the_page_says_what_the_installed_flower_does(repository, capsys):
    flower_mechanisms.main()
    _, printed = capsys.readouterr().out.split("\n", 1)
    page = (repository / "docs" / "protocol.md").read_text(encoding="utf-8")
    assert f"```\n{printed}```" in page
