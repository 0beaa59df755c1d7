r"""Numbers in generated solutions, and when they are right: the rules of the harness's gsm8k.

text                            strict      flexible
"2 + 3 = 5\n#### 5"             5           5
"so it costs $1,250."           [invalid]   $1,250.
"""

import re

from lfl_jax.evals.metrics import Field, Metric, Record

INVALID = "[invalid]"
STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
# Two alternatives, as in the harness: at least two characters of amounts, or digits alone.
FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
# Deleted from answer and gold before they are compared, in this order: commas, dollar signs, all up
# to "#### ", a dot at the end.
IGNORED = (re.compile(","), re.compile(r"\$"), re.compile(r"(?s).*#### "), re.compile(r"\.$"))
STOP = ("Question:", "</s>", "<|im_end|>")


def strict(text: str, pattern: re.Pattern = STRICT) -> str:
    """The number after the first "#### ", or where another pattern has it, or "[invalid]"."""
    match = pattern.search(text)
    return match[1].strip() if match else INVALID


def flexible(text: str) -> str:
    """The last text that looks like a number, or "[invalid]"."""
    matches = FLEXIBLE.findall(text)
    if not matches:
        return INVALID
    amount, digits = matches[-1]
    return (amount or digits).strip()


def exact(answer: str, gold: str) -> bool:
    """Equality of strings after deletions and lower-casing, not of numbers: "18.0" is not "18".

    gold may be a whole solution that ends in "#### N".
    """
    return _normal(answer) == _normal(gold)


def grade(text: str, gold: str, pattern: re.Pattern = STRICT) -> Record:
    """The fields of a record: both extractions and whether each is right."""
    strict_answer, flexible_answer = strict(text, pattern), flexible(text)
    return {
        "text": text,
        "strict": strict_answer,
        "flexible": flexible_answer,
        "gold": _normal(gold),
        "exact_strict": float(exact(strict_answer, gold)),
        "exact_flexible": float(exact(flexible_answer, gold)),
    }


def format_metrics(answer: str = "strict", right: str = "exact_strict") -> tuple[Metric, ...]:
    """Format compliance, accuracy given valid format, and the bounds of the accuracy.

    answer: the field that is "[invalid]" where the text has no answer in the required format.
    right: the field that is 1 where the answer is right. The accuracy given valid format says
    nothing of the other answers: theirs would leave it between the bounds, which count all of them
    as wrong and all as right.
    """

    def valid(record: Record) -> float:
        return float(record[answer] != INVALID)

    def valid_and_right(record: Record) -> float:
        return record[right] * valid(record)

    def right_or_invalid(record: Record) -> float:
        return valid_and_right(record) + 1 - valid(record)

    compliance = Metric("format_compliance", valid, "format compliance", "format")
    given = Metric("accuracy_given_valid_format", valid_and_right, GIVEN, "format", weight=valid)
    return compliance, given, *bounds(valid_and_right, right_or_invalid)


GIVEN = "accuracy given valid format"


def bounds(missing_wrong: Field, missing_right: Field, weight: Field | None = None) -> list[Metric]:
    """The accuracy with every answer of no valid format counted as wrong, and as right.

    An unparsed answer is not known to be wrong, so the accuracy is only known to lie between.
    """
    # The lower bound mostly is the task's main metric, which the table has already.
    return [
        Metric(
            name="accuracy_missing_wrong",
            field=missing_wrong,
            label="missing counted wrong",
            section="format",
            weight=weight,
            in_table=False,
        ),
        Metric(
            name="accuracy_missing_right",
            field=missing_right,
            label="missing counted right",
            section="format",
            weight=weight,
        ),
    ]


def _normal(text: str) -> str:
    for pattern in IGNORED:
        text = pattern.sub("", text)
    return text.lower()
