"""Write the tables of docs/config.md from configs/base.py, where every field has its default and its comment.

python docs/fields.py
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE, BASE = ROOT / "docs" / "config.md", ROOT / "configs" / "base.py"
MARK = "<!-- What follows is written by docs/fields.py. -->\n"


def tables(source: str) -> str:
    """A table for each section of base(): field, default, unit and legal values."""
    (function,) = (n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == "base")
    lines, previous, found = source.splitlines(), function.body[0].end_lineno, []
    sections = {"c": "config"}
    for statement in function.body[1:]:
        if not isinstance(statement, ast.Assign):
            continue
        target, made = statement.targets[-1], len(statement.targets) == 2  # m = c.model = ConfigDict()
        if made:
            sections[statement.targets[0].id] = f"config.{target.attr}"
            found.append(f"\n### config.{target.attr}\n\n| field | default | meaning |\n|---|---|---|")
        elif isinstance(target, ast.Attribute):
            above = [line.strip() for line in lines[previous : statement.lineno - 1]]
            said = [*above, lines[statement.lineno - 1].partition("  # ")[2]]
            found.append(row(sections[target.value.id], target.attr, statement.value, said))
        previous = statement.end_lineno
    return "\n".join(found) + "\n"


def row(section: str, field: str, default: ast.expr, said: list[str]) -> str:
    """One field; a field of no section has a table of its own."""
    value = "None" if "placeholder" in ast.unparse(default) else ast.unparse(default).replace("'", '"')
    about = " ".join(line.removeprefix("# ") for line in said if line and line != "#").replace("|", "\\|")
    head = f"\n### config.{field}\n\n| field | default | meaning |\n|---|---|---|\n" if section == "config" else ""
    return f"{head}| `{field}` | `{value}` | {about} |"


def page() -> str:
    """The whole page: its prose stays, what is after the mark is new."""
    return PAGE.read_text("utf-8").partition(MARK)[0] + MARK + tables(BASE.read_text("utf-8"))


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
