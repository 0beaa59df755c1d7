"""Write the tables of docs/config.md from configs/base.py, where every field has its default and
its comment.

python docs/fields.py
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE, BASE = ROOT / "docs" / "config.md", ROOT / "configs" / "base.py"
MARK = "<!-- What follows is written by docs/fields.py. -->\n"


def tables(source: str) -> str:
    """A table for each section of base(): what it is about; field, default, unit and legal
    values."""
    functions = {
        node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)
    }
    lines, found = source.splitlines(), []
    for name, value, said in assigned(functions["base"], lines):
        if not isinstance(value, ast.Call):
            found += [heading(name, "A field of no section."), row(name, value, said)]
            continue
        section = functions[value.func.id]  # c.model = _model()
        found.append(heading(name, ast.get_docstring(section)))
        found += [row(*field) for field in assigned(section, lines)]
    return "\n".join(found) + "\n"


def assigned(function: ast.FunctionDef, lines: list[str]) -> list[tuple[str, ast.expr, str]]:
    """Each attribute that is set, its value, and what the comments above and behind it say."""
    previous, found = function.body[0].end_lineno, []
    for statement in function.body[1:]:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Attribute):
            comments = [
                line.strip().removeprefix("# ") for line in lines[previous : statement.lineno - 1]
            ]
            comments.append(lines[statement.lineno - 1].partition("  # ")[2])
            said = " ".join(comment for comment in comments if comment and comment != "#")
            found.append((statement.targets[0].attr, statement.value, said))
        previous = statement.end_lineno
    return found


def heading(section: str, about: str) -> str:
    """Above a section's fields."""
    return f"\n### config.{section}\n\n{about}\n\n| field | default | meaning |\n|---|---|---|"


def row(field: str, default: ast.expr, said: str) -> str:
    """One field."""
    value = (
        "None" if "placeholder" in ast.unparse(default) else ast.unparse(default).replace("'", '"')
    )
    about = said.replace("|", "\\|")
    return f"| `{field}` | `{value}` | {about} |"


def page() -> str:
    """The whole page: its prose stays, what is after the mark is new."""
    return PAGE.read_text("utf-8").partition(MARK)[0] + MARK + tables(BASE.read_text("utf-8"))


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
