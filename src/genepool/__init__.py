"""genepool: merge, breed, teach and measure fine-tuned models.

    import genepool as gp

    gp.load("model")                       any checkpoint, BASE+ADAPTER or BASE+SKILL, as lazy `Weights`
    gp.Skill.extract("tuned", base="base") what a fine-tune learned, to be added, scaled, stored and put on its base
    gp.Library("library")                  a folder that keeps skills, with their lineage and scores
    gp.merge(recipe)                       the merged model, lazily; with `out=` also as a folder
    gp.evaluate(models, tasks="tasks/")    one outcome per example, kept in the ledger
    gp.compare("old", "new", "tasks/")     what a new model gained and lost, task by task, with intervals
    gp.train(training, out="run")          a fine-tune, with what it gained and what it forgot; survives being killed
    gp.adapt(model, stream)                a model that adapts while it is used, batch by batch; beside it, unchanged
    gp.evolve(study, out="run")            a search over merges or models; survives being killed

Everything heavy is imported when it is first used, so `import genepool` costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genepool.adaptation import Adaptation, Stream
    from genepool.evolution import Study, StudyResult
    from genepool.measure import Comparison
    from genepool.merging import Recipe
    from genepool.skills import Skill
    from genepool.skills.library import Library
    from genepool.tasks import OutcomeTable, Task
    from genepool.tasks.models import Named
    from genepool.testbed import build as build_testbed
    from genepool.training import Training, TrainingResult
    from genepool.training.loops import Loop
    from genepool.weights import Weights
    from genepool.weights import open_weights as load

__all__ = [
    "Library",
    "Recipe",
    "Skill",
    "Stream",
    "Study",
    "Training",
    "adapt",
    "build_testbed",
    "compare",
    "evaluate",
    "evolve",
    "load",
    "merge",
    "train",
]

_ELSEWHERE = {
    "Library": ("genepool.skills.library", "Library"),
    "Recipe": ("genepool.merging", "Recipe"),
    "Skill": ("genepool.skills", "Skill"),
    "Stream": ("genepool.adaptation", "Stream"),
    "Study": ("genepool.evolution", "Study"),
    "Training": ("genepool.training", "Training"),
    "build_testbed": ("genepool.testbed", "build"),
    "load": ("genepool.weights", "open_weights"),
}


def merge(
    recipe: Recipe | str | Path,
    out: str | Path | None = None,
    *,
    overwrite: bool = False,
    shard_bytes: int = 5 * 10**9,
    threads: int | None = None,
    device: str = "cpu",
    verify: bool = False,
    allow_pickle: bool = False,
) -> Weights:
    """Merges models.

        recipe = gp.Recipe(method="linear", models=["bed/full/reverse", "bed/full/sort"])
        merged = gp.merge(recipe, out="merged")

    Args:
        recipe: a recipe, or the path of a recipe file (genepool's own or mergekit's).
        out: folder to write the result to. Without it nothing is written, and tensors are computed when they are read;
            only `allow_pickle` of what follows has a meaning then.
        overwrite: replace what is at `out`.
        shard_bytes: the largest size of a file of weights, in bytes; 5 GB, as transformers writes them.
        threads: the number of tensors to work on at once; the number of the processor's cores, at most 8, when None.
        device: torch's name of the device to compute on.
        verify: read the result back and compare the hash of every tensor with what was computed.
        allow_pickle: the recipe may name PyTorch's .bin and .pt files, which are loaded with `weights_only`.

    Returns:
        The merged model as `Weights`: to be evaluated, merged again, or read tensor by tensor.

    Raises:
        genepool.errors.InputError: the recipe or one of its models cannot be used, or `out` is occupied.
        genepool.errors.CheckFailed: `verify` found a difference.
    """
    from genepool.merging import Recipe, load_recipe, plan_merge, run_plan
    from genepool.weights import open_weights

    plan = plan_merge(recipe if isinstance(recipe, Recipe) else load_recipe(recipe), allow_pickle=allow_pickle)
    if out is None:
        return plan.weights()
    return open_weights(
        run_plan(plan, out, overwrite=overwrite, shard_bytes=shard_bytes, threads=threads, device=device, verify=verify)
    )


def evaluate(
    models: Sequence[Named],
    tasks: str | Path | Sequence[Task],
    ledger: str | Path | None = None,
    *,
    split: str = "test",
    limit: int | None = None,
    seed: int | None = None,
    threads: int | None = None,
    batch_size: int = 128,
    keep_outputs: bool = True,
    names: Sequence[str] | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    trusted: Sequence[str | Path] = (),
    allow_pickle: bool = False,
) -> OutcomeTable:
    """Asks models the examples of tasks; what the ledger knows is not asked again.

        table = gp.evaluate(["bed/base", "bed/full/sort"], tasks="bed/tasks", limit=50)
        print(table.mean("bed/full/sort", "sort"))

    Args:
        models: what to ask: names to open, weights, sources (`genepool.tasks.open_model`) or models in memory.
        tasks: tasks, or a folder or file of them.
        ledger: the ledger's file; `$GENEPOOL_LEDGER`, else `genepool.sqlite` here.
        split: which examples: "train", "valid" or "test".
        limit: the number of examples to ask of each task; all when None.
        seed: replaces the seed of tasks that draw tokens.
        threads: torch's threads while computing; as they are when None.
        batch_size: the number of examples to ask at once.
        keep_outputs: also keep what models write where a score can be computed without writing.
        names: what to call the models in the table; their own names when None.
        device: torch's name of the device, for models that are not in memory yet.
        dtype: what the models compute in: "float32", "bfloat16", "float16" or "float64".
        trusted: files of tasks that may run code: Python files, and lm-eval's own task files.
        allow_pickle: also open PyTorch's .bin and .pt files, through `torch.load(weights_only=True)`.

    Returns:
        The outcome of every model on every example.

    Raises:
        genepool.errors.InputError: a model or a task cannot be used, or a model cannot be asked a task.
    """
    from genepool.tasks import Ledger, load_tasks
    from genepool.tasks import evaluate as ask

    with Ledger(ledger) as book:
        asked = load_tasks(tasks, trusted=trusted) if isinstance(tasks, str | Path) else tasks
        return ask(
            models, asked, split=split, ledger=book, limit=limit, seed=seed, threads=threads, batch_size=batch_size,
            keep_outputs=keep_outputs, names=names, device=device, dtype=dtype, allow_pickle=allow_pickle,
        )  # fmt: skip


def compare(
    old: Named,
    new: Named,
    tasks: str | Path | Sequence[Task],
    ledger: str | Path | None = None,
    *,
    split: str = "test",
    limit: int | None = None,
    batch_size: int = 128,
    device: str = "cpu",
    dtype: str = "float32",
    trusted: Sequence[str | Path] = (),
    allow_pickle: bool = False,
    seed: int = 0,
) -> Comparison:
    """What a new model gained and lost against an old one: paired differences, exact p-values, flips.

        found = gp.compare("bed/base", "bed/full/sort", tasks="bed/tasks", limit=50)
        print(found.difference, found.matrix.gained, found.matrix.lost)

    Args:
        old: the model in use; what `evaluate` takes.
        new: the model that may replace it.
        tasks: tasks, or a folder or file of them.
        ledger: the ledger's file; `$GENEPOOL_LEDGER`, else `genepool.sqlite` here.
        split: which examples: "train", "valid" or "test".
        limit: the number of examples to ask of each task; all when None.
        batch_size: the number of examples to ask at once.
        device: torch's name of the device.
        dtype: what the models compute in: "float32", "bfloat16", "float16" or "float64".
        trusted: files of tasks that may run code: Python files, and lm-eval's own task files.
        allow_pickle: also open PyTorch's .bin and .pt files, through `torch.load(weights_only=True)`.
        seed: of the bootstrap of the intervals.

    Returns:
        The comparison, task by task and over all of them. `genepool.measure.check_gates` holds it to gates.

    Raises:
        genepool.errors.InputError: a model or a task cannot be used, or a model cannot be asked a task.
    """
    from genepool import measure

    table = evaluate(
        [old, new], tasks, ledger, split=split, limit=limit, batch_size=batch_size, device=device, dtype=dtype,
        trusted=trusted, allow_pickle=allow_pickle,
    )  # fmt: skip
    before, after = table.models
    return measure.compare(before, after, table.pairs(before, after), seed=seed)


def evolve(
    study: Study | str | Path,
    out: str | Path,
    *,
    evaluations: int | None = None,
    seed: int | None = None,
    workers: int | str = 1,
    ledger: str | Path | None = None,
    overwrite: bool = False,
    fork: str | Path | None = None,
    device: str = "cpu",
    trusted: Sequence[str | Path] = (),
    allow_pickle: bool = False,
) -> StudyResult:
    """Runs a study, or goes on with one that was stopped, killed, or given a larger budget.

        search = {"weight": {"low": 0.0, "high": 1.2, "start": 0.5}}
        vary = {"kind": "merge_parameters", "method": "task_arithmetic", "search": search}
        models = ["bed/full/reverse", "bed/full/sort"]
        study = gp.Study(base="bed/base", skills=models, vary=vary, tasks="bed/tasks", budget={"evaluations": 8})
        print(gp.evolve(study, out="run").genome)

    Args:
        study: a study, or the path of a study file.
        out: the study's folder; one that holds this study already is gone on with.
        evaluations: replaces the study's budget of evaluations.
        seed: replaces the study's seed.
        workers: the number of processes that evaluate; or "ray", "ray:N" or "ray://host:port" for actors on Ray.
        ledger: where outcomes are kept; `$GENEPOOL_LEDGER`, else `genepool.sqlite` here.
        overwrite: start anew, removing what an earlier study left in `out`. Outcomes stay in the ledger.
        fork: folder of an earlier run of this study before it was changed: begin where that one got to.
        device: torch's name of the device that candidates are evaluated on.
        trusted: files of tasks that may run code: Python files, and lm-eval's own task files.
        allow_pickle: also open PyTorch's .bin and .pt files, through `torch.load(weights_only=True)`.

    Returns:
        The best candidate, its scores and where it was written.

    Raises:
        genepool.errors.InputError: something the study names is wrong, the study changed, or too many candidates
            failed.
        KeyboardInterrupt: Ctrl-C; the same call goes on.
    """
    from genepool.evolution import run_study
    from genepool.evolution.permissions import Permissions

    trust = Permissions(allow_pickle, tuple(trusted))
    return run_study(
        study, out, evaluations=evaluations, seed=seed, workers=workers, ledger=ledger, overwrite=overwrite, fork=fork,
        device=device, trust=trust,
    )  # fmt: skip


def train(
    training: Training | Loop | str | Path,
    out: str | Path,
    *,
    ledger: str | Path | None = None,
    device: str = "cpu",
    fork: str | Path | None = None,
    trusted: Sequence[str | Path] = (),
    allow_pickle: bool = False,
    overwrite: bool = False,
    gate: str | Path | None = None,
) -> TrainingResult:
    """Fine-tunes a model, or goes on with a training that was stopped, and measures what it gained and forgot.

        recipe = gp.Training(base="bed/base", tasks=["bed/tasks/reverse"], steps=20)
        print(gp.train(recipe, out="trained").told["target"])

    Args:
        training: a training or a loop of trainings, or the path of a file of one.
        out: its folder: `adapter/` or `skill.safetensors`, `train.json`, `report.html`, `run.sqlite`.
        ledger: where outcomes before and after are kept; `$GENEPOOL_LEDGER`, else `genepool.sqlite` here.
        device: torch's name of the device.
        fork: folder of another training of the same form: begin with what that one had learned. For a loop, of any
            training or loop.
        trusted: files of tasks that may run code: Python files, and lm-eval's own task files.
        allow_pickle: also open PyTorch's .bin and .pt files, through `torch.load(weights_only=True)`.
        overwrite: begin anew, replacing the folder `out` with everything in it.
        gate: file of gates that the result will be held against; they are only checked to be on what is asked.

    Raises:
        genepool.errors.InputError: something the training names is wrong, it changed since it began, or its loss is
            no number any more.
    """
    from genepool import progress
    from genepool.composition.learned_pool import write_learned_pool
    from genepool.report.loop_page import write_loop
    from genepool.report.sequence_page import write_sequence
    from genepool.report.training_page import write_training
    from genepool.training import load_training, run_training
    from genepool.training.folder import REPORT_FILE
    from genepool.training.loops import Loop, is_loop, load_loop, run_loop

    if isinstance(training, str | Path):
        path = Path(training)
        training = load_loop(path) if is_loop(path) else load_training(path)

    def draw(result: TrainingResult) -> None:
        assert result.gains is not None
        with progress.bar("drawing the page"):
            if isinstance(training, Loop):
                write = write_loop
            else:
                write = write_training if training.learner is None else write_sequence
            write(result.out, result.told, result.gains, result.out / REPORT_FILE)

    shared: dict[str, Any] = {
        "ledger": ledger,
        "device": device,
        "fork": fork,
        "trusted": trusted,
        "allow_pickle": allow_pickle,
        "overwrite": overwrite,
        "gate": gate,
        "draw": draw,
    }
    if isinstance(training, Loop):
        return run_loop(training, out, **shared)
    return run_training(training, out, write_pool=write_learned_pool, **shared)


def adapt(
    model: Named,
    stream: Stream | str | Path,
    adapter: str = "tent",
    *,
    options: Mapping[str, Any] | None = None,
    order: str | None = None,
    rounds: int | None = None,
    labels_late: int | None = None,
    window: int | None = None,
    on_collapse: str = "continue",
    seed: int = 0,
    state: str | Path | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    threads: int | None = None,
    allow_pickle: bool = False,
) -> Adaptation:
    """Adapts a model along a stream: an iterator over batches as they are issued, for a loop of one's own.

        run = gp.adapt("bed/base", "bed/streams/mixed", adapter="diversity", rounds=1)
        for step in run:
            print(step.number, step.predicted[:3], step.frozen[:3])
        run.save("state")

    The model learns from a batch when the next one is asked for, or when `run.update()` is called. `genepool adapt`
    records all of it, and says whether adapting was better than doing nothing.

    Args:
        model: what to adapt: a name to open, weights, a source, or a model in memory, which is changed in place.
        stream: the folder of a stream, or a `gp.Stream`; `gp.Stream.of(inputs)` makes one of what is in memory.
        adapter: the name of the adapter.
        options: of the adapter; its defaults when None.
        order: in which the examples come: "file", "shuffled", "correlated", "gradual", "reset" or "mixed"; the
            stream's own when None.
        rounds: how often the stream is gone through; as the stream says when None.
        labels_late: labels of a batch are given to the adapter so many batches later; never when None.
        window: where a batch is one example, learn from so many of the last ones together; alone when None.
        on_collapse: what to do when the watch raises an alarm: "stop", "reset" or "continue".
        seed: of every draw.
        state: folder that `save` wrote: go on from there.
        device: torch's name of the device.
        dtype: what the model computes in.
        threads: torch's; decided by the size of the model when None.
        allow_pickle: also open PyTorch's .bin and .pt files, through `torch.load(weights_only=True)`.

    Returns:
        The iterator; its `save`, `restore` and `skill` say what is to be kept.

    Raises:
        genepool.errors.InputError: the model is of another kind, the stream does not suit it, the adapter needs what is
            not there, or the state is of another run.
    """
    from genepool.adaptation import Adaptation

    run = Adaptation(
        model, stream, adapter, options=options, order=order, rounds=rounds, labels_late=labels_late,
        window=window,
        on_collapse=on_collapse, seed=seed, device=device, dtype=dtype, threads=threads, allow_pickle=allow_pickle,
    )  # fmt: skip
    return run if state is None else run.restore(state)


def __getattr__(name: str) -> Any:
    if name in _ELSEWHERE:
        import importlib

        module, attribute = _ELSEWHERE[name]
        return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f"module 'genepool' has no attribute '{name}'")
