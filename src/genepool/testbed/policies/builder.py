"""Making the testbed of policies: a base that balances one pole, and for each other pole a fine-tune and an adapter.

`genepool.testbed.build(folder, bed="policies")` publishes what is made here. Wires `worlds`, and `evolving`, which is
imported only once something has to be evolved.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from genepool import progress
from genepool.seeding import derive, torch_generator
from genepool.staging import staged_folder
from genepool.tasks.environments import Episode, environments, episode_of
from genepool.testbed import folder as layout
from genepool.testbed.data import SPLITS, Split
from genepool.testbed.pieces import Pieces
from genepool.testbed.policies.worlds import (
    AS_IT_IS,
    BETWEEN,
    COUNTS,
    DEFAULT_WORLDS,
    TINY_COUNTS,
    WORLDS,
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
# Four numbers of a cart and its pole, each about 1 after this: metres, metres a second, radians, radians a second.
_SCALES = {"cart_pole": (1.0, 1.0, 0.1, 1.0)}


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


def schedule_for(*, tiny: bool) -> PolicySchedule:
    """The schedule of a size."""
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
        return schedule_for(tiny=self.tiny)

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
        self.worlds = tuple(WORLDS[name] for name in settings.skills)
        self.tasks = (*self.worlds, AS_IT_IS, BETWEEN)
        self.counts = TINY_COUNTS if settings.tiny else COUNTS
        name = self.worlds[0].environment
        spaces = environments()[name].spaces
        self.shape: PolicyShape = PolicyShape(spaces, self.schedule.hidden, self.schedule.layers, _SCALES[name])
        self.network: PolicyNetwork = PolicyNetwork(self.shape).eval()

    def run(self) -> dict[str, Any]:
        """Makes all pieces and returns the manifest."""
        numbers = self.schedule
        total = numbers.base[0] + len(self.worlds) * (numbers.full[0] + numbers.lora[0])
        with progress.bar("building the testbed of policies", total, "generations") as bar:
            bar.note("task files")
            self._write_tasks()
            bar.note("base")
            base = self._evolved("base", AS_IT_IS, self._new(), numbers.base, bar)
            for world in self.worlds:
                bar.note(f"the specialist {world.name}")
                self._evolved(f"full/{world.name}", world, base, numbers.full, bar)
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
        """An untrained network; every tensor starts from its own (seed, name)."""
        import torch

        found = {}
        for name, tensor in self.network.state_dict().items():
            bound = tensor.shape[1] ** -0.5 if tensor.dim() == 2 else 0.0
            generator = torch_generator(self.settings.seed, "policies init", name)
            found[name] = (2 * torch.rand(tensor.shape, generator=generator) - 1) * bound
        return found

    def _evolved(
        self, name: str, world: PolicyWorld, start: dict[str, torch.Tensor], numbers: _Numbers,
        bar: progress.Bar,
    ) -> dict[str, torch.Tensor]:  # fmt: skip
        """Evolves all weights and publishes them, or reads them back when a killed build had finished them."""
        from safetensors.torch import load_file, save_file

        if self.pieces.finished(name):
            bar.advance(numbers[0])
            return dict(load_file(self.pieces.staging / name / "model.safetensors"))
        found = self._search(name, world, start, dict, numbers, bar)

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

        search: PolicySearch = PolicySearch(*numbers)
        seed, left = self.settings.seed, numbers[0]

        def episodes(generation: int, count: int) -> list[Episode]:
            """Starts that no split has, drawn anew for every generation."""
            drawn = [derive(seed, "policies start", name, generation, at) % 2**31 for at in range(count)]
            config = {**world.config, "steps": self.schedule.steps}
            return [
                episode_of({"environment": world.environment, "config": config, "seed": one}, name) for one in drawn
            ]

        def after() -> None:
            nonlocal left
            left -= 1
            bar.advance()

        found = evolve(self.network, self.shape.spaces, start, weights, episodes, search, seed, name, after)
        bar.advance(left)
        return found

    def _record(self, weights: dict[str, torch.Tensor], numbers: _Numbers) -> dict[str, Any]:
        from genepool.testbed.policies.evolving import mean_returns

        many = {key: tensor[None] for key, tensor in weights.items()}
        scores = {}
        for world in self.tasks:
            episodes = world.episodes("test", self.counts["test"], self.schedule.steps)
            mean = mean_returns(self.network, self.shape.spaces, many, episodes)[0]
            scores[world.name] = round(mean / self.schedule.steps, 4)
        return {"steps": numbers[0], "scored_items": self.counts["test"], "scores": scores}

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
