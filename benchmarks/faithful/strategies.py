"""What every search strategy is held against, and how far from it one step of ours is.

The answers of the authors' selection code lie in `tests/goldens/authors/strategies.json`: who survives, who mates, who
moves where, on numbers drawn from a seed. Where no code of the authors can be had, the paper's rule is written here a
second time. Draws of theirs and of ours differ, so what is random is compared by its odds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.faithful.merges import AUTHORS, FORMULA, READ, RUN, code
from genepool.evolution.selection import survivors
from genepool.evolution.strategies.base import Birth, Evidence
from genepool.faithful import HeldAgainst

DRAWS = 4000
_IS_WHAT_RUNS = "is what runs"


class Recorder:
    """Stands in for a generator: remembers the odds it is asked to draw by, and draws the likeliest."""

    def __init__(self, random: Sequence[float] = ()) -> None:
        self.odds: list[np.ndarray] = []
        self._random = np.array(random)

    def choice(self, count: int, size: int | None = None, replace: bool = True, p: Any = None) -> Any:
        self.odds.append(np.asarray(p))
        order = np.argsort(-self.odds[-1], kind="stable")
        return order[0] if size is None else order[:size]

    def random(self, count: int | None = None) -> Any:
        return 0.5 if count is None else self._random[:count]

    def normal(self, mean: float, sigma: float, size: int) -> np.ndarray:
        return np.full(size, mean)


def _evidence(scores: np.ndarray, tasks: Sequence[str] = ("task",), means: np.ndarray | None = None) -> Evidence:
    return Evidence(tuple(tasks), scores.mean(1, keepdims=True) if means is None else means, scores)


def _survival(golden: Mapping[str, Any], count: int, elites: int, tournament: int) -> float:
    fitness, found = golden["fitness"], np.zeros(len(golden["fitness"]))
    generator = np.random.default_rng(0)
    for _ in range(DRAWS):
        found[survivors(generator, fitness, count, elites=elites, tournament=tournament)] += 1
    return float(np.abs(found / DRAWS - golden["survival"]).max())


def _genome(golden: Mapping[str, Any]) -> list[HeldAgainst]:
    largest = _survival(golden, golden["population"], int(golden["elite"] * golden["population"]), 3)
    return [
        HeldAgainst(
            code("ZhangYiqun018/GENOME", "d514ab9", "`Genome.selection('tournament')`"), RUN,
            f"14 individuals for 10 places, {golden['draws']} draws of theirs and {DRAWS} of ours", "float64",
            len(golden["fitness"]), largest,
            "each one's share of survivals; equal up to the spread of the draws, about 0.02",
        ),
        HeldAgainst(
            code("ZhangYiqun018/GENOME", "d514ab9", "`initialize`, `crossover`, `mutation`, `generate_pair_sequences`"),
            READ,
            note="the same rules. Their program (run_genome.py) crosses 0.8, mutates 0.15 of the individuals and 0.01 "
            "of the weights and keeps 2%; their script (genome.sh) crosses 0, mutates 0.1 and 0.1 and keeps 10%",
        ),
    ]  # fmt: skip


def _genome_plus(golden: Mapping[str, Any]) -> list[HeldAgainst]:
    from genepool.evolution.strategies.genome import Individual
    from genepool.evolution.strategies.genome_plus import GenomePlus, GenomePlusOptions, Particle

    move = golden["move"]
    strategy = GenomePlus(["x", "to"], ["task"], 0, GenomePlusOptions())
    strategy._best, strategy._worst = Individual("best", 1.0), Individual("worst", 0.0)
    birth = strategy._moved(
        Recorder(move["factors"]),  # type: ignore[arg-type]
        Particle("x", 0.5, Individual("own", 0.6), ("to", "x", 1.0)),
        0.5,
    )
    moved = sum(w * np.array(move[name]) for name, w in zip(birth.parents, birth.parameters["weights"], strict=True))
    everyone = len(golden["fitness"])
    largest = _survival(golden, golden["largest"], round(golden["elite"] * everyone), 0)
    return [
        HeldAgainst(
            code("ZhangYiqun018/GENOME", "d514ab9", "`update_velocity`, `update_weight`"), RUN,
            "one move of one particle in 6 dimensions", "float64", 6, float(np.abs(moved - move["moved"]).max()),
            "given their four random factors; `one_draw: true` draws them once a run, as they do",
        ),
        HeldAgainst(
            code("ZhangYiqun018/GENOME", "d514ab9", "`GenomePlus.selection('roulette')`"), RUN,
            f"14 individuals for 10 places, {golden['draws']} draws of theirs and {DRAWS} of ours", "float64", everyone,
            largest, "each one's share of survivals; equal up to the spread of the draws, about 0.02",
        ),
        HeldAgainst(
            code("ZhangYiqun018/GENOME", "d514ab9", "`GenomePlus._step`, run_genomeplus.py, genomeplus.sh"), READ,
            note="their code shortens the step before every individual, ours after every generation unless "
            "`decay_each: true`; their program crosses 0.8 and mutates 0.3, their script 0.3 and 0",
        ),
    ]  # fmt: skip


def _m2n2(golden: Mapping[str, Any]) -> list[HeldAgainst]:
    from genepool.evolution.strategies.m2n2 import M2n2, M2n2Options

    scores, told = np.array(golden["scores"]), np.array(golden["told"])
    names = [str(i) for i in range(len(scores))]

    def archive(attraction: bool) -> M2n2:
        strategy = M2n2(names, ["task"], 0, M2n2Options(population=len(scores), attraction=attraction))
        strategy._tell(names, [Birth("copy", (name,)) for name in names], scores.mean(1), _evidence(scores))
        return strategy

    drawn, plain = Recorder(), Recorder()
    archive(True)._child(drawn, 0)  # type: ignore[arg-type]
    archive(False)._child(plain, 0)  # type: ignore[arg-type]
    expected = [golden["first"], golden["second"], golden["both_without_attraction"], golden["both_without_attraction"]]
    odds = max(float(np.abs(a - b).max()) for a, b in zip([*drawn.odds, *plain.odds], expected, strict=True))
    strategy, unequal = archive(True), 0
    for number, (row, kept) in enumerate(zip(told, golden["kept"], strict=True)):
        name = str(len(scores) + number)
        strategy._tell([name], [Birth("splice", ("0", "1"))], row[None].mean(1), _evidence(row[None]))
        unequal += sorted(int(one) for one in strategy._names) != kept
    return [
        HeldAgainst(
            code("SakanaAI/natural_niches", "3b90342", "`sample_parents`, with numpy for jax.numpy"), RUN,
            "6 models on 20 examples, with and without attraction", "float64", 4 * len(scores), odds,
            "the odds of the first and the second parent",
        ),
        HeldAgainst(
            code("SakanaAI/natural_niches", "3b90342", "`update_archive`, with numpy for jax.numpy"), RUN,
            f"{len(told)} models that come to an archive of 6", "float64", len(told), float(unequal),
            "archives that hold other models than theirs",
        ),
        HeldAgainst(
            code("SakanaAI/natural_niches", "3b90342", "`crossover`, `mutate`"), READ,
            note="the same: SLERP with w before the split point and 1 - w after it, noise of 0.01 only from scratch",
        ),
    ]  # fmt: skip


def _cycleqd(golden: Mapping[str, Any]) -> list[HeldAgainst]:
    from genepool.evolution.strategies.cycleqd import Cycleqd, CycleqdOptions

    strategy = Cycleqd(["a", "b"], ["one", "two", "three"], 0, CycleqdOptions(bins=golden["bins"]))
    for number, cell in enumerate(golden["cells"]):
        strategy.archives["one"].add(number, cell["quality"], cell["measures"])
    strategy.experts["one"] = "a"
    drawn = Recorder()
    strategy._child(drawn, "one", 0)  # type: ignore[arg-type]
    expected = [golden["cells"][elite.item]["odds"] for elite in strategy.archives["one"].elites()]
    return [
        HeldAgainst(
            code("SakanaAI/CycleQD", "3d14971", "`EliteSampler.sample`"), RUN,
            f"{len(expected)} elites in an archive of 15 by 15 bins", "float64", len(expected),
            float(np.abs(drawn.odds[0] - expected).max()), "the odds of each elite",
        ),
        HeldAgainst(
            code("SakanaAI/CycleQD", "3d14971", "`ModelwiseLinearMerge`, `SVDUniformMutator`"), READ,
            note="the same: weights N(1, 0.01) divided by their sum, singular directions of the expert's task vector "
            "at uniform shares of the rate; their shares are drawn in bfloat16 and leave norms alone",
        ),
    ]  # fmt: skip


def _openai_es(golden: Mapping[str, Any]) -> list[HeldAgainst]:
    from genepool.evolution.strategies.openai_es import OpenAiEs, OpenAiEsOptions

    noise = np.array(golden["noise"])

    class Given(OpenAiEs):
        """With the noise of the golden."""

        def _noise(self) -> np.ndarray:
            given: np.ndarray = noise[self.generation]
            return given

    strategy = Given(
        np.full(noise.shape[2], 0.5), 0, OpenAiEsOptions(population=2 * noise.shape[1], rate=golden["rate"], decay=0)
    )
    largest = 0.0
    for fitness, mean in zip(golden["fitness"], golden["means"], strict=True):
        strategy.tell(strategy.ask(), np.array(fitness))
        largest = max(largest, float(np.abs(strategy.mean - mean).max()))
    return [
        HeldAgainst(
            code("openai/evolution-strategies-starter", "951f199", "`compute_centered_ranks`, `Adam`"), RUN,
            f"{len(noise)} generations of 12 in 5 dimensions, on given noise and fitness", "float64",
            noise.shape[0] * noise.shape[2], largest,
            "with `decay: 0`; their epsilon is added before the bias of the moments is taken out, and their ranks are "
            "float32",
        ),
        HeldAgainst(
            code("openai/evolution-strategies-starter", "951f199", "es.py"), READ,
            note="differs: their L2 pulls to zero, ours to the start; of equal scores theirs ranks one above the "
            "other, ours both alike",
        ),
    ]  # fmt: skip


def _nsga2(golden: Mapping[str, Any]) -> list[HeldAgainst]:
    from genepool.evolution.pareto import crowding, ranks
    from genepool.evolution.strategies.nsga2 import Nsga2, Nsga2Options

    unequal = 0
    for one in golden["rounds"]:
        values = np.array(one["values"])
        tasks = tuple(f"t{i}" for i in range(values.shape[1]))
        strategy = Nsga2(np.zeros(1), 0, Nsga2Options(population=30))
        xs = np.arange(len(values), dtype=np.float64)[:, None]
        strategy._tell(xs, values.mean(1), _evidence(values, tasks, values))
        # Of the last front the ends have all the room there is, and pymoo draws which of them go.
        rank = ranks(values)
        last = np.flatnonzero(rank == rank[one["kept"]].max())
        ends = set(last[np.isinf(crowding(values[last]))].tolist())
        unequal += len((set(strategy._xs[:, 0].astype(int).tolist()) ^ set(one["kept"])) - ends)
    count = len(golden["rounds"])
    return [
        HeldAgainst(
            f"pymoo {golden['version']}, `RankAndCrowding(crowding_func='cd')`", RUN,
            f"{count} times 30 survivors of 60, with 2, 3 and 4 objectives", "float64", 30 * count, float(unequal),
            "survivors that theirs are not; which ends of the last front go, pymoo draws, and is not compared",
        )
    ]  # fmt: skip


def _map_elites(golden: Mapping[str, Any]) -> list[HeldAgainst]:
    from importlib.metadata import version

    from ribs.archives import GridArchive as Theirs

    from genepool.evolution.archives import GridArchive

    generator = np.random.default_rng(5)
    measures, objectives = generator.random((600, 2)), generator.random(600)
    ours = GridArchive([10, 10], [(0.0, 1.0)] * 2)
    theirs = Theirs(solution_dim=1, dims=[10, 10], ranges=[(0, 1), (0, 1)])
    for number, (objective, place) in enumerate(zip(objectives, measures, strict=True)):
        ours.add(number, float(objective), place.tolist())
        theirs.add_single([float(number)], objective, place)
    kept = set(theirs.data("solution")[:, 0].astype(int).tolist())
    return [
        HeldAgainst(
            f"pyribs {version('ribs')}, `GridArchive.add_single`", RUN, "600 solutions in a grid of 10 by 10",
            "float64", len(kept), float(len(kept ^ {elite.item for elite in ours.elites()})),
            "elites that theirs are not",
        ),
        HeldAgainst(
            code("resibots/pymap_elites", "d9cb187", "map_elites/common.py"), READ,
            note="the same Iso+LineDD step with its 0.01 and 0.2; their default step is SBX",
        ),
    ]  # fmt: skip


def _differential_evolution(golden: Mapping[str, Any]) -> list[HeldAgainst]:
    """JADE's selection and adaptation, written a second time: Zhang & Sanderson 2009, algorithm 1."""
    from genepool.evolution.strategies.differential_evolution import (
        DifferentialEvolution,
        DifferentialEvolutionOptions,
    )

    def worth(points: np.ndarray) -> np.ndarray:
        # In steps, so that parent and trial are often equally good.
        scores: np.ndarray = -np.round(4 * ((points - 0.3) ** 2).sum(1)) / 4
        return scores

    strategy = DifferentialEvolution(np.full(4, 0.9), 0, DifferentialEvolutionOptions(population=12))
    xs = strategy.ask()
    strategy.tell(xs, worth(xs))
    members, fitness, step, crossover, largest, rounds = xs.copy(), worth(xs), 0.5, 0.5, 0.0, 12
    for _ in range(rounds):
        trials = strategy.ask()
        assert strategy._drawn is not None
        steps, rates = strategy._drawn
        scores = worth(trials)
        won = [i for i in range(len(trials)) if not fitness[i] >= scores[i]]
        for i in won:
            members[i], fitness[i] = trials[i], scores[i]
        if won:
            step = 0.9 * step + 0.1 * sum(steps[i] ** 2 for i in won) / sum(steps[i] for i in won)
            crossover = 0.9 * crossover + 0.1 * sum(rates[i] for i in won) / len(won)
        strategy.tell(trials, scores)
        assert strategy._members is not None
        found = [np.abs(strategy._members - members).max(), strategy.step - step, strategy.crossover - crossover]
        largest = max(largest, *(float(abs(value)) for value in found))
    return [
        HeldAgainst(
            "JADE's algorithm 1, its selection and adaptation written a second time", FORMULA,
            f"{rounds} generations of 12 in 4 dimensions, with many equal scores", "float64", rounds * (12 * 4 + 2),
            largest, "members, step and crossover rate; on equal fitness the parent stays",
        ),
        HeldAgainst("the authors' code", READ, note="not available: we found none that is public"),
    ]  # fmt: skip


def _weight_es(golden: Mapping[str, Any]) -> list[HeldAgainst]:
    """The update over all models of a generation: the mean of z-scored fitness times noise, times the step."""
    from genepool.evolution.strategies.weight_es import WeightEs, WeightEsOptions

    generator = np.random.default_rng(6)
    strategy = WeightEs(["a"], ["task"], 0, WeightEsOptions(population=12))
    births = strategy.ask()
    fitness, noise = generator.random(len(births)), generator.standard_normal((6, 9))
    strategy.tell(births, fitness, _evidence(fitness[:, None]))
    scores, around = fitness[1:], np.repeat(noise, 2, 0) * np.tile([1, -1], 6)[:, None]
    z = (scores - scores.mean()) / (scores.std() + 1e-8)
    expected = 0.0005 * (z[:, None] * around).sum(0) / 12
    return [
        HeldAgainst(
            "the update of section 3, written a second time", FORMULA, "one generation of 12 in 9 dimensions",
            "float64", 9, float(np.abs(strategy._steps @ noise - expected).max()), "where the centre goes",
        ),
        HeldAgainst(
            code("VsonicV/es-fine-tuning-paper", "523afc8", "countdown/es_fine-tuning_countdown.py"), READ,
            note="the same update; differs: they draw each model's noise by itself, we draw mirrored pairs",
        ),
    ]  # fmt: skip


def _pbt(golden: Mapping[str, Any]) -> list[HeldAgainst]:
    """Truncation selection and the perturbation of section 4 of the paper, written a second time."""
    from genepool.evolution.strategies.pbt import Pbt, PbtOptions

    generator = np.random.default_rng(7)
    strategy = Pbt(["a", "b"], ["t1", "t2"], 0, PbtOptions(population=20, mix=True))
    unequal, copies, rounds = 0, 0, 12
    for turn in range(rounds):
        births = strategy._ask()
        names, scores = [f"{turn}.{place}" for place in range(len(births))], generator.random((len(births), 1))
        strategy._tell(names, births, scores[:, 0], _evidence(scores))
        strategy.generation = turn + 1
        before = [birth.parameters["learn"] for birth in births]
        order = np.argsort(-scores[:, 0])
        best, worst = set(order[:4].tolist()), set(order[-4:].tolist())
        for place, birth in enumerate(strategy._ask()):
            (parent,), learn = birth.parents, birth.parameters["learn"]
            source = names.index(parent)
            own = [learn["rate"], *learn["mix"]]
            ratios = np.array(own) / [before[source]["rate"], *before[source]["mix"]]
            if place in worst:
                copies += 1
                near = np.minimum(np.abs(ratios - 0.8), np.abs(ratios - 1.2)).max() < 1e-12
                unequal += source not in best or not near
            else:
                unequal += source != place or bool((ratios != 1).any())
    return [
        HeldAgainst(
            "truncation selection and the perturbation of section 4, written a second time", FORMULA,
            f"{rounds} turns of 20 members with a rate and two weights, {copies} copies", "float64", rounds * 20,
            float(unequal), "members that go on from another model or with other settings than the rule allows",
        ),
        HeldAgainst("the authors' code", READ, note="not available: we found none that is public"),
    ]  # fmt: skip


def _library(name: str) -> str:
    from importlib.metadata import version

    return f"{name} {version(name)}"


def measure() -> dict[str, list[HeldAgainst]]:
    """Strategy -> what it is held against."""
    goldens = json.loads((AUTHORS / "strategies.json").read_text(encoding="utf-8"))
    measured = {
        "genome": _genome, "genome_plus": _genome_plus, "m2n2": _m2n2, "cycleqd": _cycleqd, "openai_es": _openai_es,
        "nsga2": _nsga2, "map_elites": _map_elites, "differential_evolution": _differential_evolution,
        "weight_es": _weight_es, "pbt": _pbt,
    }  # fmt: skip
    found = {name: rows(goldens.get(name, {})) for name, rows in measured.items()}
    pycma = f"py{_library('cma')}, `CMAEvolutionStrategy`"
    found["cma_es"] = [
        HeldAgainst(pycma, _IS_WHAT_RUNS, note="ours: the first candidate, the bounds, restarts and when to stop")
    ]
    found["essa"] = [
        HeldAgainst(pycma, _IS_WHAT_RUNS, note="as cma_es"),
        HeldAgainst("the authors' code", READ, note="not available: we found no repository; the first step is ours"),
    ]
    found["quasi_random"] = [
        HeldAgainst(f"{_library('scipy')}, `qmc.Sobol`", _IS_WHAT_RUNS, note="ours: the first candidate is the start")
    ]
    found["random_search"] = [
        HeldAgainst(
            f"{_library('numpy')}, `Generator.uniform`", _IS_WHAT_RUNS, note="ours: the first candidate is the start"
        )
    ]
    found["lcsc"] = [
        HeldAgainst(
            code("imagination-research/LCSC", "34ead5b", "README"), READ,
            note="their README says that the evolutionary search is not released yet; ours is written from the paper, "
            "with numbers of our own",
        )
    ]  # fmt: skip
    return dict(sorted(found.items()))
