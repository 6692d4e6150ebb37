"""Prints as JSON everything a user can write for mergekit: options of its commands, keys of its files, parameters.

Run by the Python of mergekit's own environment; uses nothing of genepool. Commands are read, not imported: some need
libraries that are not installed.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any

import mergekit
import mergekit.merge_methods
from mergekit import config, tokenizer
from mergekit.evo.config import EvolMergeConfiguration, TaskConfiguration
from mergekit.evo.genome import ModelGenomeDefinition
from mergekit.merge_methods import registry
from mergekit.moe.config import Expert, MoEMergeConfig
from mergekit.options import MergeOptions
from pydantic import BaseModel


def options(script: Path) -> Iterator[str]:
    """The arguments and options that decorators of a script declare, without those of every merge."""
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("option", "argument")
        ):
            words = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
            long = [word for word in words if str(word).startswith("--")]
            yield str((long or words)[0]).partition("/")[0] if long else str(words[0]).upper()


def choices(script: Path, name: str) -> list[str]:
    """The values of an enumeration that a script defines."""
    return [
        line.value.value
        for node in ast.walk(ast.parse(script.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and node.name == name
        for line in node.body
        if isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant)
    ]


def keys(*models: type[BaseModel]) -> list[str]:
    return [name for model in models for name in model.model_fields]


def parameters() -> dict[str, list[str]]:
    return {
        method.spec.name: sorted({one.name for one in (*method.spec.shared_parameters, *method.spec.input_parameters)})
        for method in sorted(registry.registered_methods(), key=lambda one: one.spec.name)
    }


def main() -> None:
    scripts = {
        point.name: Path(mergekit.__file__).parent / "scripts" / f"{point.module.rpartition('.')[2]}.py"
        for point in distribution("mergekit").entry_points
        if point.group == "console_scripts"
    }
    commands = {name: list(dict.fromkeys(options(path))) for name, path in sorted(scripts.items())}
    surgeon = "mergekit-tokensurgeon"
    commands[f"{surgeon} --approximation-method"] = choices(scripts[surgeon], "ApproximationMethod")
    found: dict[str, Any] = {
        "versions": {name: version(name) for name in ("mergekit", "torch")},
        "commands": dict(sorted(commands.items())),
        "every merge": [f"--{name.replace('_', '-')}" for name in MergeOptions.model_fields],
        "keys": {
            "recipe": keys(config.MergeConfiguration),
            "slice": keys(config.OutputSliceDefinition),
            "source or model": list(dict.fromkeys(keys(config.InputSliceDefinition, config.InputModelDefinition))),
            "module": keys(config.OutputModuleDefinition),
            "tokenizer": keys(tokenizer.config.TokenizerConfig),
            "mixture": keys(MoEMergeConfig),
            "expert": keys(Expert),
            "evolve": keys(EvolMergeConfiguration),
            "genome": keys(ModelGenomeDefinition),
            "task": keys(TaskConfiguration),
        },
        "methods": parameters(),
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
