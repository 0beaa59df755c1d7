"""One spelling of a MATH answer before it is read as a formula: Minerva's rules, as in
lm-evaluation-harness 0.4.13.

The two lists are those of Lewkowycz et al. (arXiv 2206.14858, appendix D), in their order.
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
UNITS = (
    *("square", "ways", "integers", "dollars", "mph", "inches", "ft", "hours", "km", "units"),
    r"\ldots",
    *(
        "sue",
        "points",
        "feet",
        "minutes",
        "digits",
        "cents",
        "degrees",
        "cm",
        "gm",
        "pounds",
        "meters",
        "meals",
    ),
    *("edges", "students", "childrentickets", "multiples"),
    *(
        r"\text{s}",
        r"\text{.}",
        "\\text{\ns}",
        r"\text{}^2",
        r"\text{}^3",
        "\\text{\n}",
        r"\text{}",
        r"\mathrm{th}",
    ),
    *(r"^\circ", r"^{\circ}", r"\;", r",\!", "{,}", '"', r"\dots"),
)
COMMAND = re.compile(r"(\\[a-zA-Z]+)")
THOUSANDS = re.compile(r"-?\d{1,3}(,\d{3})+")
# What decorates an answer: (where it stands, what is kept). Then shorthand: \frac12, \sqrt[3]8 and
# \sqrt2 get braces.
DECORATION = (
    (re.compile(r"(.*?)(\$)(.*?)(\$)(.*)"), r"$\3$"),
    (re.compile(r"(\\text\{)(.*?)(\})"), r"\2"),
    (re.compile(r"(\\textbf\{)(.*?)(\})"), r"\2"),
    (re.compile(r"(\\overline\{)(.*?)(\})"), r"\2"),
    (re.compile(r"(\\boxed\{)(.*)(\})"), r"\2"),
    (re.compile(r"(frac)([^{])(.)"), r"frac{\2}{\3}"),
    (re.compile(r"(sqrt)(\[[^\]]*\])(\w)"), r"\1\2{\3}"),
    (re.compile(r"(sqrt)(?!\[)([^{])"), r"sqrt{\2}"),
)


def normal(answer: str) -> str:
    """What follows the last "=", without units, spaces, dollar signs, text and commas between
    thousands."""
    answer = answer.split("=")[-1]
    for unit in filter(str.isalpha, UNITS):  # while spaces still tell words apart
        answer = re.sub(rf"(?<!\\)\b{unit}\b", "", answer)
    for old, new in SUBSTITUTIONS:
        answer = answer.replace(old, new)
    for unit in UNITS:
        answer = _without(answer, unit)
    for pattern, kept in DECORATION:
        answer = pattern.sub(kept, answer)
    answer = answer.replace("$", "")
    return answer.replace(",", "") if THOUSANDS.fullmatch(answer) else answer


def _without(answer: str, unit: str) -> str:
    """Without this unit; a word is kept where it is part of a command: the "ft" of \\left."""
    if not unit.isalpha():
        return answer.replace(unit, "")
    parts = COMMAND.split(answer)
    return "".join(part if i % 2 else part.replace(unit, "") for i, part in enumerate(parts))
