"""Answers taken out of MATH solutions, and when two are the same: lm-evaluation-harness's rules for
hendrycks_math."""

import re

INVALID = "[invalid]"
# its dots are any character
FINAL = re.compile(r"Final Answer: The final answer is(.*?). I hope it is correct.")
BOX = re.compile(r"\\(?:boxed|fbox)\{")
# Spellings of one thing, replaced in this order; ends of lines, thin negative spaces, sizes and
# degrees go.
SPELLINGS = (
    ("\n", ""),
    (r"\!", ""),
    ("\\\\", "\\"),
    ("tfrac", "frac"),
    ("dfrac", "frac"),
    (r"\left", ""),
    (r"\right", ""),
    (r"^{\circ}", ""),
    (r"^\circ", ""),
    (r"\$", ""),
)


def boxed(text: str) -> str:
    """What the last \boxed{...} (or "\boxed ...", up to a dollar sign; else \fbox) holds, or
    "[invalid]"."""
    if "\\boxed " in text:
        return text.rpartition("\\boxed ")[2].partition("$")[0]
    starts = (text.rfind(r"\boxed"), text.rfind(r"\fbox"))
    opened = next((BOX.match(text, start) for start in starts if start >= 0), None)
    if opened is None:
        return INVALID
    depth = 1
    for i in range(opened.end(), len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[opened.end() : i]
    return INVALID


def between_dollars(text: str) -> str:
    """From the first dollar sign to the last; a text with fewer than two as a whole (the harness's
    hendrycks_math)."""
    parts = text.split("$")
    return text if len(parts) < 3 else "$".join(parts[1:-1])


def sentence(text: str) -> str:
    """What the sentence that ends Minerva's solutions says, or "[invalid]"."""
    found = FINAL.search(text + "I hope it is correct.")
    return found[1].strip() if found else INVALID


def final(text: str) -> str:
    """The answer in that sentence, or "[invalid]"."""
    return between_dollars(sentence(text)).strip()


def equivalent(answer: str, gold: str) -> bool:
    """Equality of normalised strings, not of numbers; of the strings as written where one cannot be
    normalised."""
    try:
        return normal(answer) == normal(gold)
    except ValueError:
        return answer == gold


def normal(text: str) -> str:
    """One spelling of an answer: no units, spaces or signs of per cent, braces around arguments,
    \frac for a/b.

    Raises ValueError for what the harness gives up on: two units, a root or fraction of nothing,
    and any a/b that is not of integers.
    """
    for old, new in SPELLINGS:
        text = text.replace(old, new)
    text = _without_unit(text).replace(r"\%", "").replace(" .", " 0.").replace("{.", "{0.")
    text = f"0{text}" if text.startswith(".") else text
    name, equals, value = text.partition("=")
    text = value if equals and len(name) <= 2 and "=" not in value else text
    text = _fractions(_roots(text).replace(" ", ""))
    return _slash(r"\frac{1}{2}" if text == "0.5" else text)


def _without_unit(text: str) -> str:
    before, *units = text.split(r"\text{ ")
    if len(units) > 1:
        raise ValueError("two units")
    return before


def _roots(text: str) -> str:
    head, *tails = text.split(r"\sqrt")
    if "" in tails:
        raise ValueError("a root of nothing")
    return head + "".join(r"\sqrt" + (tail if tail[0] == "{" else _braced(tail)) for tail in tails)


def _fractions(text: str) -> str:
    """\frac12 and \frac1{2} with braces around both; a text that ends in \frac and one sign is left
    as it is."""
    made, *tails = text.split(r"\frac")
    for tail in tails:
        if not tail:
            raise ValueError("a fraction of nothing")
        if tail[0] != "{" and len(tail) == 1:
            return text
        if tail[0] != "{":
            tail = f"{{{tail[0]}}}" + (tail[1:] if tail[1] == "{" else _braced(tail[1:]))
        made += rf"\frac{tail}"
    return made


def _braced(text: str) -> str:
    return f"{{{text[0]}}}{text[1:]}"


def _slash(text: str) -> str:
    """a/b as a fraction; int() refuses what is not of integers."""
    parts = text.split("/")
    if len(parts) != 2:
        return text
    a, b = map(int, parts)
    return rf"\frac{{{a}}}{{{b}}}" if text == f"{a}/{b}" else text
