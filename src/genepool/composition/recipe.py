"""The composition file: what is composed, how and on which examples, as read from a file with the key `compose: 1`.

A pydantic model of the YAML a user writes, and its reader. The options of `genepool compose` fill in the same model.
Opens no model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from genepool.errors import InputError
from genepool.schema import PartError, Strict, read_yaml, validate, validate_part


class Composing(Strict):
    """One composition, as read from a file with the key `compose: 1`."""

    page = "reference/compose"

    compose: Literal[1] = Field(default=1, description="Version of this format; marks a file as a composition.")
    method: str = Field(description="The composer; `genepool compose --list` shows them.")
    base: str = Field(description="The model that the skills belong to: a folder, a file or a hub model.")
    skills: tuple[str, ...] = Field(
        default=(), description="Fine-tunes, PEFT adapters or skill files; none for composers that make their own."
    )
    tasks: str | None = Field(
        default=None, description="Folder of tasks; a task belongs to the skill of its name, others to the base."
    )
    task: tuple[str, ...] = Field(default=(), description="Use only these tasks of the folder; all when empty.")
    examples: int = Field(default=64, ge=1, description="Training examples of each task, at most, drawn by the seed.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the composer.")
    fold: bool = Field(
        default=True,
        description="Write a checkpoint or an adapter where the composition folds; false: keep it beside its skills.",
    )
    bundle: bool = Field(default=False, description="Put the skills into the folder of a composition that is kept.")
    seed: int = Field(default=0, ge=0, lt=2**63, description="Decides the examples and every draw.")
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = Field(
        default="float32", description="What the network computes in; coefficients are kept in float32."
    )

    @model_validator(mode="after")
    def _known(self) -> Composing:
        from genepool.composition.composer import find_composer

        try:
            kind = find_composer(self.method)
        except InputError as error:
            raise PartError(InputError(error.what, where="method", fix=error.fix)) from None
        validate_part(kind.Options, self.options, "options")
        if not self.skills and kind.skills[0]:
            raise PartError(InputError("no skills are named", where="skills", fix="Name the skills to compose"))
        if kind.needs != "nothing" and self.tasks is None:
            raise PartError(
                InputError("no tasks are named, and it learns from examples", where="tasks", fix="Name them")
            )
        if self.bundle and kind.members == "models":
            raise PartError(
                InputError(
                    f"{self.method} composes whole models, and only changes of the base go into the folder",
                    where="bundle",
                    fix="Leave it out; the folder keeps their paths and hashes",
                )
            )
        return self

    def located(self, folder: Path) -> Composing:
        """The same with paths that are relative to the file's folder made so that they can be found from here."""

        def found(path: str) -> str:
            inside = folder / path
            return str(inside) if not Path(path).is_absolute() and inside.exists() else path

        return self.model_copy(
            update={
                "base": found(self.base),
                "skills": tuple(map(found, self.skills)),
                "tasks": None if self.tasks is None else found(self.tasks),
                "options": self._options_with(found),
            }
        )

    def _options_with(self, found: Callable[[str], str]) -> dict[str, Any]:
        """The options, with the paths of the models among them replaced."""
        from genepool.composition.composer import find_composer

        models = find_composer(self.method).Options.models
        return {key: found(value) if key in models and value else value for key, value in self.options.items()}

    def text(self) -> str:
        """The file that says it, with paths that can be found from anywhere."""

        def found(path: str) -> str:
            return str(Path(path).resolve()) if Path(path).exists() else path

        said: dict[str, Any] = {"compose": 1, **self.model_dump(mode="json", exclude_defaults=True)}
        said["base"], said["skills"] = found(self.base), [found(skill) for skill in self.skills]
        if self.tasks is not None:
            said["tasks"] = found(self.tasks)
        if self.options:
            said["options"] = self._options_with(found)
        return str(yaml.safe_dump(said, sort_keys=False, allow_unicode=True))


def is_composing(path: Path) -> bool:
    """Whether a path is a YAML file with the key `compose`."""
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return False
    data = read_yaml(path)
    return isinstance(data, Mapping) and "compose" in data


def load_composing(path: Path) -> Composing:
    """Reads a composition file.

    Raises:
        InputError: naming the key that is wrong; a version from the future is refused.
    """
    data = read_yaml(path)
    if isinstance(data, dict) and type(data.get("compose")) is int and data["compose"] != 1:
        raise InputError(
            f"its format is {data['compose']}, and this version reads 1",
            where=f"{path}:compose",
            fix="Install a newer genepool",
        )
    return validate(Composing, data, path).located(path.parent)
