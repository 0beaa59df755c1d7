r"""Answers in MATH solutions, and when two are the same: the rules of the harness's hendrycks_math.

An answer is taken out of the text ("We get $\boxed{\dfrac12}$." has \dfrac12) and brought to one
spelling (\frac{1}{2}); two answers are the same when their spellings are. No formula is worked out:
"0.50" is not "0.5". Rule by rule as lm-evaluation-harness has them, mistakes included.
"""

import re

INVALID = "[invalid]"
# Its dots are any character, as in the harness.
FINAL = re.compile(r"Final Answer: The final answer is(.*?). I hope it is correct.")
BOX = re.compile(r"\\(?:boxed|fbox)\{")
# Spellings of the same formula, replaced in this order. Line ends, thin negative spaces, sizes of
# brackets and degrees are removed.
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

# An answer from a text.


def boxed(text: str) -> str:
    r"""The content of the last \boxed{...}, or else of the last \fbox{...}, or "[invalid]".

    A text with "\boxed " and no brace has its answer up to the next dollar sign.
    """
    if r"\boxed " in text:
        return text.rpartition(r"\boxed ")[2].partition("$")[0]
    starts = (text.rfind(r"\boxed"), text.rfind(r"\fbox"))
    opening = next((BOX.match(text, start) for start in starts if start >= 0), None)
    if opening is None:
        return INVALID
    # Braces nest, so a regular expression cannot find the one that closes.
    depth = 1
    for i in range(opening.end(), len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[opening.end() : i]
    return INVALID


def between_dollars(text: str) -> str:
    """From the first dollar sign to the last; all of a text with fewer than two."""
    parts = text.split("$")
    return text if len(parts) < 3 else "$".join(parts[1:-1])


def sentence(text: str) -> str:
    """The content of the sentence that ends Minerva's solutions, or "[invalid]"."""
    # Appended, as generation may have ended before those words.
    match = FINAL.search(text + "I hope it is correct.")
    return match[1].strip() if match else INVALID


def final(text: str) -> str:
    """The answer in that sentence, or "[invalid]"."""
    return between_dollars(sentence(text)).strip()


# Two answers compared.


def equivalent(answer: str, gold: str) -> bool:
    """Equality of normalised strings, not of numbers.

    Where one of them cannot be normalised, the strings as written are compared.
    """
    try:
        return normal(answer) == normal(gold)
    except ValueError:
        return answer == gold


def normal(text: str) -> str:
    r"""One spelling of an answer: no units, spaces or per cent, \frac with braces for a/b.

    Raises ValueError where the harness gives up: for two units, a root or fraction without an
    argument, and any a/b that is not of integers.
    """
    for spelling, replacement in SPELLINGS:
        text = text.replace(spelling, replacement)
    text = _without_unit(text).replace(r"\%", "")
    # .5 -> 0.5, where a number can begin
    text = text.replace(" .", " 0.").replace("{.", "{0.")
    text = f"0{text}" if text.startswith(".") else text
    text = _without_name(text)
    text = _fractions(_roots(text).replace(" ", ""))
    return _slash(r"\frac{1}{2}" if text == "0.5" else text)


def _without_unit(text: str) -> str:
    r"""5\text{ cm} -> 5"""
    number, *units = text.split(r"\text{ ")
    if len(units) > 1:
        raise ValueError("two units")
    return number


def _without_name(text: str) -> str:
    """x = 5 -> 5, for names of one or two letters."""
    name, equals, value = text.partition("=")
    return value if equals and len(name) <= 2 and "=" not in value else text


def _roots(text: str) -> str:
    r"""\sqrt3 -> \sqrt{3}"""
    head, *tails = text.split(r"\sqrt")
    if "" in tails:
        raise ValueError("a root of nothing")
    return head + "".join(r"\sqrt" + (tail if tail[0] == "{" else _braced(tail)) for tail in tails)


def _fractions(text: str) -> str:
    r"""\frac12 and \frac1{2} -> \frac{1}{2}; a text that ends in \frac1 is left as it is."""
    result, *tails = text.split(r"\frac")
    for tail in tails:
        if not tail:
            raise ValueError("a fraction of nothing")
        if tail[0] != "{":
            if len(tail) == 1:
                return text
            denominator = tail[1:] if tail[1] == "{" else _braced(tail[1:])
            tail = f"{{{tail[0]}}}{denominator}"
        result += rf"\frac{tail}"
    return result


def _braced(text: str) -> str:
    """The first character in braces, then the others."""
    return f"{{{text[0]}}}{text[1:]}"


def _slash(text: str) -> str:
    r"""1/2 -> \frac{1}{2}; int() raises ValueError for what is no integer."""
    parts = text.split("/")
    if len(parts) != 2:
        return text
    numerator, denominator = map(int, parts)
    # "01/2" is not what its integers spell, and stays.
    if text != f"{numerator}/{denominator}":
        return text
    return rf"\frac{{{numerator}}}{{{denominator}}}"
