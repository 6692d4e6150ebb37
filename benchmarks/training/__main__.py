"""`python -m benchmarks.training [--device cuda]`: the table beside TRL; on a GPU of a Qwen-shaped 0.5B in bfloat16."""

from __future__ import annotations

import argparse
import sys

from benchmarks.training.side_by_side import run
from benchmarks.training.world import SHAPES


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--device", default="cpu", help="torch's name of the device")
    parser.add_argument("--shape", choices=SHAPES, help="the model; small on a CPU, qwen elsewhere")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each side of each row")
    asked = parser.parse_args()
    if asked.device != "cpu":
        import torch

        if not torch.cuda.is_available():
            sys.exit(f"error: --device {asked.device}: no GPU is there. Leave it out")
    print(run(asked.shape or ("small" if asked.device == "cpu" else "qwen"), asked.device, asked.rounds))


if __name__ == "__main__":
    main()
