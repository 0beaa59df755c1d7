"""The lab: a small world whose facts and languages are known exactly, with a model for it.

A base learns the source world in a minute or two, so that what finetuning adds to it and takes from
it is counted rather than estimated. `world` has the facts, `language` the running text,
`vocabulary` the words of both, and `examples` what the sources lab_source, lab_ift and lab_cpt
train on.
"""
