"""Evolving: a population over merge parameters, an unkillable run, and a winner judged on what was written.

study = load_study("study.yaml")             what is searched, on what, for how long
result = run_study(study, "run")             runs it, or goes on where it was stopped
result.genome, result.winner                 the best parameters, and the checkpoint they give
"""

from genepool.evolution.run import StudyResult, run_study
from genepool.evolution.strategies import Strategy, make_strategy, strategies
from genepool.evolution.study import Study
from genepool.evolution.study_file import load_study

__all__ = ["Strategy", "Study", "StudyResult", "load_study", "make_strategy", "run_study", "strategies"]
