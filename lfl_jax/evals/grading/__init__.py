"""How an answer becomes right or wrong: numbers, formulas, programs."""
