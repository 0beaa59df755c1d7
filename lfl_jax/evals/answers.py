"""Numbers taken out of generated solutions, and when they are right: GSM8K's rules in lm-evaluation-harness."""

import re
from collections.abc import Sequence

INVALID = "[invalid]"
STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
# Deleted from answer and gold before they are compared, in this order: what precedes #### goes, a final dot goes.
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
    """The fields of a record: both extractions and whether each is right; `pattern` is that of the strict one."""
    strictly, flexibly = strict(text, pattern), flexible(text)
    return {
        "text": text,
        "strict": strictly,
        "flexible": flexibly,
        "gold": _normal(gold),
        "exact_strict": float(exact(strictly, gold)),
        "exact_flexible": float(exact(flexibly, gold)),
    }


def formatted(records: Sequence[dict], answer: str = "strict", right: str = "exact_strict") -> dict[str, float]:
    """`split` of generated answers, those in the form asked for being the ones where `answer` was found."""
    return split(len(records), [record[right] for record in records if record[answer] != INVALID])


def split(count: int, right: Sequence[float | bool]) -> dict[str, float]:
    """Learning apart into form and content: the fraction of `count` answers in the form asked for, and how many of
    those are `right` (left out where there are none)."""
    found = {"formatted": len(right) / count} if count else {}
    return found | ({"right_given_format": sum(right) / len(right)} if right else {})


def _normal(text: str) -> str:
    for pattern in IGNORED:
        text = pattern.sub("", text)
    return text.lower()
