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
    """A table for each section of base(), with the default and the comment of every field."""
    definitions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    functions = {node.name: node for node in definitions}
    source_lines, page_lines = source.splitlines(), []
    for name, value, comment in assignments(functions["base"], source_lines):
        if not isinstance(value, ast.Call):
            page_lines += [heading(name, "A field of no section."), row(name, value, comment)]
            continue

        section = functions[value.func.id]  # c.model = _model()
        page_lines.append(heading(name, ast.get_docstring(section)))
        page_lines += [row(*field) for field in assignments(section, source_lines)]
    return "\n".join(page_lines) + "\n"


def assignments(
    function: ast.FunctionDef, source_lines: list[str]
) -> list[tuple[str, ast.expr, str]]:
    """(attribute, value, comment) of each attribute that a function sets.

    The comment is that of the lines above the assignment, and that behind it.
    """
    end_of_previous, fields = function.body[0].end_lineno, []
    for statement in function.body[1:]:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Attribute):
            above = source_lines[end_of_previous : statement.lineno - 1]
            comments = [line.strip().removeprefix("# ") for line in above]
            comments.append(source_lines[statement.lineno - 1].partition("  # ")[2])
            comment = " ".join(text for text in comments if text and text != "#")
            fields.append((statement.targets[0].attr, statement.value, comment))
        end_of_previous = statement.end_lineno
    return fields


def heading(section: str, about: str) -> str:
    """The lines above a section's fields."""
    return f"\n### config.{section}\n\n{about}\n\n| field | default | meaning |\n|---|---|---|"


def row(field: str, default: ast.expr, comment: str) -> str:
    """A field's row."""
    text = ast.unparse(default).replace("'", '"')
    value = "None" if "placeholder" in text else text
    return f"| `{field}` | `{value}` | {comment.replace('|', chr(92) + '|')} |"


def page() -> str:
    """The page with new tables after the mark; the prose before it stays."""
    return PAGE.read_text("utf-8").partition(MARK)[0] + MARK + tables(BASE.read_text("utf-8"))


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
