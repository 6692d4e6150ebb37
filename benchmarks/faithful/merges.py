"""What every merge method is held against, and how far from it a merge of ours is.

Four kinds of oracle: the authors' code, which was run once on the same models and whose answers are stored in
`tests/goldens/authors`; mergekit, likewise in `tests/goldens/mergekit`; a library that is run here and now; and the
paper's formula in float64 (`formulas.py`). A fifth kind of row says what was only read. A merge of ours always goes
through a recipe and a plan, as the command's does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.faithful import models
from benchmarks.faithful.formulas import FORMULAS, Tensors
from genepool.errors import InputError
from genepool.faithful import HeldAgainst

AUTHORS = models.GOLDENS / "authors"
MERGEKIT = models.GOLDENS / "mergekit"
# Recipes that are about something else than a method's arithmetic begin with these.
NOT_OF_A_METHOD = ("tokenizer_", "vocabulary_", "quirk_", "multi_", "chat_")
# Recipes of the goldens whose answer differs by design; docs/reference/mergekit.md says why.
DIFFERENT = {"slices_uneven_more", "dtype_bf16", "dtype_bf16_linear"}


@dataclass(frozen=True)
class Merge:
    """A merge of ours: what a recipe says."""

    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = models.THREE
    own: tuple[Mapping[str, Any], ...] = ()
    lines: Mapping[str, float] | None = None
    base: bool = True
    rounded: bool = False
    statistics: str = ""

    def run(self) -> Tensors:
        """The merged tensors, float32."""
        import torch

        from genepool.merging import Recipe, plan_merge
        from genepool.weights.in_memory import TensorWeights

        kind = torch.bfloat16 if self.rounded else torch.float32
        sources = {
            name: TensorWeights(
                {key: torch.from_numpy(values.copy()).to(kind) for key, values in self.model(name).items()}, name
            )
            for name in ("base", *self.names)
        }
        if not self.base:
            del sources["base"]
        own = self.own or ({},) * len(self.names)
        recipe = Recipe(
            method=self.method,
            base="base" if self.base else None,
            models=[{"model": name, "parameters": dict(p)} for name, p in zip(self.names, own, strict=True)],
            parameters=dict(self.parameters),
            lines=dict(self.lines) if self.lines else None,
            dtype="float32",
        )
        known = None
        if self.statistics:
            tensors = {
                f"{self.statistics}/{name}/{key}": torch.from_numpy(values.copy())
                for name in self.names
                for key, values in models.statistics(self.statistics, name).items()
            }
            known = TensorWeights(tensors, "statistics"), {name: name for name in self.names}
        merged = plan_merge(recipe, sources, statistics=known).weights("cpu")
        return {name: merged.read(name).float().numpy() for name in merged.names()}

    def model(self, name: str) -> Tensors:
        """The tensors of one of the inputs."""
        return models.model(name, self.rounded)

    @property
    def inputs(self) -> str:
        """The inputs in words."""
        return models.describe(self.names, self.rounded)


@dataclass(frozen=True)
class Held:
    """One row: a merge of ours and an oracle.

    Attributes:
        merge: what is merged.
        against: whose answer it is held against.
        how: what was done with the oracle.
        golden: name of the stored answer; empty for the formula.
        told: what the formula is told besides the recipe's parameters.
        kept: compare only the entries that both draws kept, of methods that drop at random.
        note: what a reader must know, such as a setting that makes both the same.
    """

    merge: Merge
    against: str
    how: str
    golden: str = ""
    told: Mapping[str, Any] = field(default_factory=dict)
    kept: bool = False
    note: str = ""

    @cached_property
    def expected(self) -> Tensors:
        """What the oracle answered."""
        if self.golden:
            from safetensors.numpy import load_file

            return dict(load_file(AUTHORS / "outputs" / f"{self.golden}.safetensors"))
        formula = FORMULAS["lines" if self.merge.lines else self.merge.method]
        exact = [
            {key: values.astype(np.float64) for key, values in self.merge.model(name).items()}
            for name in ("base", *self.merge.names)
        ]
        told: dict[str, Any] = {**self.merge.parameters, **(self.merge.lines or {}), **self.told}
        if kind := self.merge.statistics:
            told["statistics"] = [models.statistics(kind, name) for name in self.merge.names]
        return formula(exact[0], exact[1:], told)

    def measured(self) -> HeldAgainst:
        """The row of the reference page."""
        ours, theirs, base = self.merge.run(), self.expected, self.merge.model("base")
        assert set(ours) == set(theirs)
        largest, entries = 0.0, 0
        for name, values in ours.items():
            difference = np.abs(values.astype(np.float64) - theirs[name])
            if self.kept:
                difference = difference[(values != base[name]) & (theirs[name] != base[name])]
            largest, entries = max(largest, float(difference.max(initial=0))), entries + difference.size
        dtype = "float64" if not self.golden else "float32"
        return HeldAgainst(self.against, self.how, self.merge.inputs, dtype, entries, largest, self.note)


RUN, FORMULA, READ = "run", "formula", "read, not run"


def code(repository: str, commit: str, what: str) -> str:
    """Somebody's code, as a row names it."""
    return f"{repository} {commit}, {what}"


_ONE_MORE = "their `kthvalue` keeps one entry more than the share, so our share is one entry larger here"
_ONE_LESS = "they keep what is strictly above the last entry, so our share is one entry smaller here"
_ENTRIES = sum(values.size for values in models.model("base").values())


def _told(merge: Merge) -> str:
    """The parameters of a recipe, as a note."""
    said = [
        f"{key}: {value:g}" if isinstance(value, float) else f"{key}: {value}"
        for key, value in merge.parameters.items()
    ]
    lines = [f"lines: {dict(merge.lines)}"] if merge.lines else []
    return f"with `{', '.join([*said, *lines])}`" if said or lines else ""


FROM_AUTHORS = (
    Held(Merge("task_arithmetic", {"lambda": 0.3}),
         code("mlfoundations/task_vectors", "826a64c", "`TaskVector`"), RUN, "task_arithmetic"),
    Held(Merge("ties", {"density": (int(0.2 * _ENTRIES) + 1) / _ENTRIES}),
         code("prateeky2806/ties-merging", "44e7891", "`merge_methods('topk', K=20, 'mass', 'dis-mean')`"), RUN, "ties",
         note=_ONE_MORE),
    Held(Merge("dare_linear", {"density": 0.5, "lambda": 1.0}, ("a",)),
         code("yule-BUAA/MergeLM", "6d49ad9", "`mask_input_with_mask_rate(0.5, 'random')`"), RUN, "dare_one", kept=True,
         note="other random numbers: compared where both kept the entry"),
    Held(Merge("della_linear", {"density": 0.7, "epsilon": 0.07, "lambda": 1.0}, ("a",)),
         code("declare-lab/della", "8067515", "`rank_magnitude(density=0.7, epsilon=0.07)`"), RUN, "della_one",
         kept=True, note="other random numbers: compared where both kept the entry"),
    Held(Merge("breadcrumbs", {"density": 0.5, "gamma": 0.25, "scope": "row", "lambda": 0.3}),
         code("rezazzr/breadcrumbs", "f89fc66", "`TaskVectorMiddleKeep(top_k_keep=0.5, top_k_remove=0.25)`"), RUN,
         "breadcrumbs", note="with `scope: row`: their code masks each row, the paper each layer"),
    Held(Merge("consensus", {"threshold": 0.4, "needed": 2, "lambda": 0.3}),
         code("nik-dim/tall_masks", "d10af8b", "`generate_task_masks(0.4)`, `construct_consensus_mask(2)`"), RUN,
         "consensus"),
    Held(Merge("pcb", {"clip": 0.01, "ratio": 0.1, "lambda": 1.2}),
         code("duguodong7/pcb-merging", "5897888", "language: `task_para_att_merge(0.1)`"), RUN, "pcb_language"),
    Held(Merge("pcb", {"clip": 1e-4, "ratio": 0.1, "lambda": 1.2}),
         code("duguodong7/pcb-merging", "5897888", "the short script: `PCB_merge(0.1)`"), RUN, "pcb_short_script",
         note="with `clip: 0.0001`"),
    Held(Merge("pcb", {"clip": 0.01, "ratio": 0.05, "lambda": 1.2}),
         code("duguodong7/pcb-merging", "5897888", "vision: `PCB(0.05)` of pcb_ES.py"), RUN, "pcb_vision",
         note="differs: theirs adds up tanh over pairs of scaled magnitudes, ours follows their code for language"),
    Held(Merge("sce", {"select_topk": 0.3, "merges": "all"}),
         code("fanqiwan/FuseAI", "7d9a307", "`SCETask.execute` with `select_topk` 0.3"), RUN, "sce",
         note="with `merges: all`: their code selects for the weights only, the paper for the merge too"),
    Held(Merge("sce", {"select_topk": 1.0}),
         code("fanqiwan/FuseAI", "7d9a307", "`SCETask.execute` with `select_topk` 1"), RUN, "sce_all",
         note="with `select_topk: 1`"),
    Held(Merge("iso_c", {"embeddings": "matrix"}),
         code("danielm1405/iso-merging", "d34010a", "`iso_c`"), RUN, "iso_c",
         note="with `embeddings: matrix`: image encoders have no embeddings to except"),
    Held(Merge("iso_cts", {"embeddings": "matrix"}),
         code("danielm1405/iso-merging", "d34010a", "`iso_cts`, common space 0.8"), RUN, "iso_cts",
         note="with `embeddings: matrix`: image encoders have no embeddings to except"),
    Held(Merge("tsv_m", {"embeddings": "matrix"}),
         code("AntoAndGar/task_singular_vectors", "a6c9718", "`compute_and_sum_svd_mem_reduction`"), RUN, "tsv_m",
         note="with `embeddings: matrix`: image encoders have no embeddings to except"),
    Held(Merge("wudi"),
         code("nathanielyvo/WUDI-Merging", "dc3cd12", "`get_redundant_task_vector` of vit/wudi_main.py, 300 steps"),
         RUN, "wudi", note="its norm is squared, as in the paper"),
    Held(Merge("ram", {}, tuple(models.SPARSE)),
         code("xiangchi-yuan/mrl", "e2d930d", "`agentic_reinforcement_merge`"), RUN, "ram"),
    Held(Merge("ramplus_tl", {"r": 0.2, "alpha": 1.0, "scope": "model"}, tuple(models.SPARSE)),
         code("xiangchi-yuan/mrl", "e2d930d", "`agentic_reinforcement_merge_rescale_v2(r=1.2)`"), RUN, "ramplus_tl",
         note="with `r: 0.2`, `alpha: 1` and `scope: model`, as they run it"),
    Held(Merge("localize_stitch", {"density": (int(0.05 * _ENTRIES) - 0.5) / _ENTRIES}),
         code("uiuctml/Localize-and-Stitch", "109d206", "`Localizer(sparsity=0.05)`, `Stitcher`"), RUN,
         "localize_stitch", note=_ONE_LESS),
    Held(Merge("selekt", {"alpha": 0.3}, ("a",)),
         code("microsoft/NextCoder", "2016802", "`selekt(alpha=0.3)`"), RUN, "selekt"),
    Held(Merge("task_arithmetic", {"lambda": 0.3}, lines={"alpha": 0.2, "beta": 0.5}),
         code("wang-kee/LiNeS", "43a7bdd", "`LiNeS_scaling(0.2, 0.5)`"), RUN, "lines",
         note="task arithmetic with `lines: {alpha: 0.2, beta: 0.5}`"),
    Held(Merge("ema", {"decay": 0.7}, base=False),
         "torch 2.13.0, `AveragedModel` with `get_ema_multi_avg_fn(0.7)`", RUN, "ema"),
)  # fmt: skip

# The parameters of each method's formula; of two dtypes where the base and the models allow it.
_BY_FORMULA: tuple[tuple[Merge, Mapping[str, Any]], ...] = (
    (Merge("arcee_fusion", {}, ("a",)), {}),
    (Merge("breadcrumbs", {"density": 0.3, "gamma": 0.1, "lambda": 0.3}), {}),
    (Merge("breadcrumbs_ties", {"density": 0.3, "gamma": 0.1, "lambda": 1.0}), {}),
    (Merge("consensus", {"threshold": 0.4, "needed": 2, "lambda": 0.3}), {}),
    (Merge("ema", {"decay": 0.7}), {}),
    (Merge("fisher", {"normalize": True, "floor": 1e-6}, statistics="fisher"), {}),
    (Merge("iso_c", {"embeddings": "matrix", "lambda": 1.0}), {}),
    (Merge("iso_cts", {"embeddings": "matrix", "common": 0.8, "lambda": 1.0}), {}),
    (Merge("karcher", {}, base=False), {}),
    (Merge("layer_swap", {"bottom": 1, "top": 1, "transition": 0}, ("a", "b"), base=False), {}),
    (Merge("linear", {}, base=False), {}),
    (Merge("localize_stitch", {"density": 0.05}), {}),
    (Merge("model_stock", {}), {}),
    (Merge("multislerp", {}), {}),
    (Merge("nearswap", {"t": 0.001}, ("a",)), {}),
    (Merge("nuslerp", {}, ("a", "b"), own=({"weight": 0.7}, {"weight": 0.3})), {"share": 0.3}),
    (Merge("passthrough", {"scale": 0.5}, ("a",), base=False), {}),
    (Merge("pcb", {"clip": 0.01, "ratio": 0.1, "lambda": 1.2}), {}),
    (Merge("ram", {}, tuple(models.SPARSE)), {}),
    (Merge("ramplus_tl", {"r": 0.1, "alpha": 0.2}, tuple(models.SPARSE)), {}),
    (Merge("regmean", {"off_diagonal": 0.9}, base=False, statistics="gram"), {}),
    (Merge("sce", {"select_topk": 0.3}), {}),
    (Merge("selekt", {"alpha": 0.05}, ("a",)), {}),
    (Merge("slerp", {"t": 0.3}, ("far",)), {}),
    (Merge("task_arithmetic", {"lambda": 0.3}), {}),
    (Merge("task_arithmetic", {"lambda": 0.3}, lines={"alpha": 0.2, "beta": 0.5}), {}),
    (Merge("ties", {"density": 0.2, "lambda": 1.0}), {}),
    (Merge("tsv_m", {"embeddings": "matrix", "lambda": 1.0}), {}),
    (Merge("wudi", {"steps": 300, "learning_rate": 1e-5, "lambda": 1.0}), {}),
)  # fmt: skip

FROM_FORMULAS = tuple(
    Held(
        replace(merge, rounded=rounded),
        "the formula, written a second time in numpy",
        FORMULA,
        told=told,
        note=_told(merge),
    )
    for merge, told in _BY_FORMULA
    for rounded in (False, True)
)

ONLY_READ: Mapping[str, tuple[HeldAgainst, ...]] = {
    "linear": (
        HeldAgainst(
            code("mlfoundations/model-soups", "d5398f1", "the uniform soup of main.py"), READ,
            note="the same mean; their script downloads its 72 models",
        ),
    ),
    "model_stock": (
        HeldAgainst(
            code("naver-ai/model-stock", "e4d75af", "README"), READ, note="the authors publish no code"
        ),
    ),
    "dare_ties": (
        HeldAgainst(
            code("yule-BUAA/MergeLM", "6d49ad9", "`mask_merging` with `ties_merging`"), READ,
            note="the same order: drop, rescale, then TIES with its own share",
        ),
    ),
    "della": (
        HeldAgainst(
            code("declare-lab/della", "8067515", "`GTATask.execute`"), READ,
            note="the same election and mean; its draw is that of della_linear, which was run",
        ),
    ),
    "pcb": (
        HeldAgainst(
            code("duguodong7/pcb-merging", "5897888", "vision_source_code/pcb.py"), READ,
            note="differs: a script for vision that multiplies by the sum of scaled magnitudes",
        ),
    ),
    "layer_swap": (
        HeldAgainst(
            "the authors' code", READ, note="not available: we found no repository; the counts of layers are ours"
        ),
    ),
    "ema": (HeldAgainst("the authors' code", READ, note="not available: we found no repository"),),
}  # fmt: skip


def held() -> Iterator[Held]:
    """Every row that is measured on the tiny models."""
    yield from FROM_AUTHORS
    yield from FROM_FORMULAS


def mergekit_recipes() -> dict[str, list[str]]:
    """Names of the recipes by merge method, of those that mergekit answers as we do by design."""
    import yaml

    answers = json.loads((MERGEKIT / "manifest.json").read_text())["recipes"]
    found: dict[str, list[str]] = {}
    for name, answer in answers.items():
        if "error" in answer or name in DIFFERENT or name.startswith(NOT_OF_A_METHOD):
            continue
        data = yaml.safe_load((MERGEKIT / "recipes" / f"{name}.yaml").read_text())
        if (method := data["merge_method"]) not in SEED_DECIDES or name.endswith("density_one"):
            found.setdefault(method, []).append(name)
    return dict(sorted(found.items()))


# Of these only the recipes without a draw have an answer.
SEED_DECIDES = {"dare_linear", "dare_ties", "della", "della_linear"}


def against_mergekit(method: str, recipes: list[str], folder: Path) -> HeldAgainst:
    """The largest difference over all recipes of one method; `folder` holds the models."""
    import torch
    from safetensors.torch import load_file

    from genepool.merging import load_recipe, plan_merge

    manifest = json.loads((MERGEKIT / "manifest.json").read_text())
    inputs = models.golden_inputs()
    folders = {name: folder / name for name in inputs.MODELS}
    largest, entries, compared = 0.0, 0, 0
    for name in recipes:
        path = folder / f"{name}.yaml"
        path.write_text(inputs.filled((MERGEKIT / "recipes" / f"{name}.yaml").read_text(), folders))
        try:
            merged = plan_merge(load_recipe(path)).weights("cpu")
        except InputError:
            continue
        theirs = load_file(MERGEKIT / "outputs" / f"{manifest['recipes'][name]['outputs']}.safetensors")
        compared += 1
        for key, values in theirs.items():
            if values.dtype != torch.float32:
                continue
            difference = np.abs(merged.read(key).double().numpy() - values.double().numpy())
            largest, entries = max(largest, float(difference.max(initial=0))), entries + difference.size
    version = manifest["made_with"]["mergekit"]
    note = "at density 1, where nothing is drawn" if method in SEED_DECIDES else ""
    count = f"{compared} recipe{'s' if compared != 1 else ''} over Llamas of four layers"
    return HeldAgainst(f"mergekit {version}", RUN, count, "float32", entries, largest, note)


def measure() -> dict[str, list[HeldAgainst]]:
    """Method -> what it is held against: code that ran first, then the formula, then what was only read."""
    found: dict[str, list[HeldAgainst]] = {}
    for one in FROM_AUTHORS:
        found.setdefault(one.merge.method, []).append(one.measured())
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        models.golden_inputs().write_models(folder)
        for method, recipes in mergekit_recipes().items():
            found.setdefault(method, []).append(against_mergekit(method, recipes, folder))
    for one in FROM_FORMULAS:
        found.setdefault(one.merge.method, []).append(one.measured())
    for method, rows in ONLY_READ.items():
        found.setdefault(method, []).extend(rows)
    return dict(sorted(found.items()))
