"""Write the tables of docs/claims.md from the tables of the studies in results/studies.

python docs/verdicts.py
"""

import csv
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE, RESULTS = ROOT / "docs" / "claims.md", ROOT / "results" / "studies"
MARK = "<!-- What follows is written by docs/verdicts.py. -->\n"
# Statuses of a claim in the order of the table's columns; a study that did not test it is in none.
STATUSES = ("reproduced here", "not reproduced", "undecided")


def read(pattern: str) -> dict[Path, list[dict[str, str]]]:
    """{its folder: rows} of the tables with such names, which are those of one study, by folder."""
    by_folder: dict[Path, list[dict[str, str]]] = {}
    for file in sorted(RESULTS.rglob(pattern)):
        with file.open(newline="", encoding="utf-8") as lines:
            by_folder.setdefault(file.parent, []).extend(csv.DictReader(lines))
    return by_folder


def study(folder: Path) -> str:
    """The study whose tables a folder has: no link, as the site of these pages has no results."""
    return f"`{folder.relative_to(RESULTS).parts[0]}`"


def claims() -> str:
    """A row for each published claim, with the studies that tested it under what they say."""
    studies: dict[tuple[str, str], dict[str, list[str]]] = {}
    # What commands check of a study's runs is in tables of their own, subspace_claims.csv.
    for folder, rows in read("*claims.csv").items():
        for row in rows:
            by_status = studies.setdefault((row["claim"], row["source"]), {})
            by_status.setdefault(row["here"], []).append(study(folder))
    head = f"| claim | source | {' | '.join(STATUSES)} |\n|---|---|---|---|---|\n"
    table_lines = []
    for (claim, source), by_status in studies.items():
        cells = [", ".join(by_status.get(status, [])) for status in STATUSES]
        if any(cells):
            table_lines.append(f"| {claim} | {source} | {' | '.join(cells)} |")
    return head + "\n".join(table_lines) + "\n"


def contrasts() -> str:
    """A row for each primary contrast of each study."""
    table_lines = []
    for folder, rows in read("verdicts.csv").items():
        for row in rows:
            if row["equal"] == "learning":
                cells = [f"{row['first']} – {row['second']}", *numbers(row), row["first forgets"]]
                table_lines.append(f"| {study(folder)} | {' | '.join(cells)} |")
    head = (
        "| study | first – second | difference | margin | first forgets |\n|---|---|---|---|---|\n"
    )
    return head + "\n".join(table_lines) + "\n"


def numbers(row: dict[str, str]) -> tuple[str, str]:
    """(difference with its interval, margin) of a contrast, or why there are none."""
    if not row["effect"]:
        return row["reason"], ""
    if not row["95 % low"]:
        return f"{float(row['effect']):+.3f}", row["margin"]
    mean, low, high = (float(row[name]) for name in ("effect", "95 % low", "95 % high"))
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]", row["margin"]


def page() -> str:
    """The page with new tables after the mark; the prose before it stays."""
    prose = PAGE.read_text("utf-8").partition(MARK)[0]
    sections = ("Published claims", claims()), ("Contrasts at equal learning", contrasts())
    return prose + MARK + "".join(f"\n## {title}\n\n{table}" for title, table in sections)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
