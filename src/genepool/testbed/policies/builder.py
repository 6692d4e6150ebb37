"""Making the testbed of policies: a base that knows one world, and for each other task a fine-tune and an adapter.

`genepool.testbed.build(folder, bed="policies")` publishes what is made here: poles, or landers where these are named.
Wires `worlds`, and `evolving` and `cloning`, which are imported only once something has to be evolved.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from genepool import progress
from genepool.seeding import derive, torch_generator
from genepool.staging import staged_folder
from genepool.tasks.environments import Episode, environments, episode_of
from genepool.testbed import folder as layout
from genepool.testbed.data import SPLITS, Split
from genepool.testbed.pieces import Pieces
from genepool.testbed.policies.worlds import (
    COUNTS,
    DEFAULT_WORLDS,
    LANDERS,
    TINY_COUNTS,
    WORLDS,
    PolicyFamily,
    PolicyWorld,
    choose,
)
from genepool.testbed.settings import BedSettings
from genepool.threads import torch_threads

if TYPE_CHECKING:
    import torch

    from genepool.tasks.models.policy.network import PolicyNetwork, PolicyShape
    from genepool.testbed.policies.evolving import PolicySearch

_Numbers = tuple[int, int, int, float, float]
# Raise this when the code changes what a build makes; numbers of the schedule are hashed by themselves.
RECIPE_VERSION = 1


@dataclass(frozen=True)
class PolicySchedule:
    """Every number of a build.

    Attributes:
        hidden, layers: the network's.
        steps: after so many an episode is over.
        base, full, lora: the searches, as (generations, population, episodes, sigma, enough).
        rank: of an adapter.
    """

    hidden: int
    layers: int
    steps: int
    base: _Numbers
    full: _Numbers
    lora: _Numbers
    rank: int


@dataclass(frozen=True)
class Cloning:
    """The numbers of a base that begins as a copy of a rule (`cloning`), all ours.

    Attributes:
        rounds: how often episodes are played; the rule acts in the first.
        episodes: of a round.
        steps: of Adam behind each round, on all that was seen until then.
        batch: states in a step.
        learning_rate: of Adam.
    """

    rounds: int = 3
    episodes: int = 24
    steps: int = 600
    batch: int = 256
    learning_rate: float = 3e-3


@dataclass(frozen=True)
class LanderSchedule(PolicySchedule):
    """Every number of a build of landers.

    Attributes:
        cloning: of the base.
    """

    cloning: Cloning = Cloning()


def schedule_for(*, tiny: bool, lands: bool = False) -> PolicySchedule:
    """The schedule of a size, of poles or of landers."""
    if lands:
        # The base is a copy already: no generation of a search is left to it.
        none, few = (0, 12, 3, 0.1, 1.0), (8, 12, 3, 0.1, 1.0)
        many = (40, 16, 6, 0.1, 1.0)
        return LanderSchedule(32, 2, 400, none, few if tiny else many, few if tiny else many, 2 if tiny else 4)
    if tiny:
        return PolicySchedule(16, 2, 200, (20, 12, 3, 0.3, 0.5), (8, 12, 3, 0.3, 1.0), (8, 12, 3, 0.3, 1.0), 2)
    return PolicySchedule(32, 2, 500, (20, 16, 4, 0.3, 0.5), (20, 16, 4, 0.3, 1.0), (20, 16, 4, 0.3, 1.0), 4)


@dataclass(frozen=True)
class PolicySettings(BedSettings):
    """Everything that decides what a build makes."""

    bed: str = "policies"
    version: ClassVar[int] = RECIPE_VERSION

    @classmethod
    def of(cls, tiny: bool, seed: int, skills: Sequence[str] | None) -> PolicySettings:
        """Checked; all poles when `skills` is None."""
        return cls(tiny, seed, tuple(world.name for world in choose(DEFAULT_WORLDS if skills is None else skills)))

    @property
    def schedule(self) -> PolicySchedule:
        """The numbers of the build."""
        return schedule_for(tiny=self.tiny, lands=True) if self.family.copies else schedule_for(tiny=self.tiny)

    @property
    def family(self) -> PolicyFamily:
        """The tasks of the environment that the skills are of."""
        return (WORLDS | LANDERS)[self.skills[0]].family

    def make(self, pieces: Pieces, out: Path) -> dict[str, Any]:
        """Evolves everything and returns the manifest."""
        with progress.bar("loading torch"):
            import torch

            from genepool.testbed.policies import evolving  # noqa: F401  (these are the seconds the bar is for)
        # Constructors draw from torch's global generator; the caller gets it back as it was.
        with torch_threads(1), torch.random.fork_rng(devices=[]):
            return _PoliciesBuild(self, pieces, out).run()


class _PoliciesBuild:
    """One run: knows what is finished and makes the rest."""

    def __init__(self, settings: PolicySettings, pieces: Pieces, out: Path) -> None:
        from genepool.tasks.models.policy.network import PolicyNetwork, PolicyShape

        self.settings, self.pieces, self.schedule, self.out = settings, pieces, settings.schedule, out
        self.family = settings.family
        self.worlds = tuple((WORLDS | LANDERS)[name] for name in settings.skills)
        self.tasks = (*self.worlds, self.family.as_it_is, self.family.between)
        self.counts = TINY_COUNTS if settings.tiny else COUNTS
        spaces = environments()[self.worlds[0].environment].spaces
        scales = self.family.scales
        self.shape: PolicyShape = PolicyShape(spaces, self.schedule.hidden, self.schedule.layers, scales)
        self.network: PolicyNetwork = PolicyNetwork(self.shape).eval()

    def run(self) -> dict[str, Any]:
        """Makes all pieces and returns the manifest."""
        numbers = self.schedule
        total = numbers.base[0] + len(self.worlds) * (numbers.full[0] + numbers.lora[0])
        with progress.bar("building the testbed of policies", total, "generations") as bar:
            bar.note("task files")
            self._write_tasks()
            bar.note("base")
            base = self._evolved("base", self.family.as_it_is, self._new, numbers.base, bar)
            for world in self.worlds:
                bar.note(f"the specialist {world.name}")
                self._evolved(f"full/{world.name}", world, lambda: base, numbers.full, bar)
                bar.note(f"the adapter {world.name}")
                self._adapter(f"lora/{world.name}", world, base, bar)
        kinds = [f"{kind}/{world.name}" for kind in ("full", "lora") for world in self.worlds]
        return self._manifest(self.pieces.collect(["base", *kinds]))

    def _write_tasks(self) -> None:
        for world in self.tasks:
            target = self.pieces.staging / "tasks" / world.name
            if target.exists():
                continue
            with staged_folder(target) as unfinished:
                world.write(unfinished, self.counts, self.schedule.steps)

    def _new(self) -> dict[str, torch.Tensor]:
        """An untrained network, every tensor of which starts from its own (seed, name); or what copies a rule."""
        import torch

        from genepool.testbed.policies.cloning import copied

        found = {}
        for name, tensor in self.network.state_dict().items():
            bound = tensor.shape[1] ** -0.5 if tensor.dim() == 2 else 0.0
            generator = torch_generator(self.settings.seed, "policies init", name)
            found[name] = (2 * torch.rand(tensor.shape, generator=generator) - 1) * bound
        if not self.family.copies:
            return found
        assert isinstance(self.schedule, LanderSchedule)
        episodes, how = partial(self._episodes, "copy", self.family.as_it_is), self.schedule.cloning
        return copied(self.network, self.shape.spaces, found, episodes, how, self.settings.seed)

    def _episodes(self, name: str, world: PolicyWorld, generation: int, count: int) -> list[Episode]:
        """Starts that no split has, drawn anew for every generation."""
        seed = self.settings.seed
        drawn = [derive(seed, "policies start", name, generation, at) % 2**31 for at in range(count)]
        config = {**world.config, "steps": self.schedule.steps}
        return [episode_of({"environment": world.environment, "config": config, "seed": one}, name) for one in drawn]

    def _evolved(
        self, name: str, world: PolicyWorld, start: Callable[[], dict[str, torch.Tensor]], numbers: _Numbers,
        bar: progress.Bar,
    ) -> dict[str, torch.Tensor]:  # fmt: skip
        """Evolves all weights and publishes them, or reads them back when a killed build had finished them."""
        from safetensors.torch import load_file, save_file

        if self.pieces.finished(name):
            bar.advance(numbers[0])
            return dict(load_file(self.pieces.staging / name / "model.safetensors"))
        found = self._search(name, world, start(), dict, numbers, bar)

        def save(place: Path) -> None:
            save_file(found, place / "model.safetensors", metadata={"format": "pt"})
            text = json.dumps(self.shape.config(), indent=2, sort_keys=True)
            (place / "config.json").write_text(text + "\n", encoding="utf-8")

        self.pieces.publish(name, self._record(found, numbers), save)
        return found

    def _adapter(self, name: str, world: PolicyWorld, base: dict[str, torch.Tensor], bar: progress.Bar) -> None:
        """Evolves the factors of an adapter on all layers, and publishes it as PEFT writes it."""
        import torch
        from peft import LoraConfig, get_peft_model

        numbers, rank = self.schedule.lora, self.schedule.rank
        if self.pieces.finished(name):
            bar.advance(numbers[0])
            return
        matrices = [key for key, tensor in base.items() if tensor.dim() == 2]
        start: dict[str, torch.Tensor] = {}
        for key in matrices:
            rows, columns = base[key].shape
            generator = torch_generator(self.settings.seed, "policies adapter", name, key)
            start[f"A {key}"] = (2 * torch.rand(rank, columns, generator=generator) - 1) * columns**-0.5
            start[f"B {key}"] = torch.zeros(rows, rank)

        def weights(factors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            many = len(next(iter(factors.values())))
            whole = {key: tensor.expand(many, *tensor.shape) for key, tensor in base.items()}
            return whole | {key: base[key] + factors[f"B {key}"] @ factors[f"A {key}"] for key in matrices}

        found = self._search(name, world, start, weights, numbers, bar)
        merged = {key: one[0] for key, one in weights({key: one[None] for key, one in found.items()}).items()}

        def save(place: Path) -> None:
            self.network.load_state_dict(base)
            modules = [key.removesuffix(".weight") for key in matrices]
            config = LoraConfig(r=rank, lora_alpha=rank, target_modules=modules, init_lora_weights=False)
            model = get_peft_model(_copy(self.network), config)
            parameters = dict(model.named_parameters())
            with torch.no_grad():
                for key in matrices:
                    place_in = f"base_model.model.{key.removesuffix('.weight')}"
                    parameters[f"{place_in}.lora_A.default.weight"].copy_(found[f"A {key}"])
                    parameters[f"{place_in}.lora_B.default.weight"].copy_(found[f"B {key}"])
            model.peft_config["default"].base_model_name_or_path = str(self.out / "base")
            model.save_pretrained(place, save_embedding_layers=False)
            (place / "README.md").unlink(missing_ok=True)  # PEFT's card is a form with nothing filled in

        self.pieces.publish(name, self._record(merged, numbers), save)

    def _search(
        self,
        name: str,
        world: PolicyWorld,
        start: Any,
        weights: Any,
        numbers: _Numbers,
        bar: progress.Bar,
    ) -> dict[str, torch.Tensor]:
        from genepool.testbed.policies.evolving import PolicySearch, evolve

        low, high = self.family.returns(self.schedule.steps)
        search: PolicySearch = PolicySearch(*numbers[:-1], enough=low + numbers[-1] * (high - low))
        seed, left = self.settings.seed, numbers[0]
        episodes = partial(self._episodes, name, world)

        def after() -> None:
            nonlocal left
            left -= 1
            bar.advance()

        found = evolve(self.network, self.shape.spaces, start, weights, episodes, search, seed, name, after)
        bar.advance(left)
        return found

    def _record(self, weights: dict[str, torch.Tensor], numbers: _Numbers) -> dict[str, Any]:
        many = {key: tensor[None] for key, tensor in weights.items()}
        scores = {}
        for world in self.tasks:
            episodes = world.episodes("test", self.counts["test"], self.schedule.steps)
            scores[world.name] = round(self._score(many, episodes), 4)
        return {"steps": numbers[0], "scored_items": self.counts["test"], "scores": scores}

    def _score(self, many: Mapping[str, torch.Tensor], episodes: Sequence[Episode]) -> float:
        """The mean score of one policy, as `genepool evaluate` gives it."""
        from genepool.testbed.policies.evolving import returns_of

        [totals] = returns_of(self.network, self.shape.spaces, many, episodes)
        scores = np.array(
            [self.family.score(float(one), self.schedule.steps) for one in np.nan_to_num(totals, nan=-1e9)]
        )
        return float(scores.clip(0, 1).mean())

    def _manifest(self, models: dict[str, Any]) -> dict[str, Any]:
        counts: dict[Split, int] = {split: self.counts[split] for split in SPLITS}
        return {
            "genepool_testbed": layout.FORMAT,
            "digest": self.settings.digest(),
            "settings": {**asdict(self.settings), "skills": list(self.settings.skills)},
            "schedule": asdict(self.schedule),
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("genepool", "torch", "gymnasium", "cma", "peft")},
            },
            "skills": {world.name: {"does": world.does} for world in self.worlds},
            "tasks": {world.name: counts for world in self.tasks},
            "models": models,
            "files": layout.hash_files(self.pieces.staging),
        }


def _copy(network: PolicyNetwork) -> PolicyNetwork:
    import copy

    return copy.deepcopy(network)
