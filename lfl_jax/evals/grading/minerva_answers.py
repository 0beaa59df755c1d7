r"""One spelling of a MATH answer before it is read as a formula: Minerva's rules.

Lewkowycz et al. 2022 (arXiv 2206.14858, appendix D), as lm-evaluation-harness 0.4.13 has them: the
two lists and their order are the paper's. "x = 1,000 \text{ dollars}" becomes "1000".
"""

import re

SUBSTITUTIONS = (
    ("an ", ""),
    ("a ", ""),
    (".$", "$"),
    (r"\$", ""),
    (r"\ ", ""),
    (" ", ""),
    ("mbox", "text"),
    (r",\text{and}", ","),
    (r"\text{and}", ","),
    (r"\text{m}", r"\text{}"),
)
# fmt: off
UNITS = (
    "square", "ways", "integers", "dollars", "mph", "inches", "ft", "hours", "km", "units",
    r"\ldots", "sue", "points", "feet", "minutes", "digits", "cents", "degrees", "cm", "gm",
    "pounds", "meters", "meals", "edges", "students", "childrentickets", "multiples",
    r"\text{s}", r"\text{.}", "\\text{\ns}", r"\text{}^2", r"\text{}^3", "\\text{\n}", r"\text{}",
    r"\mathrm{th}", r"^\circ", r"^{\circ}", r"\;", r",\!", "{,}", '"', r"\dots",
)
# fmt: on
COMMAND = re.compile(r"(\\[a-zA-Z]+)")
THOUSANDS = re.compile(r"-?\d{1,3}(,\d{3})+")
# Wrappers around an answer, replaced by their content: (pattern, content).
WRAPPERS = (
    (re.compile(r"(.*?)(\$)(.*?)(\$)(.*)"), r"$\3$"),
    (re.compile(r"(\\text\{)(.*?)(\})"), r"\2"),
    (re.compile(r"(\\textbf\{)(.*?)(\})"), r"\2"),
    (re.compile(r"(\\overline\{)(.*?)(\})"), r"\2"),
    (re.compile(r"(\\boxed\{)(.*)(\})"), r"\2"),
)
# Shorthand that gets braces: \frac12, \sqrt[3]8 and \sqrt2.
SHORTHAND = (
    (re.compile(r"(frac)([^{])(.)"), r"frac{\2}{\3}"),
    (re.compile(r"(sqrt)(\[[^\]]*\])(\w)"), r"\1\2{\3}"),
    (re.compile(r"(sqrt)(?!\[)([^{])"), r"sqrt{\2}"),
)


def normal(answer: str) -> str:
    """The text after the last "=", without units, spaces, dollar signs and text.

    Commas between thousands are removed where the whole answer is a number.
    """
    answer = answer.split("=")[-1]
    # Words first, while spaces still tell them apart; the others as the paper removes them, last.
    for unit in filter(str.isalpha, UNITS):
        answer = re.sub(rf"(?<!\\)\b{unit}\b", "", answer)
    for old, new in SUBSTITUTIONS:
        answer = answer.replace(old, new)
    for unit in UNITS:
        answer = _without(answer, unit)
    for pattern, replacement in (*WRAPPERS, *SHORTHAND):
        answer = pattern.sub(replacement, answer)
    answer = answer.replace("$", "")
    return answer.replace(",", "") if THOUSANDS.fullmatch(answer) else answer


def _without(answer: str, unit: str) -> str:
    r"""Without this unit, but not inside of a command: the "ft" of \left stays."""
    if not unit.isalpha():
        return answer.replace(unit, "")
    # Every second part is a command, which the pattern's group keeps in the split.
    parts = COMMAND.split(answer)
    return "".join(part if i % 2 else part.replace(unit, "") for i, part in enumerate(parts))
