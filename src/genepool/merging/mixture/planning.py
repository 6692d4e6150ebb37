"""From the file of a mixture to a plan: models opened, shapes compared, everything refused that cannot work.

The plan is that of a merge whose only model is the mixture, so it streams, goes on after a kill and is verified as any
other. Nothing is computed here; the gates are computed when the first of them is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genepool import progress
from genepool.errors import InputError, listed, nearest
from genepool.merging.mixture.gates import HiddenStates, TokenNumbers, degenerate_layers, gates_of
from genepool.merging.mixture.recipe import MixtureRecipe, is_mixture
from genepool.merging.mixture.shapes import MixtureShape, shapes
from genepool.merging.mixture.shapes.shape import MATRICES
from genepool.merging.mixture.weights import ExpertMixture
from genepool.merging.plan import Plan
from genepool.merging.planning import plan_merge
from genepool.merging.recipe import Recipe
from genepool.merging.vocabulary import check_vocabularies
from genepool.schema import keys_of, read_yaml, validate
from genepool.weights import Weights, open_weights
from genepool.weights.architecture import architecture_of
from genepool.weights.naming import in_layout_of
from genepool.weights.quantised import refuse_quantised
from genepool.weights.tensor_info import shape_text

# What the recipe of the plan calls the mixture.
_NAME = "mixture"
_SIZES = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")


def load_mixture(path: str | Path) -> MixtureRecipe:
    """Reads the file of a mixture.

    Raises:
        InputError: naming the file, the key and the way out.
    """
    return validate(MixtureRecipe, read_yaml(Path(path), keys_of(MixtureRecipe)), path)


def is_mixture_file(path: Path) -> bool:
    """Whether a file is a mixture rather than a recipe; what cannot be read is neither, and is told elsewhere."""
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return False
    try:
        return is_mixture(read_yaml(path))
    except InputError:
        return False


def plan_mixture(
    recipe: MixtureRecipe,
    where: str,
    folder: Path,
    *,
    hidden: HiddenStates | None = None,
    tokens: TokenNumbers | None = None,
    allow_pickle: bool = False,
) -> Plan:
    """Decides everything about a mixture from the headers of its models.

    Args:
        recipe: the mixture.
        where: its file, for errors.
        folder: where relative paths start.
        hidden, tokens: how the base is asked about prompts; needed when it is written, not before.
        allow_pickle: also open PyTorch's .bin and .pt files, through `torch.load(weights_only=True)`.

    Raises:
        InputError: a model cannot be opened, the models are not of one shape, or no architecture can hold them.
    """
    names = [recipe.base_model, *(expert.source_model for expert in (*recipe.experts, *recipe.shared_experts))]
    opened: dict[str, Weights] = {}
    for name in dict.fromkeys(names):
        found = open_weights(name, relative_to=folder, allow_pickle=allow_pickle)
        refuse_quantised(found, name, "Name the unquantised checkpoint")
        found.name = name
        opened[name] = in_layout_of(found, opened[recipe.base_model]) if opened else found
    base = opened[recipe.base_model]
    sizes = _sizes(base)
    shape = _shape(recipe, opened, where)
    _check_matrices(opened, sizes["num_hidden_layers"], shape)
    check_vocabularies(opened, where, "Use experts that were fine-tuned with the base's tokenizer")
    if len({*names[1:]}) == 1:
        progress.message(f"{where}: all experts are {names[1]}: the mixture answers as it does until it is trained")
    gated = (*recipe.experts, *(recipe.shared_experts if shape.gates_shared else ()))

    def gates() -> Any:
        with progress.bar("computing the gates"):
            found = gates_of(recipe, base, gated, sizes["num_hidden_layers"], sizes["hidden_size"], hidden, tokens)
        if alike := degenerate_layers(found):
            progress.message(
                f"{where}: the gates of {len(alike)} of {len(found)} layers are nearly alike: use prompts that differ "
                "more, or some experts will hardly be chosen"
            )
        return found

    mixture = ExpertMixture(recipe, where, base, [opened[name] for name in names[1:]], shape, gates)
    _check_architecture(mixture, shape)
    merge = Recipe(method="passthrough", models=[_NAME], dtype=recipe.dtype).located(where, folder)
    return plan_merge(merge, {_NAME: mixture})


def _sizes(base: Weights) -> dict[str, int]:
    config = base.config or {}
    for key in _SIZES:
        if type(config.get(key)) is not int or not 0 < config[key] < 2**31:
            raise InputError(
                f"got {config.get(key)!r} for {key}, expected a whole number",
                where=f"{base.name}:config.json",
                fix="Name a dense Llama-, Mistral-, Qwen2- or Qwen3-shaped model",
            )
    return {key: config[key] for key in _SIZES}


def _shape(recipe: MixtureRecipe, opened: Mapping[str, Weights], where: str) -> MixtureShape:
    """The architecture that is named, or else the first that can hold the models."""
    known = shapes()
    kinds = {name: str((weights.config or {}).get("model_type")) for name, weights in opened.items()}
    if len(set(kinds.values())) > 1:
        said = listed(f"{name} is {kind}" for name, kind in kinds.items())
        raise InputError(f"the models are of several kinds: {said}", where=where, fix="Name models of one kind")
    wanted = recipe.architecture
    if wanted is not None:
        chosen = [name for name in known if name == wanted.lower()] or [
            name for name in known if wanted and name.startswith(wanted.lower())
        ]
        if not chosen:
            raise InputError(
                f"unknown architecture '{wanted}'", where=f"{where}:architecture", fix=nearest(wanted, known)
            )
        known = {chosen[0]: known[chosen[0]]}
    (kind,) = set(kinds.values())
    shared = len(recipe.shared_experts)
    reasons = []
    for name, shape in known.items():
        fewest, most = shape.shared
        if kind not in shape.dense:
            reasons.append(f"{name} is made of {listed(sorted(shape.dense))} models, not of {kind}")
        elif not fewest <= shared <= most:
            number = str(fewest) if fewest == most else f"{fewest} or {most}"
            reasons.append(f"{name} has {number} shared experts, not {shared}")
        elif (
            shape.gates_shared
            and recipe.gate_mode not in ("random", "uniform_random")
            and any(not expert.positive_prompts for expert in recipe.shared_experts)
        ):
            reasons.append(f"{name} needs positive_prompts for the shared expert's gate")
        elif not shape.gates_shared and any(expert.positive_prompts for expert in recipe.shared_experts):
            reasons.append(f"{name} has no gate for the shared expert, so it takes no prompts")
        else:
            return shape
    raise InputError(
        f"no architecture can hold this: {'; '.join(reasons)}", where=where, fix="Change the models or shared_experts"
    )


def _check_matrices(opened: Mapping[str, Weights], layers: int, shape: MixtureShape) -> None:
    """Every model has the matrices of a plain MLP in every layer, in the base's shapes, and nothing else in it."""
    base = next(iter(opened.values()))
    dense = [f"model.layers.{layer}.mlp.{matrix}.weight" for layer in range(layers) for matrix in MATRICES]
    for name, weights in opened.items():
        for tensor in dense:
            if tensor not in weights:
                raise InputError(
                    "is missing: an expert is made of gate_proj, up_proj and down_proj of every layer",
                    where=f"{name}:{tensor}",
                    fix="Name dense models of one kind",
                )
            mine, theirs = weights.info(tensor).shape, base.info(tensor).shape
            if mine != theirs:
                raise InputError(
                    f"got {shape_text(mine)}, expected {shape_text(theirs)} as {base.name} has it",
                    where=f"{name}:{tensor}",
                    fix="All experts of a mixture have one width: name models of one size",
                )
        known = set(dense)
        for tensor in weights.names():
            if ".mlp." in tensor and tensor not in known:
                raise InputError(
                    f"a {shape.name} mixture has no place for it", where=f"{name}:{tensor}", fix="Name another model"
                )


def _check_architecture(mixture: ExpertMixture, shape: MixtureShape) -> None:
    """What transformers makes of the mixture's config has a place for every tensor, and lacks none."""
    architecture = architecture_of(mixture.config)
    if architecture is None:
        return
    naming = architecture.naming((*mixture.names(), *mixture.aliases()))
    wrong: Sequence[tuple[Sequence[str], str]] = (
        (naming.unexpected, "has no place for it"), (naming.missing, "needs it, and the base lacks it"),
    )  # fmt: skip
    for tensors, what in wrong:
        for tensor in tensors:
            raise InputError(
                f"a {shape.name} mixture {what}", where=f"{mixture.base.name}:{tensor}", fix="Name another base"
            )
