"""How good a search is: top-k retrieval, metrics, and reports of before and after."""

from cliptune.evaluation.metrics import METRICS, UNBOUNDED_METRICS, retrieval_metrics
from cliptune.evaluation.retrieval import Evaluation, evaluate, evaluate_embeddings
from cliptune.evaluation.topk import top_k

__all__ = [
    "METRICS",
    "UNBOUNDED_METRICS",
    "Evaluation",
    "evaluate",
    "evaluate_embeddings",
    "retrieval_metrics",
    "top_k",
]
