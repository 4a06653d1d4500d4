"""A module per experiment: its numbers, tables, figures and captions.

A module that `perser.analysis.report` asks in turn has applies(run), whether the run's records and manifest hold what
it shows; tables(run), captioned tables by name, the first to print; figures(run), (name, figure) pairs.
"""
