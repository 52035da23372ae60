"""Parts of the documentation that programs write between two marks."""

from pathlib import Path


def made_part(page: Path, begin: str, end: str) -> str:
    """What stands between the marks."""
    return page.read_text(encoding="utf-8").partition(begin)[2].partition(end)[0]


def write_made_part(page: Path, begin: str, end: str, text: str) -> None:
    """Replace what stands between the marks, which stay."""
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    page.write_text(before + begin + text + end + rest.partition(end)[2], encoding="utf-8")
