"""What a training will hold in memory, told before anything is loaded: counted from headers, not measured.

Weights, gradients and AdamW's moments are exact; activations are an estimate from the shapes of a transformer.
`genepool plan` prints it.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from genepool.errors import InputError
from genepool.tasks import Example, open_model
from genepool.tasks.network import Network
from genepool.tasks.pretrained import load_tokenizer
from genepool.tasks.quantised import packed_base
from genepool.training.opened_training import OpenedTraining
from genepool.training.recipe import Training
from genepool.training.reward_ensemble import RewardModelSource, is_reward_model
from genepool.training.trained import modules_of
from genepool.weights import Weights, infer_roles, open_weights
from genepool.weights.formed.sites import sites_of

#: Entries of activations that a layer keeps for the backward pass, per token, in hidden sizes: what enters and leaves
#: the norms, projections, attention and the residual sums. Of the MLP, in inner sizes: its two inputs and its product.
_HIDDEN, _INNER = 14, 4
#: Characters of a token where no tokenizer counts them.
_CHARACTERS = 4
#: Of the examples with the most characters so many are counted in tokens: the longest is among them.
_COUNTED = 32
#: Bytes of a process that has imported torch, transformers and PEFT and loaded nothing, as measured.
_PROGRAM = 300_000_000
_SIZES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that a training holds at once.

    Attributes:
        weights: the base, in what it computes in; a teacher is taken to be as large, and so is a frozen copy of the
            base where the objective compares with it and every tensor is trained; models that rewards ask, and one that
            writes examples.
        trained: float32 values of what is trained, where they are not the weights themselves; and of their running
            mean, where one is kept.
        moments: AdamW's two, and the gradient.
        activations: of one micro-batch, an estimate.
        parameters: how many entries are trained.
        program: the process before anything is loaded.
    """

    weights: int
    trained: int
    moments: int
    activations: int
    parameters: int
    program: int = _PROGRAM

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.trained + self.moments + self.activations + self.program

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "total": self.total}


def plan_memory(opened: OpenedTraining) -> TrainingMemory:
    """What a training holds at once.

    Args:
        opened: the training, its base and its tasks.
    """
    recipe, base = opened.recipe, opened.base
    size = _SIZES[recipe.dtype]
    stored = packed_base(base) or base
    infos = [stored.info(name) for name in stored.names()]
    entries = sum(base.info(name).numel for name in base.names())
    parameters = entries if recipe.form == "full" else _factors(base, recipe) * recipe.made_objective().sets_of_factors
    own = 0 if recipe.form == "full" and size == 4 else 4 * parameters
    own += 0 if recipe.average is None else 4 * parameters
    # The gradient and two moments, in float32 whatever the model computes in.
    moments = 12 * parameters
    # What is packed stays as it is stored.
    held = sum(info.numel * size if info.is_float else info.nbytes for info in infos)
    copied = recipe.form == "full" and recipe.made_objective().needs_reference
    weights = held * (1 + (recipe.teacher is not None) + copied) + _beside(recipe) * size
    return TrainingMemory(weights, own, moments, _activations(opened, size), parameters)


def _beside(recipe: Training) -> int:
    """Entries of the models that options name: reward models and encoders, and what writes examples.

    Raises:
        InputError: one is not there.
    """
    named = [*recipe.made_objective().models(), *([] if recipe.writer is None else [recipe.writer])]
    models = [RewardModelSource(name).base if is_reward_model(name) else open_weights(name) for name in named]
    return sum(model.info(name).numel for model in models for name in model.names())


def _factors(base: Weights, recipe: Training) -> int:
    """Entries of the factors or of a form, and of what is trained whole beside them: what the training itself counts.

    Raises:
        InputError: a target names no linear layer.
    """
    if recipe.is_form:
        form = recipe.made_form([Path(task).stem for task in recipe.tasks])
        parts = form.all_shapes(sites_of(base))
        return sum(math.prod(shape) for name, shape in parts.items() if not form.frozen(name))
    kind = open_model(base).kind
    if issubclass(kind, Network) and (outline := kind.outline(base)) is not None:
        return modules_of(kind, outline, base, recipe.lora).entries(outline, recipe.lora.rank)
    roles = infer_roles({name: base.info(name) for name in base.names()})
    shapes = [
        base.info(name).matrix
        for name in base.names()
        if roles[name].part in ("attention", "mlp") and len(base.info(name).shape) == 2
    ]
    return sum(recipe.lora.rank * (rows + columns) for rows, columns in shapes)


def _activations(opened: OpenedTraining, size: int) -> int:
    """Of one micro-batch: layers, or one layer and the borders of all where they are computed again; and the logits."""
    config = opened.base.config or {}
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    assert isinstance(text, dict)

    def number(*keys: str) -> int:
        return next((value for key in keys if isinstance(value := text.get(key), int) and value > 0), 0)

    hidden, layers = number("hidden_size", "n_embd", "d_model"), number("num_hidden_layers", "n_layer", "num_layers")
    inner = number("intermediate_size", "n_inner", "d_ff") or 4 * hidden
    vocabulary = number("vocab_size")
    image, patch = number("image_size"), number("patch_size")
    longest = (image // patch) ** 2 + 1 if image and patch else _longest(opened)
    rows = opened.recipe.micro_batch or opened.recipe.batch
    tokens = rows * longest * (2 if opened.recipe.made_objective().reads_pairs else 1)
    layer = tokens * (_HIDDEN * hidden + _INNER * inner) * size
    kept = layer + layers * tokens * hidden * size if opened.recipe.activation_checkpoints else layers * layer
    # Logits in the type of the model, in float32, and their gradient.
    return kept + tokens * vocabulary * (size + 8)


def _longest(opened: OpenedTraining) -> int:
    """Tokens of the longest example, its answer included."""
    texts = sorted((_text(lesson.example) for lesson in opened.lessons.train), key=len)[-_COUNTED:]
    try:
        tokenizer = load_tokenizer(opened.base)
    except InputError:
        return max(1, len(texts[-1]) // _CHARACTERS)
    return max(1, *(len(tokenizer(text, verbose=False).input_ids) for text in texts))


def _text(example: Example) -> str:
    before = "".join(text for _, text in example.messages) or example.prompt
    return before + max(example.answer, *example.rejected, key=len)


def adapted_output(opened: OpenedTraining) -> str | None:
    """The name of the layer that writes tokens, where it gets factors.

    Args:
        opened: a recipe of factors, opened.
    """
    kind = open_model(opened.base).kind
    if not issubclass(kind, Network) or (outline := kind.outline(opened.base)) is None:
        return None
    ask = getattr(outline, "get_output_embeddings", None)
    output = None if ask is None else ask()
    layers = modules_of(kind, outline, opened.base, opened.recipe.lora).layers
    return next((name for name, one in layers.items() if one is output), None)


def factor_inputs(opened: OpenedTraining) -> dict[str, int]:
    """How many inputs each linear layer has that gets factors, by its name; empty where that cannot be told.

    Args:
        opened: a recipe of factors, opened.
    """
    kind = open_model(opened.base).kind
    if not issubclass(kind, Network) or (outline := kind.outline(opened.base)) is None:
        return {}
    layers = modules_of(kind, outline, opened.base, opened.recipe.lora).layers
    # Conv1D keeps its matrix the other way round and has no such number.
    return {name: getattr(one, "in_features", one.weight.shape[0]) for name, one in layers.items()}
