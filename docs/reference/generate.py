"""Writes the reference pages that are made from the code: commands, files, merge methods, strategies.

Run `make docs`. A test compares the committed pages with what this writes, so they cannot fall behind. Each kind of
page is a file of `reference_pages/`.
"""

from __future__ import annotations

from pathlib import Path

from reference_pages import NOTE
from reference_pages.adapters import adapters_page
from reference_pages.commands import commands_page
from reference_pages.composers import composers_page
from reference_pages.file_pages import RECIPE_NOTES, STUDY_NOTES, models_page
from reference_pages.forms import forms_page
from reference_pages.methods import measures_page, methods_page, strategies_page
from reference_pages.python_modules import python_pages
from reference_pages.quantised import quantised_page
from reference_pages.samplers import samplers_page
from reference_pages.stream_adapters import stream_adapters_page
from reference_pages.streams import STREAM_INTRO, STREAM_NOTES
from reference_pages.training_notes import loop_notes, training_notes

from genepool.adaptation import StreamSettings
from genepool.composition import Composing
from genepool.evolution.study import Study
from genepool.measure.gates import Gates
from genepool.merging import Recipe
from genepool.tasks import TaskSettings
from genepool.tasks.generated import Template
from genepool.training import Training
from genepool.training.loops import Loop

HERE = Path(__file__).parent


def pages() -> dict[str, str]:
    """File name -> text of every generated page."""
    return {
        "recipe.md": models_page(
            "Recipe files",
            "`genepool merge` and `genepool plan` read a recipe. A file without the key `genepool: 1` is read as a "
            "recipe of mergekit; see [Coming from mergekit](mergekit.md).",
            Recipe,
            RECIPE_NOTES,
        ),
        "study.md": models_page(
            "Study files",
            "`genepool evolve` reads a study. Relative paths start at the file's folder.",
            Study,
            STUDY_NOTES,
        ),
        "task.md": models_page(
            "Task settings",
            "The optional `task.yaml` beside a task's `train.jsonl`, `valid.jsonl` and `test.jsonl`. A line of those: "
            '`{"id": ..., "prompt": ..., "answer": ...}`; `answer` may be a list of accepted answers; multiple choice '
            "adds `choices`. How tasks are written: [write-tasks.md](../how-to/write-tasks.md).",
            TaskSettings,
            "",
        ),
        "template.md": models_page(
            "Templates",
            "A `template.yaml` draws the examples of a task; see [Write tasks](../how-to/write-tasks.md).",
            Template,
            "",
        ),
        "gates.md": models_page(
            "Gates",
            "`genepool compare --gate`, `genepool train --gate` and `genepool adapt --gate` read a file of gates; see "
            "[Compare models](../how-to/compare-models.md#gates).",
            Gates,
            "",
        ),
        "training.md": models_page(
            "Training files",
            "`genepool train` reads a training file. Relative paths start at the file's folder; see "
            "[Train models](../how-to/train-models.md).",
            Training,
            training_notes(),
        ),
        "loops.md": models_page(
            "Loop files",
            "`genepool train` reads a loop file: trainings whose data the model writes itself between rounds. Relative "
            "paths start at the file's folder; see [Run loops](../how-to/loops.md).",
            Loop,
            loop_notes(),
        ),
        "compose.md": models_page(
            "Composition files",
            "`genepool compose` reads a composition file. Relative paths start at the file's folder; see "
            "[Compose skills](../how-to/compose-skills.md).",
            Composing,
            "",
        ),
        "composers.md": composers_page(),
        "stream-adapters.md": stream_adapters_page(),
        "stream.md": models_page("Streams", STREAM_INTRO, StreamSettings, STREAM_NOTES),
        "methods.md": methods_page(),
        "strategies.md": strategies_page(),
        "measures.md": measures_page(),
        "adapters.md": adapters_page(NOTE),
        "adapter-forms.md": forms_page(NOTE),
        "samplers.md": samplers_page(NOTE),
        "quantised.md": quantised_page(NOTE),
        "cli.md": commands_page(),
        **python_pages(NOTE),
    }


if __name__ == "__main__":
    for name, text in pages().items():
        (HERE / name).parent.mkdir(exist_ok=True)
        (HERE / name).write_text(text)
        print(f"wrote {HERE / name}")
