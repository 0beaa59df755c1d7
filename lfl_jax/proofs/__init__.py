"""What a run relies on, proved on a config at reduced size: what `python -m lfl_jax.doctor` checks.

A check is a function of a `reduced.ReducedRun` that returns a `finding.Finding`; `checks.CHECKS`
names all of them. Tests of the package call what checks compute with: laws, meshes, rounding.
"""
