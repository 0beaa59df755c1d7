"""Statistics of a study: effects with their errors, verdicts, frontiers, and what they rest on.

Pure functions on numpy arrays, for anybody's records: nothing here knows of models, runs or files.
Shapes: S seeds, P grid cells of an arm (learning rate x duration), I items, G clusters of items.
"""
