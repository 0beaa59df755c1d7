"""Numbers taken out of generated solutions, and when they are right: GSM8K's rules in
lm-evaluation-harness."""

import re

from lfl_jax.evals.metrics import Metric, Record

INVALID = "[invalid]"
STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
# Deleted from answer and gold before they are compared, in this order: what precedes #### goes, a
# final dot goes.
IGNORED = (re.compile(","), re.compile(r"\$"), re.compile(r"(?s).*#### "), re.compile(r"\.$"))
STOP = ("Question:", "</s>", "<|im_end|>")


def strict(text: str, pattern: re.Pattern = STRICT) -> str:
    """The number after the first "#### ", or where another pattern finds it, or "[invalid]"."""
    found = pattern.search(text)
    return found[1].strip() if found else INVALID


def flexible(text: str) -> str:
    """The last thing that looks like a number, or "[invalid]"."""
    found = FLEXIBLE.findall(text)
    return (found[-1][0] or found[-1][1]).strip() if found else INVALID


def exact(answer: str, gold: str) -> bool:
    """Equality of strings after deletions and lower-casing, not of numbers: "18.0" is not "18".

    gold may be a whole solution that ends in "#### N".
    """
    return _normal(answer) == _normal(gold)


def grade(text: str, gold: str, pattern: re.Pattern = STRICT) -> dict:
    """The fields of a record: both extractions and whether each is right; `pattern` is that of the
    strict one."""
    strictly, flexibly = strict(text, pattern), flexible(text)
    return {
        "text": text,
        "strict": strictly,
        "flexible": flexibly,
        "gold": _normal(gold),
        "exact_strict": float(exact(strictly, gold)),
        "exact_flexible": float(exact(flexibly, gold)),
    }


def format_metrics(answer: str = "strict", right: str = "exact_strict") -> tuple[Metric, Metric]:
    """Format compliance and accuracy given valid format, of records whose `answer` is "[invalid]"
    where none was found in the format asked for. The accuracy is over the answers with a valid
    format, so it says nothing of the others."""

    def valid(record: Record) -> float:
        return float(record[answer] != INVALID)

    def valid_and_right(record: Record) -> float:
        return record[right] * valid(record)

    return (
        Metric("format_compliance", valid, "format compliance", "format"),
        Metric(
            "accuracy_given_valid_format",
            valid_and_right,
            "accuracy given valid format",
            "format",
            weight=valid,
        ),
    )


def _normal(text: str) -> str:
    for pattern in IGNORED:
        text = pattern.sub("", text)
    return text.lower()
