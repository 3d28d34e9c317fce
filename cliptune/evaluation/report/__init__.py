"""`cliptune report`: what a fine-tuning run has changed, as one HTML file for people.

`comparison` measures both models on the same queries, `bootstrap` says how sure the figures are,
`suspects` looks for faults in the data, and `render` makes the page.
"""

from cliptune.evaluation.report.comparison import Comparison, compare
from cliptune.evaluation.report.render import About, render_report, write_report

__all__ = ["About", "Comparison", "compare", "render_report", "write_report"]
