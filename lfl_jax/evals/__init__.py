"""Evaluations, defined as in lm-evaluation-harness and scored from log-probabilities or texts.

The way of a question:

    task.py         a task makes items of documents: text with an id (`Inputs`, `Task`, its method)
    requests.py     an item's texts as token ids
    batching.py     requests that begin alike share a row; rows are batches of one shape
    scorer.py       a batch on the devices: nll and argmax of every token, or generated texts
    methods.py      Likelihood, Diverge, ..., Execute: from items over batches to their records
    records.py      records in a file, from which an interrupted evaluation resumes
    metrics.py      a task's metrics over its records, with stats.py (errors, paired differences)
                    and intervals.py
    run.py          all of this for one task: `Evaluation(...).run(folder)` gives a `Result`
    suite.py        the evaluations that a config names; inputs.py: what they read

The folders:

    tasks/          a file for each task; `TASKS` lists them; multiple_choice.py (here) is a form
    grading/        numbers, formulas and code in generated answers; pass@k
    sandbox/        runs generated programs, isolated from the machine
    harness/        any task of lm-evaluation-harness itself, on our models
"""
