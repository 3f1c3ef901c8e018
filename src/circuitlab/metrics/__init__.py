"""Metrics: one value per pair, from the logits at the answer position, or one per prompt, from generated text.

Examples
--------
>>> import circuitlab as cl
>>> sorted(cl.metrics.METRICS)
['answer_logit', 'kl', 'log_prob', 'logit_diff', 'prob_diff']
"""

from circuitlab.metrics.generated import contains, exact_match
from circuitlab.metrics.logits import (
    METRICS,
    AnswerLogit,
    KLDivergence,
    LogitDiff,
    LogProb,
    Metric,
    ProbDiff,
    correct,
    get_metric,
    metric_params,
)

__all__ = [
    "METRICS",
    "AnswerLogit",
    "KLDivergence",
    "LogProb",
    "LogitDiff",
    "Metric",
    "ProbDiff",
    "contains",
    "correct",
    "exact_match",
    "get_metric",
    "metric_params",
]
