"""Saved folders of compositions that look at the input: how each is made, and the command that opens and asks it.

Plain data for `hostile_files`: the worlds they are made in are those of the tests of composition. Of every one the
fuzzer puts `composition.json` wrong, and `router.safetensors`, where something was learned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ComposedFolder:
    """One saved composition.

    Attributes:
        world: the part of the world that it is made in.
        skills: paths in it.
        options: further words of `genepool compose`.
        asked: the command that opens it; `{folder}` stands for it, and `{world}` for the good originals.
        learned: whether there are tensors.
    """

    world: str
    skills: tuple[str, ...]
    options: str
    asked: str
    learned: bool = True

    def line(self, method: str, out: str, above: str = "") -> str:
        """The command that makes it, in the folder of the world or, with `above`, elsewhere."""
        world = f"{above}{self.world}"
        skills = " ".join(f"{world}/{skill}" for skill in self.skills)
        return (
            f"compose {method} {skills} --base {world}/base --tasks {world}/tasks --examples 4 --out {out} "
            f"{self.options}"
        )


_TEXTS, _POLES, _DIGITS = "texts", "poles", "images"
_STEPS = "--set steps=2 --set every=1 --set batch=4"
_WRITE = "generate {folder} --prompt abcd= --max-new-tokens 2"
_ONE = "generate {folder}#one --prompt abcd= --max-new-tokens 2"
_PLAY = "evaluate {folder} --tasks {world}/poles/tasks --task first --limit 1 --ledger own.sqlite"
_PLAY_ONE = "evaluate {folder}#first --tasks {world}/poles/tasks --task first --limit 1 --ledger own.sqlite"
_SEE_ONE = "evaluate {folder}#first --tasks {world}/images/tasks --task first --limit 1 --ledger own.sqlite"
_LORA = ("lora/one", "lora/two")
_FULL, _POLICIES = ("full/first", "full/second"), ("lora/first", "lora/second")
_OF_TWO = "--task first --task second"

#: By the composer's name.
COMPOSED: dict[str, ComposedFolder] = {
    "arrow": ComposedFolder(_TEXTS, _LORA, "", _WRITE, learned=False),
    "lora_flow": ComposedFolder(_TEXTS, _LORA, _STEPS, _WRITE),
    "x_lora": ComposedFolder(_TEXTS, _LORA, _STEPS, _WRITE),
    "k_shot": ComposedFolder(_TEXTS, _LORA, _STEPS, _WRITE),
    "poly": ComposedFolder(_TEXTS, (), f"{_STEPS} --set modules=2", _ONE),
    "mhr": ComposedFolder(_TEXTS, (), f"{_STEPS} --set modules=2 --set heads=2", _ONE),
    "calm": ComposedFolder(_TEXTS, _LORA[:1], _STEPS, _WRITE),
    "x_cross": ComposedFolder(_TEXTS, _LORA, _STEPS, _WRITE),
    "lda_routing": ComposedFolder(_TEXTS, _LORA, "", _WRITE),
    "centroid_routing": ComposedFolder(_TEXTS, _LORA, "", _WRITE),
    "model_sat": ComposedFolder(_TEXTS, _LORA, "--set steps=2", _WRITE),
    "psec": ComposedFolder(_POLES, _POLICIES, f"{_STEPS} {_OF_TWO} --set hidden=4", _PLAY),
    "l2m": ComposedFolder(_POLES, _POLICIES, f"{_STEPS} {_OF_TWO}", _PLAY),
    "cotasp": ComposedFolder(_POLES, _POLICIES, f"{_STEPS} {_OF_TWO}", _PLAY_ONE),
    "task_expert": ComposedFolder(_DIGITS, _FULL, f"{_STEPS} {_OF_TWO} --set size=4", _SEE_ONE),
    "task_tokens": ComposedFolder(_DIGITS, _FULL[:1], f"{_STEPS} {_OF_TWO} --set hidden=4", _SEE_ONE),
}


def _texts(folder: Path) -> None:
    """A tiny Llama, two adapters of it, and tasks that are called like them."""
    from tests.composition import text_world

    text_world.build(folder / _TEXTS)


def _poles(folder: Path) -> None:
    """A base policy, two adapters of it, and episodes."""
    from tests.composition import policy_world

    policy_world.build(folder / _POLES)


def _images(folder: Path) -> None:
    """A digits base, fine-tunes of it, and images."""
    from tests.composition import compose_world

    compose_world.build(folder / _DIGITS)


#: The worlds that compositions are made in, by the part.
WORLDS_OF_COMPOSED: dict[str, Callable[[Path], None]] = {_TEXTS: _texts, _POLES: _poles, _DIGITS: _images}
