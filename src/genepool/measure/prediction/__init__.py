"""Prediction: what more training, a larger model or more samples would give, before they are paid for."""

from genepool.measure.prediction.learning_curve import CurveKind, LearningCurve, StopAdvice, learning_curve
from genepool.measure.prediction.metric_choice import MetricChoice, MetricCurve, metric_choice
from genepool.measure.prediction.pass_until import (
    PassRate,
    TaskScaling,
    pass_rate,
    pass_until,
    pass_until_task,
    task_scaling,
)

__all__ = [
    "CurveKind",
    "LearningCurve",
    "MetricChoice",
    "MetricCurve",
    "PassRate",
    "StopAdvice",
    "TaskScaling",
    "learning_curve",
    "metric_choice",
    "pass_rate",
    "pass_until",
    "pass_until_task",
    "task_scaling",
]
