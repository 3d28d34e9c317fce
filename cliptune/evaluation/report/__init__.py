"""`cliptune report`: what a fine-tuning run has changed, as one HTML file for people.

`comparison` measures both models on the same queries, `data_issues` looks for faults in the data,
and `render` makes the page.
"""

from cliptune.evaluation.report.comparison import Comparison as Comparison
from cliptune.evaluation.report.comparison import compare as compare
from cliptune.evaluation.report.render import About as About
from cliptune.evaluation.report.render import render_report as render_report
from cliptune.evaluation.report.render import write_report as write_report
