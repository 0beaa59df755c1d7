"""From an answer to right or wrong: numbers, formulas, programs."""
