"""What a check found, and how it is shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

Level = Literal["ok", "warning", "error"]
_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    """`ok`: as it should be; `warning`: cannot be told, or odd; `error`: results made from this would be wrong"""
    subject: str
    found: str
    mend: str
    """the likely mend; empty where there is nothing to do"""


def print_findings(findings: Sequence[Finding]) -> None:
    """Print one row a finding."""
    table = Table(*(Column(title, overflow="fold") for title in ("", "subject", "found", "likely mend")), show_lines=True)
    for finding in findings:
        table.add_row(f"[{_COLOURS[finding.level]}]{finding.level}[/]", finding.subject, escape(finding.found), escape(finding.mend))
    Console().print(table)


def has_error(findings: Sequence[Finding]) -> bool:
    """Whether any finding is an error."""
    return any(finding.level == "error" for finding in findings)
