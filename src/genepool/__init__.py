"""genepool: merge, breed and measure fine-tuned models.

    import genepool as gp

    gp.load("model")                       any checkpoint, BASE+ADAPTER or BASE+SKILL, as lazy `Weights`
                                           (`allow_pickle=True` for PyTorch's .bin files)
    gp.merge(recipe)                       the merged model, lazily; with `out=` also as a folder
    gp.evaluate(models, tasks="tasks/")    one outcome per example, kept in the ledger
    gp.evolve(study, out="run")            a search over merge parameters that survives being killed
    gp.train(training, out="run")          a fine-tune, with what it gained and what it forgot; survives being killed

Everything heavy is imported when it is first used, so `import genepool` costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genepool.evolution import Study, StudyResult
    from genepool.merging import Recipe
    from genepool.tasks import OutcomeTable, Task
    from genepool.tasks.models import Named
    from genepool.testbed import build as build_testbed
    from genepool.training import Training, TrainingResult
    from genepool.weights import Weights
    from genepool.weights import open_weights as load

__all__ = ["Recipe", "Study", "Training", "build_testbed", "evaluate", "evolve", "load", "merge", "train"]

_ELSEWHERE = {
    "Recipe": ("genepool.merging", "Recipe"),
    "Study": ("genepool.evolution", "Study"),
    "Training": ("genepool.training", "Training"),
    "build_testbed": ("genepool.testbed", "build"),
    "load": ("genepool.weights", "open_weights"),
}


def merge(
    recipe: Recipe | str | Path, out: str | Path | None = None, *, allow_pickle: bool = False, **options: Any
) -> Weights:
    """Merges models.

    Args:
        recipe: a recipe, or the path of a recipe file (genepool's own or mergekit's).
        out: folder to write the result to. Without it nothing is written, and tensors are computed when they are read.
        allow_pickle: the recipe may name PyTorch's .bin and .pt files, which are loaded with `weights_only`.
        options: of `genepool.merging.run_plan` (overwrite, shard_bytes, threads, verify).

    Returns:
        The merged model as `Weights`: to be evaluated, merged again, or read tensor by tensor.
    """
    from genepool.merging import Recipe, load_recipe, plan_merge, run_plan
    from genepool.weights import open_weights

    plan = plan_merge(recipe if isinstance(recipe, Recipe) else load_recipe(recipe), allow_pickle=allow_pickle)
    return plan.weights() if out is None else open_weights(run_plan(plan, out, **options))


def evaluate(
    models: Sequence[Named],
    tasks: str | Path | Sequence[Task],
    ledger: str | Path | None = None,
    *,
    trusted: Sequence[str | Path] = (),
    **options: Any,
) -> OutcomeTable:
    """Asks models the examples of tasks; what the ledger knows is not asked again.

    Args:
        models: what to ask: names to open, weights, sources (`genepool.tasks.open_model`) or models in memory.
        tasks: tasks, or a folder or file of them.
        ledger: the ledger's file; `$GENEPOOL_LEDGER`, else `genepool.sqlite` here.
        trusted: files of tasks that may run code: Python files, and lm-eval's own task files.
        options: of `genepool.tasks.evaluate` (split, limit, batch_size, keep_outputs, names, device).
    """
    from genepool.tasks import Ledger, load_tasks
    from genepool.tasks import evaluate as ask

    with Ledger(ledger) as book:
        asked = load_tasks(tasks, trusted=trusted) if isinstance(tasks, str | Path) else tasks
        return ask(models, asked, ledger=book, **options)


def evolve(study: Study | str | Path, out: str | Path, **options: Any) -> StudyResult:
    """Runs a study, or goes on with one that was stopped.

    Args:
        study: a study, or the path of a study file.
        out: the study's folder.
        options: of `genepool.evolution.run_study` (evaluations, seed, workers, ledger, overwrite).
    """
    from genepool.evolution import run_study

    return run_study(study, out, **options)


def train(
    training: Training | str | Path,
    out: str | Path,
    *,
    ledger: str | Path | None = None,
    device: str = "cpu",
    fork: str | Path | None = None,
    trusted: Sequence[str | Path] = (),
    allow_pickle: bool = False,
    overwrite: bool = False,
) -> TrainingResult:
    """Fine-tunes a model, or goes on with a training that was stopped, and measures what it gained and forgot.

        recipe = gp.Training(base="base/", tasks=["tasks/reverse"], steps=100)
        gp.train(recipe, out="run").told["target"]

    Args:
        training: a training, or the path of a training file.
        out: its folder: `adapter/` or `skill.safetensors`, `train.json`, `report.html`, `run.sqlite`.
        ledger: where outcomes before and after are kept; `$GENEPOOL_LEDGER`, else `genepool.sqlite` here.
        device: torch's name of the device.
        fork: folder of another training of the same form: begin with what that one had learned.
        trusted: files of tasks that may run code: Python files, and lm-eval's own task files.
        allow_pickle: also open PyTorch's .bin and .pt files, through `torch.load(weights_only=True)`.
        overwrite: begin anew, removing what an earlier training left in `out`.

    Raises:
        genepool.errors.InputError: something the training names is wrong, it changed since it began, or its loss is
            no number any more.
    """
    from genepool import progress
    from genepool.report.training_page import write_training
    from genepool.training import load_training, run_training
    from genepool.training.folder import REPORT_FILE

    def draw(result: TrainingResult) -> None:
        assert result.gains is not None
        with progress.bar("drawing the page"):
            write_training(result.out, result.told, result.gains, result.out / REPORT_FILE)

    return run_training(
        load_training(Path(training)) if isinstance(training, str | Path) else training,
        out,
        ledger=ledger,
        device=device,
        fork=fork,
        trusted=trusted,
        allow_pickle=allow_pickle,
        overwrite=overwrite,
        draw=draw,
    )


def __getattr__(name: str) -> Any:
    if name in _ELSEWHERE:
        import importlib

        module, attribute = _ELSEWHERE[name]
        return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f"module 'genepool' has no attribute '{name}'")
