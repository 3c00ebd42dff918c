"""`polymodal doctor`"""

from typing import Annotated

import typer

from polymodal.cli.output import print_json, print_whole


def run(
    artifact: Annotated[
        str | None, typer.Argument(help="Artifact or run folder whose files are to be checked.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Report versions, conflicts, CPU, memory, GPU and disk; check an artifact's files.

    Each line is ok, warn or fail; what is not ok comes with a remedy. Exit code 1 when something is broken.

    **Examples**

    - `polymodal doctor`
    - `polymodal doctor runs/a`
    - `polymodal doctor --json > machine.json`
    """
    from polymodal.doctor import examine

    findings = examine(artifact)
    broken = [finding for finding in findings if finding.state == "fail"]
    if as_json:
        print_json({"ok": not broken, "findings": [finding.to_dict() for finding in findings]})
    else:
        from rich.table import Table
        from rich.text import Text

        table = Table("", "what", "found", title="polymodal doctor", title_justify="left")
        colors = {"ok": "green", "warn": "yellow", "fail": "bold red"}
        area = None
        for finding in findings:
            if finding.area != area:
                area = finding.area
                table.add_section()
            value = Text(finding.value)
            if finding.remedy:
                value.append(f"\n→ {finding.remedy}", style="cyan")
            table.add_row(Text(finding.state, colors[finding.state]), f"{finding.area}: {finding.name}", value)
        warned = sum(finding.state == "warn" for finding in findings)
        print_whole(table)
        print(f"{len(findings) - len(broken) - warned} ok, {warned} to look at, {len(broken)} broken")
    if broken:
        raise typer.Exit(1)
