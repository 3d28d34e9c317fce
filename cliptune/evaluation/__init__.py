"""How good a search is: top-k retrieval, metrics, and reports of before and after."""

from cliptune.evaluation.metrics import METRICS as METRICS
from cliptune.evaluation.metrics import UNBOUNDED_METRICS as UNBOUNDED_METRICS
from cliptune.evaluation.metrics import retrieval_metrics as retrieval_metrics
from cliptune.evaluation.retrieval import Evaluation as Evaluation
from cliptune.evaluation.retrieval import evaluate as evaluate
from cliptune.evaluation.retrieval import evaluate_embeddings as evaluate_embeddings
from cliptune.evaluation.topk import top_k as top_k
