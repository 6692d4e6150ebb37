"""The recipes: of the best of each search, its numbers in the ranges they were searched in, and the file to run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import yaml

from genepool.evolution.records import genes_of
from genepool.report import markdown
from genepool.report.bars import gene_bar
from genepool.report.recipe_figure import GeneValue, RecipePicture, panels, shade
from genepool.report.sections import Section
from genepool.report.study_folder import StudyFolder
from genepool.report.text import clean

if TYPE_CHECKING:
    from genepool.report.page import Report
    from genepool.report.study_outcomes import StudyOutcomes

#: Of the candidates, the share (and the least number) whose genes show how far the search was decided.
BETTER_SHARE, BETTER_LEAST = 0.1, 5


@dataclass(frozen=True)
class Recipes(Section):
    """Pictures of recipes."""

    recipes: tuple[RecipePicture, ...] = ()

    name = "recipe"
    title = "Recipe"
    order = 80

    @classmethod
    def collect(cls, study: StudyOutcomes) -> Self | None:
        pictures = [_picture(name, folder) for name, folder in study.folders.items()]
        extra = study.extras.get(study.best_merge)
        if extra is not None and extra.recipe:
            pictures.append(RecipePicture(extra.name, extra.method, text=extra.recipe))
        return cls(tuple(one for one in pictures if one.genes or one.text))

    def drawn(self, report: Report) -> dict[str, Any] | None:
        recipes = [(recipe, panels(recipe)) for recipe in self.recipes]
        return {"recipes": recipes, "shade": shade, "gene_bar": gene_bar} if recipes else None

    def markdown(self, report: Report) -> list[str]:
        lines: list[str] = []
        for recipe in self.recipes:
            if recipe.text:
                lines += [f"{markdown.plain(recipe.name)} ({markdown.plain(recipe.method)}):", ""]
                lines += markdown.fenced(clean(recipe.text), "yaml")
        return ["## Recipes", "", *lines] if lines else []

    def values(self) -> dict[str, Any]:
        return {
            "recipes": [
                {
                    "model": recipe.name,
                    "method": recipe.method,
                    "genes": [asdict(gene) for gene in recipe.genes],
                    "recipe": recipe.text,
                }
                for recipe in self.recipes
            ]
        }


def _picture(name: str, folder: StudyFolder) -> RecipePicture:
    genes, spread_of = _genes(folder)
    recipe = (folder.best or {}).get("recipe")
    text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=110) if recipe else ""
    label = name if folder.best is not None else f"{name}, best so far"
    return RecipePicture(label, folder.study.how, genes, text, spread_of)


def _genes(folder: StudyFolder) -> tuple[tuple[GeneValue, ...], str]:
    """The genes of the winner (of the best so far while unfinished), and what their spread was taken over."""
    leader, search = folder.best or folder.leader, folder.study.vary.searched
    if leader is None or not search:
        return (), ""
    better = [genes_of(line, search) for line in _better(folder)]
    spreads = {
        place: (min(genes[place] for genes in better), max(genes[place] for genes in better))
        for place in genes_of(leader, search)
        if better and all(place in genes for genes in better)
    }
    genes = tuple(
        GeneValue(*place, value, search[place.parameter].low, search[place.parameter].high, spreads.get(place))
        for place, value in genes_of(leader, search).items()
        if place.parameter in search
    )
    return genes, f"the best {len(better)} of {len(folder.history)} candidates" if spreads else ""


def _better(folder: StudyFolder) -> list[dict[str, Any]]:
    """The best of the candidates, where there are enough of them."""
    good = sorted(
        (line for line in folder.history if line["fitness"] is not None), key=lambda line: -float(line["fitness"])
    )
    count = max(BETTER_LEAST, round(BETTER_SHARE * len(good)))
    return good[:count] if len(good) >= 2 * BETTER_LEAST else []
