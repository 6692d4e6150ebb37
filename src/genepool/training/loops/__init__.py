"""Loops: trainings whose data the model writes itself between rounds, composed of stages by a short file.

A stage is one file of `stages/`, found by being there: it draws prompts, lets the model write, judges, chooses, pairs,
or trains. A loop file (`recipe`) names the stages of a round; `run` runs them, each once, so that a loop that was
killed goes on to the same bits. Uses the training room, tasks and weights.
"""

from __future__ import annotations

from genepool.training.loops.folder import read_loop_result
from genepool.training.loops.recipe import Loop, is_loop, load_loop
from genepool.training.loops.run import loop_gains_of, run_loop
from genepool.training.loops.stage import Done, Stage, StageOptions, StagePlace, find_stage

__all__ = [
    "Done",
    "Loop",
    "Stage",
    "StageOptions",
    "StagePlace",
    "find_stage",
    "is_loop",
    "load_loop",
    "loop_gains_of",
    "read_loop_result",
    "run_loop",
]
