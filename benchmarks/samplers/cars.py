"""A car in a valley that two hands drive: what each shows, a network that learns from it, and how well that drives."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from genepool.seeding import derive, numpy_generator, torch_generator
from genepool.tasks import open_model
from genepool.tasks.environments import Episode, environments
from genepool.tasks.playing import Played, play

#: Episodes that each hand shows, and by which a network is asked; steps of an episode.
SHOWN, ASKED, STEPS = 6, 20, 200
# The network that learns: its hidden layers, and what position and speed are divided by.
_HIDDEN, _LAYERS, _SCALES = 32, 2, (1.2, 0.07)
# One hand pushes where the car goes; the other one to the right, unless the car goes to the left fast.
_FAST = 0.01
#: What each hand does: observations, (rows, position and speed) -> acts: 0 pushes to the left, 2 to the right.
HANDS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "mine": lambda seen: np.where(seen[:, 1] >= 0, 2, 0),
    "theirs": lambda seen: np.where(seen[:, 1] > -_FAST, 2, 0),
}


def _played(act: Callable[[np.ndarray], np.ndarray], seed: int, name: str, count: int) -> list[Played]:
    config = (("force", 0.001), ("gravity", 0.0025), ("steps", float(STEPS)))
    episodes = [Episode("mountain_car", config, derive(seed, "cars", name, one) % 2**32) for one in range(count)]
    return play(act, episodes, count, keep=True)


def written(folder: Path, seed: int) -> list[Path]:
    """What both hands show as tasks, each line a step, in the order of `HANDS`; and the network as `folder/base`."""
    from safetensors.torch import save_file

    from genepool.tasks.models.policy.network import PolicyNetwork, PolicyShape

    found = []
    for name, act in HANDS.items():
        lines = [
            json.dumps({"prompt": " ".join(f"{number:.6f}" for number in seen.tolist()), "answer": str(done)})
            for one in _played(act, seed, name, SHOWN)
            for seen, done in zip(one.seen, one.done, strict=True)
        ]
        order = numpy_generator(seed, "cars", "order", name).permutation(len(lines)).tolist()
        place = folder / name
        place.mkdir(parents=True)
        # The last tenth is looked at and chooses nothing.
        cut = len(lines) * 9 // 10
        for split, part in (("train", order[:cut]), ("test", order[cut:])):
            (place / f"{split}.jsonl").write_text("".join(f"{lines[at]}\n" for at in part))
        (place / "task.yaml").write_text("metric: exact_match\nmax_new_tokens: 1\n")
        found.append(place)
    shape = PolicyShape(environments()["mountain_car"].spaces, _HIDDEN, _LAYERS, _SCALES)
    tensors = PolicyNetwork(shape).state_dict()
    for name, tensor in tensors.items():
        bound = tensor.shape[-1] ** -0.5 if tensor.dim() > 1 else 0.0
        tensor.uniform_(-bound, bound, generator=torch_generator(seed, "cars", name))
    (folder / "base").mkdir()
    save_file(tensors, folder / "base" / "model.safetensors", {"format": "pt"})
    (folder / "base" / "config.json").write_text(json.dumps(shape.config()))
    return found


def driven(model: str, seed: int) -> float:
    """The part of the steps that a trained network did not need, the mean over the episodes: 0 where it stays below."""
    network = open_model(model).load()
    found = _played(network.act, seed, "asked", ASKED)  # type: ignore[attr-defined]
    return 1 - sum(one.steps for one in found) / (STEPS * ASKED)
