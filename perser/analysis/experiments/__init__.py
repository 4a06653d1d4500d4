"""A module per experiment: its numbers, tables, figures and captions.

`perser.analysis.report` asks them in turn: applies(run), whether records and manifest hold what the module shows;
tables(run), captioned tables by name, the first to print; figures(run), pairs of name and figure.
"""

from perser.analysis.experiments import ablation, listeners, main, methods, readings, recipe, shots, steps, upstreams

__all__ = ["ablation", "listeners", "main", "methods", "readings", "recipe", "shots", "steps", "upstreams"]
