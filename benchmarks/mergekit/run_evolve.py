"""Has mergekit-evolve score one merge of each file, and prints what it asks lm-eval, and what it makes of the answer.

Run by the Python of mergekit's own environment; uses nothing of genepool. mergekit reads the file, draws its start,
merges it and adds up the scores; only lm-eval and Ray, which are not installed there, are stood in for: a call is
recorded and answered from a table. Argument: a JSON file, a list of objects with `file`, the path of the file;
`numbers`, what a random start is drawn of; and `table`, the score of each metric of each task. Prints a list of objects
with `asked`, `score` and `start`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
import yaml


def stand_in() -> MagicMock:
    """Puts something in the place of the libraries, and returns that of lm-eval."""
    ray, lm_eval = MagicMock(), MagicMock()
    # Decorates a class or a function, which then stay themselves.
    ray.remote = lambda *given, **_: given[0] if given else lambda decorated: decorated
    sys.modules |= {"ray": ray, "lm_eval": lm_eval}
    parts = ["ray.util", "ray.util.queue", "ray.util.scheduling_strategies", "lm_eval.api", "lm_eval.api.model"]
    parts += ["lm_eval.api.task", "lm_eval.models", "lm_eval.models.huggingface", "lm_eval.models.vllm_causallms"]
    for part in (*parts, "lm_eval.tasks"):
        sys.modules[part] = MagicMock()
    return lm_eval


def asked_of(lm_eval: MagicMock, case: dict[str, Any], storage: str) -> dict[str, Any]:
    """What mergekit does with one file."""
    from mergekit.evo.actors import OnDiskMergeEvaluator
    from mergekit.evo.config import EvolMergeConfiguration
    from mergekit.evo.genome import ModelGenome
    from mergekit.options import MergeOptions

    config = EvolMergeConfiguration.model_validate(yaml.safe_load(Path(case["file"]).read_text(encoding="utf-8")))
    genome = ModelGenome(config.genome)
    torch.rand = lambda *shape: torch.tensor(case["numbers"], dtype=torch.float64).reshape(shape)
    start = genome.initial_genotype(random=config.random_init).view(-1)
    lm_eval.simple_evaluate = MagicMock(return_value={"results": case["table"]})
    options = MergeOptions(quiet=True, write_model_card=False)
    score = OnDiskMergeEvaluator(config, genome, options, model_storage_path=storage).evaluate_genotype(start)["score"]
    asked = lm_eval.simple_evaluate.call_args.kwargs
    keys = ("tasks", "limit", "num_fewshot", "apply_chat_template", "fewshot_as_multiturn")
    return {"asked": {key: asked[key] for key in keys}, "score": score, "start": start.tolist()}


def main() -> None:
    lm_eval = stand_in()
    # Its evaluator calls this of every device, and a processor has none.
    torch.cpu.empty_cache = lambda: None
    with tempfile.TemporaryDirectory() as storage:
        found = [asked_of(lm_eval, case, storage) for case in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))]
    print()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
