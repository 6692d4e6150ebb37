"""Tasks, outcomes and the ledger: how good a model is at a task, one answer per example, kept for ever."""

from genepool.tasks.callables import callable_task
from genepool.tasks.decoding import DEFAULT_BATCH, Decoding
from genepool.tasks.evaluate import evaluate, unique_names
from genepool.tasks.example import Example
from genepool.tasks.files import load_tasks
from genepool.tasks.generated import generated_task
from genepool.tasks.harness_tasks import lm_eval_tasks
from genepool.tasks.ledger import Ledger, Outcome
from genepool.tasks.models import Model, Source, open_model
from genepool.tasks.models.causal_lm import LanguageModel
from genepool.tasks.pairs import Pairs
from genepool.tasks.table import OutcomeTable
from genepool.tasks.task import Task, TaskSettings

__all__ = [
    "DEFAULT_BATCH",
    "Decoding",
    "Example",
    "LanguageModel",
    "Ledger",
    "Model",
    "Outcome",
    "OutcomeTable",
    "Pairs",
    "Source",
    "Task",
    "TaskSettings",
    "callable_task",
    "evaluate",
    "generated_task",
    "lm_eval_tasks",
    "load_tasks",
    "open_model",
    "unique_names",
]
