"""What a model can do: evaluations defined as in lm-evaluation-harness, scored from
log-probabilities or texts.

base.py      the three kinds of task, their inputs, and the model as they see it (two functions)
tasks.py     every task by name;  one file each: hellaswag arc_challenge winogrande gauntlet gsm8k humaneval mmlu ...
forgetting.py  the mean of three, what changed sides, what has no headroom
sandbox.py   runs generated programs, isolated;  code_text.py: code out of texts;  pass_at_k.py: estimates, diversity
requests.py  text to token ids;  plan.py: shared contexts and packing;  answers.py: numbers out of
solutions records.py   per-example files that can be resumed;  run.py: evaluate();  stats.py: errors and differences
"""
