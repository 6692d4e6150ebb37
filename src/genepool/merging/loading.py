"""Recipes out of files: genepool's own dialect, or mergekit's, which is translated."""

from __future__ import annotations

from pathlib import Path

from genepool.errors import InputError, refuse_newer
from genepool.merging.mergekit import KEYS, translate, translate_documents
from genepool.merging.recipe import RECIPE_VERSION, Recipe
from genepool.schema import keys_of, read_documents, validate


def load_recipe(path: str | Path) -> Recipe:
    """Reads a recipe file, genepool's own or mergekit's.

    Raises:
        InputError: naming the file, the key and the way out.
    """
    path = Path(path)
    documents, folder = read_documents(path, keys_of(Recipe) | KEYS), path.resolve().parent
    if len(documents) == 1:
        return parse_recipe(documents[0], where=str(path), folder=folder)
    if any(isinstance(document, dict) and "genepool" in document for document in documents):
        raise InputError(
            "the file holds several documents, expected one",
            where=path,
            fix="Put the inner recipes under `recipes:` of one recipe",
        )
    return translate_documents(documents, str(path)).located(path, folder)


def parse_recipe(data: object, *, where: str = "recipe", folder: Path | None = None) -> Recipe:
    """A recipe from what a YAML file held; `genepool: 1` decides the dialect."""
    if isinstance(data, dict) and "genepool" not in data:
        return translate(data, where).located(where, folder)
    if isinstance(data, dict):
        refuse_newer("recipe", data["genepool"], RECIPE_VERSION, f"{where}:genepool")
    return validate(Recipe, data, where).located(where, folder)
