"""A folder for every operation: a plain reference, with faster implementations beside it.

Which one runs is chosen by a measurement.
"""
