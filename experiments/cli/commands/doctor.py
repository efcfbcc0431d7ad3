"""`fl-sim doctor`: what is installed and reachable here."""

import json

import typer
from rich.console import Console

from experiments.cli.console import AsJson


def doctor(as_json: AsJson = False) -> None:
    """Tell what is installed and reachable here, and what to do about what is not."""
    from experiments.cli.doctor import examine

    findings = examine()
    if as_json:
        print(json.dumps([finding.__dict__ for finding in findings], indent=2))
    else:
        for finding in findings:
            mark = {"ok": "[green]ok[/]     ", "optional": "[yellow]absent[/] ", "broken": "[red]broken[/] "}
            remedy = f"  -> {finding.remedy}" if finding.remedy else ""
            line = f"{mark[finding.state]} {finding.subject}: {finding.found}{remedy}"
            Console(highlight=False).print(line, soft_wrap=True)
    if any(finding.state == "broken" for finding in findings):
        raise typer.Exit(1)
