"""`python -m benchmarks.mergekit [PYTHON]`: everything that can be written for mergekit, and how far ours differs.

PYTHON is that of an environment with mergekit. What mergekit takes and the largest differences go to measured.json
beside this file, and the tables that are made of them into docs/reference/mergekit.md. Without PYTHON nothing is
measured; the tables are written again, with the verdicts as they are now.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.mergekit import answers, evolve_files, mixtures, parameters
from benchmarks.mergekit.cases import CASES, Pair, TheirsFailed
from benchmarks.mergekit.page import PAGE, written
from benchmarks.mergekit.verdicts import missing

HERE = Path(__file__).parent
RECORD = HERE / "measured.json"


def main() -> None:
    """Measures if asked to, and writes the page."""
    if len(sys.argv) > 2:
        sys.exit("usage: python -m benchmarks.mergekit [PYTHON], that of an environment with mergekit")
    if len(sys.argv) == 2:
        RECORD.write_text(json.dumps(measured(Path(sys.argv[1])), indent=1) + "\n", encoding="utf-8")
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), record), encoding="utf-8")


def measured(python: Path) -> dict[str, Any]:
    """What mergekit takes, and the largest difference of every case.

    Args:
        python: of an environment with mergekit.
    """
    torch.set_num_threads(1)
    said = subprocess.run([python, HERE / "surface.py"], capture_output=True, text=True, check=True, env={})
    surface: dict[str, Any] = json.loads(said.stdout.splitlines()[-1])
    if lacking := missing(surface):
        sys.exit(f"no verdict for {', '.join(lacking)}")
    inputs = answers.golden_inputs()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ["GENEPOOL_CACHE"] = str(place / "cache")
        os.environ["HF_DATASETS_CACHE"] = str(place / "datasets")
        models = inputs.write_models(place / "models")
        recipes = {
            name: _two_digits(answers.recipe_difference(name, answer, models, place, inputs))
            for name, answer in answers.comparable()
        }
        genomes = {name: _two_digits(answers.genome_difference(name)) for name in answers.stored_genomes()}
        cases: dict[str, float | str] = {
            run: _two_digits(answers.transplant_difference(run, models, place / f"transplant {run}"))
            for run in answers.TRANSPLANTS
        }
        pair = Pair(python.parent, place, models)
        live = {"parameters": parameters.measure, "mixtures": mixtures.measure, "evolve": evolve_files.measure}
        found = {part: {name: _two_digits(one) for name, one in run(pair).items()} for part, run in live.items()}
        for name, case in CASES.items():
            try:
                value = case(pair)
            except TheirsFailed as failed:
                value = f"fails there: {failed}"
            cases[name] = value if isinstance(value, str) else _two_digits(value)
            print(name, cases[name], flush=True)
    return {**surface, "recipes": recipes, "genomes": genomes, **found, "cases": cases}


def _two_digits(value: float) -> float:
    # The rest differs between machines.
    return float(f"{value:.1e}")


if __name__ == "__main__":
    main()
