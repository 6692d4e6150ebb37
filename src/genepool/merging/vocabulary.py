"""The vocabularies of a recipe's models: checked to be one, padded at the end, or brought into one."""

from __future__ import annotations

from collections.abc import Mapping

from genepool import progress
from genepool.errors import InputError, listed
from genepool.merging.recipe import Recipe
from genepool.merging.tokenizer_section import UNION, TokenizerSection
from genepool.weights import Weights
from genepool.weights.vocabulary import aligned, padded
from genepool.weights.vocabulary.comparison import vocabularies, vocabulary_conflicts, without_description
from genepool.weights.vocabulary.joining import JoinedVocabulary, joined_note


def check_vocabularies(sources: Mapping[str, Weights], where: str, fix: str) -> None:
    """Refuses models whose tokenizers give one token two ids, or one id two tokens: such rows must not be added up.

    Args:
        sources: the models by name.
        where: the recipe, for errors.
        fix: the way out of vocabularies that differ.

    Raises:
        InputError: naming the first token and both ids, or the id and both tokens; or a tokenizer that contradicts
            itself.
    """
    found = vocabularies(sources)
    for conflict in vocabulary_conflicts(found):
        raise InputError(str(conflict), where=where, fix=fix)
    if unknown := without_description(sources, found):
        progress.message(
            f"note: the vocabulary of {listed(unknown)} is not compared: no file beside the model says its tokens."
        )


def in_one_vocabulary(
    recipe: Recipe, sources: Mapping[str, Weights]
) -> tuple[dict[str, Weights], JoinedVocabulary | None]:
    """The models as they are merged, so that rows of one number stand for one token.

    Args:
        recipe: what to merge.
        sources: its models by name, in one layout, the base first.

    Returns:
        The models, and the vocabulary that they were brought into; None where they keep theirs.

    Raises:
        InputError: the vocabularies differ and the recipe does not say how to join them, or they cannot be joined.
    """
    if recipe.vocabulary != "aligned":
        _refuse_joining(recipe)
        if recipe.vocabulary != "unchecked":
            check_vocabularies(sources, recipe.where, _way_out(recipe))
        return (padded(sources) if recipe.vocabulary == "padded" else dict(sources)), None
    section = recipe.tokenizer if isinstance(recipe.tokenizer, TokenizerSection) else None
    for key, model in section.models() if section is not None else ():
        if model not in sources:
            raise InputError(
                f"'{model}' is not one of the models",
                where=f"{recipe.where}:tokenizer.{key}",
                fix="Write one of: " + ", ".join(sources),
            )
    first = recipe.base or next(iter(sources))
    joined = JoinedVocabulary(
        sources,
        recipe.base,
        first if recipe.tokenizer_source == "base" else recipe.tokenizer_source,
        {token: entry.row for token, entry in section.tokens.items()} if section is not None else {},
        section.pad_to_multiple_of if section is not None else None,
        recipe.where,
    )
    if not joined.is_changed:
        return dict(sources), joined
    if note := joined_note(joined):
        progress.message(f"note: {note}.")
    return aligned(sources, joined.alignment), joined


def _refuse_joining(recipe: Recipe) -> None:
    """Refuses a tokenizer of joined tokens where the recipe, or the command line, says that rows stay as they are."""
    if recipe.tokenizer_source == UNION or isinstance(recipe.tokenizer, TokenizerSection):
        raise InputError(
            f"a joined vocabulary contradicts `vocabulary: {recipe.vocabulary}`",
            where=f"{recipe.where}:tokenizer",
            fix="Remove one of them",
        )


def _way_out(recipe: Recipe) -> str:
    if recipe.lenient:
        return "Say `tokenizer_source: union` to line the rows up by token, or pass --unchecked-vocabulary"
    return "Say `tokenizer: union` to line the rows up by token, or `vocabulary: unchecked` to merge them as they are"
