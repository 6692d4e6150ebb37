"""`python -m benchmarks.adapters`: the largest difference between genepool and PEFT for every kind of adapter.

Each adapter is merged by the command a user types and by PEFT's `merge_and_unload`, both in float32. The figures go to
largest_differences.json beside this file, which docs/reference/adapters.md is made with.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import torch
import yaml

from benchmarks.adapters.cases import BASES, CASES, Case, build_adapter, build_base
from genepool.cli.main import run
from genepool.weights import naming, open_weights

OUT = Path(__file__).parent / "largest_differences.json"


def largest_difference(case: Case, base: Path, folder: Path) -> float:
    """The largest absolute difference of any entry of any tensor of the two merged models."""
    adapter, out, recipe = folder / "adapter", folder / "out", folder / "recipe.yaml"
    expected = build_adapter(case, base, adapter)
    recipe.write_text(yaml.safe_dump({"genepool": 1, "method": "linear", "models": [f"{base}+{adapter}"]}))
    if run(["merge", str(recipe), str(out), "--quiet"]):
        raise RuntimeError(f"{case.name}: genepool refused it")
    merged = naming.in_memory_layout(open_weights(out))
    return max(float((merged.read(name) - expected[name]).abs().max()) for name in merged.names())


def main() -> None:
    """Measures every case and writes the figures."""
    torch.set_num_threads(1)
    wanted = sys.argv[1:]
    worst: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as place:
        os.environ["GENEPOOL_CACHE"] = str(Path(place) / "cache")
        bases = {name: build_base(name, Path(place)) for name in BASES}
        for number, case in enumerate(CASES):
            if wanted and case.kind not in wanted:
                continue
            folder = Path(place) / str(number)
            folder.mkdir()
            found = largest_difference(case, bases[case.base], folder)
            worst[case.kind] = max(worst.get(case.kind, 0.0), found)
            print(f"{found:.1e}  {case.name}", flush=True)
    if not wanted:
        # Two digits: the rest differs between machines.
        figures = {kind: float(f"{value:.1e}") for kind, value in sorted(worst.items())}
        OUT.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
