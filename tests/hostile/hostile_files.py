"""The files that may come from elsewhere, one entry each: how a good one is made, and the commands that read it.

To add a kind, add a `Kind` to `KINDS`, and to `MADE` what it is made of. The fuzzer puts its file wrong and runs its
commands in a folder that holds copies of `needs`; `{world}` stands for the good originals.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.evolution import evolve_world
from tests.hostile.composed_files import COMPOSED, WORLDS_OF_COMPOSED
from tests.hostile.kinds import MADE, Kind, made
from tests.hostile.model_files import MODEL_KINDS
from tests.hostile.run_files import RUN_KINDS

_ASK = "evaluate base --tasks tasks --limit 2 --ledger own.sqlite"
_WRITE = "generate base --prompt a --max-new-tokens 2"
_CONVERT = "skill convert adapter --base {world}/base --to low-rank --out out.safetensors"
_TUNED = "inspect {world}/base tuned"
_SEE = "evaluate digits --tasks {world}/images/tasks --task first --limit 1 --ledger own.sqlite"
_PLAY = "evaluate policy --tasks {world}/poles/tasks --task first --limit 1 --ledger own.sqlite"

KINDS = (
    Kind("recipe", "recipe.yaml", "yaml", ("plan recipe.yaml", "merge recipe.yaml out"), ("base", "tuned")),
    Kind("mergekit recipe", "mergekit.yaml", "yaml", ("plan mergekit.yaml", "merge mergekit.yaml out"),
         ("base", "tuned")),
    Kind("study", "study.yaml", "yaml", ("plan study.yaml",), ("base", "tuned", "skills", "tasks")),
    Kind("training", "training.yaml", "yaml", ("plan training.yaml",), ("base", "tasks")),
    Kind("task settings", "tasks/say/task.yaml", "yaml", (_ASK,), ("base",)),
    Kind("examples", "tasks/say/test.jsonl", "jsonl", (_ASK,), ("base",)),
    Kind("choices", "tasks/pick/test.jsonl", "jsonl", (_ASK,), ("base",)),
    Kind("template", "drawn/sums/template.yaml", "yaml", ("evaluate base --tasks drawn --limit 1",), ("base",)),
    Kind("pattern", "patterns/found/test.jsonl", "jsonl", ("evaluate base --tasks patterns",), ("base",)),
    Kind("table", "tables/rows/test.parquet", "bytes", ("evaluate base --tasks tables --limit 1",), ("base",)),
    Kind("gates", "gates.yaml", "yaml", ("compare base tuned --tasks tasks --limit 2 --gate gates.yaml",),
         ("base", "tuned", "tasks")),
    Kind("weights", "tuned/model.safetensors", "safetensors",
         (_TUNED, "merge {world}/recipe.yaml out", "skill extract tuned --base {world}/base --out out.safetensors",
          "merge recipe.yaml out"), ("recipe.yaml", "base")),
    Kind("index", "sharded/model.safetensors.index.json", "json",
         ("inspect {world}/base sharded", "skill extract sharded --base {world}/base --out out.safetensors")),
    Kind("config", "base/config.json", "json",
         (_WRITE, _ASK, "inspect base", "merge recipe.yaml out"),
         ("tasks", "recipe.yaml", "tuned")),
    Kind("generation config", "base/generation_config.json", "json", (_WRITE, "merge recipe.yaml out"),
         ("recipe.yaml", "tuned")),
    Kind("tokenizer", "base/tokenizer.json", "json", (_WRITE, "merge recipe.yaml out"),
         ("recipe.yaml", "tuned")),
    Kind("tokenizer config", "base/tokenizer_config.json", "json",
         (_WRITE, "evaluate base --tasks talks --limit 1"), ("talks",)),
    Kind("config to export", "llama/config.json", "json", ("export llama out.gguf",)),
    Kind("tokenizer to export", "llama/tokenizer.json", "json",
         ("export llama out.gguf", "generate llama --prompt a --max-new-tokens 2")),
    Kind("gguf", "base.gguf", "bytes", ("inspect base.gguf", "generate base.gguf --prompt a --max-new-tokens 2")),
    Kind("pickle", "pickled/pytorch_model.bin", "bytes", ("inspect {world}/base pickled --allow-pickle",)),
    Kind("adapter settings", "adapter/adapter_config.json", "json",
         ("inspect {world}/base adapter", _CONVERT,
          "generate {world}/base+adapter --prompt a --max-new-tokens 2")),
    Kind("adapter", "adapter/adapter_model.safetensors", "safetensors",
         ("inspect {world}/base adapter", _CONVERT)),
    Kind("skill", "skill.safetensors", "safetensors",
         ("skill show skill.safetensors", "skill apply skill.safetensors --base {world}/base --out out",
          "skill negate skill.safetensors --out out.safetensors")),
    Kind("sparse skill", "sparse.safetensors", "safetensors",
         ("skill apply sparse.safetensors --base {world}/base --out out",
          "skill convert sparse.safetensors --to low-rank --rank 2 --base {world}/base --out out.safetensors")),
    Kind("library", "library/catalogue.sqlite", "sqlite",
         ("library list --library library", "library show skill --library library", "library check --library library",
          "library map --library library --out map.html", "library export skill --library library --out out")),
    Kind("ledger", "ledger.sqlite", "sqlite",
         ("compare base tuned --tasks tasks --ledger ledger.sqlite", "outcomes export out.jsonl --ledger ledger.sqlite",
          "profile base --tasks tasks --ledger ledger.sqlite"), ("base", "tuned", "tasks")),
    Kind("requests", "requests.jsonl", "jsonl", ("generate base --requests requests.jsonl --max-new-tokens 2",),
         ("base", "adapter")),
    Kind("outcomes", "outcomes.jsonl", "jsonl", ("outcomes import outcomes.jsonl --ledger own.sqlite",)),
    Kind("winner", "run/best.json", "json", ("report run --out page.html", "top run", "collection run")),
    Kind("history", "run/history.jsonl", "jsonl", ("report run --out page.html", "top run", "collection run")),
    Kind("collection", "run/collection.jsonl", "jsonl", ("report run --out page.html", "collection run")),
    Kind("study of a run", "run/study.yaml", "yaml", ("report run --out page.html", "collection run")),
    Kind("journal of a study", "run/study.sqlite", "sqlite", ("report run --out page.html", "top run",
         "evolve {world}/study.yaml --out run --ledger own.sqlite")),
    Kind("training result", "trained/train.json", "json", ("report trained --out page.html",)),
    Kind("training journal", "trained/run.sqlite", "sqlite",
         ("report trained --out page.html", "verify-run trained --step 1")),
    Kind("form of adapter", "formed/form/form.json", "json",
         ("inspect {world}/base {world}/base+formed/form",
          "generate {world}/base+formed/form --prompt a --max-new-tokens 2",
          "skill convert formed/form --base {world}/base --to dense --out out.safetensors")),
    Kind("tensors of a form", "formed/form/tensors.safetensors", "safetensors",
         ("generate {world}/base+formed/form --prompt a --max-new-tokens 2",
          "skill convert formed/form --base {world}/base --to dense --out out.safetensors")),
    Kind("composition", "composed/composition.json", "json",
         ("inspect {world}/base composed#tuned", "generate composed --prompt a --max-new-tokens 2",
          "evaluate composed --tasks tasks --limit 1"),
         ("tasks",)),
    Kind("digits config", "digits/config.json", "json", (_SEE, "inspect digits")),
    Kind("policy config", "policy/config.json", "json", (_PLAY, "inspect policy")),
    *(Kind(f"composition by {method}", f"by_{method}/composition.json", "json",
           (one.asked.replace("{folder}", f"by_{method}"),), row="saved compositions: settings")
      for method, one in COMPOSED.items()),
    *(Kind(f"router of {method}", f"by_{method}/router.safetensors", "tensors",
           (one.asked.replace("{folder}", f"by_{method}"),), row="saved compositions: tensors")
      for method, one in COMPOSED.items() if one.learned),
    *RUN_KINDS,
    *MODEL_KINDS,
)  # fmt: skip


@made("base", "adapter")
def requests(folder: Path) -> None:
    """A prompt for an adapter, and one for the base."""
    rows = [{"prompt": "a", "skill": "adapter"}, {"prompt": "b"}]
    (folder / "requests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@made()
def base(folder: Path) -> None:
    """The base, its fine-tune `tuned` and the tasks."""
    evolve_world.build_world(folder)
    (folder / "skills" / "a").rename(folder / "tuned")


MADE["tuned"] = MADE["tasks"] = MADE["skills"] = (("base",), lambda _: None)


def _yaml(name: str, text: str, *needs: str) -> None:
    MADE[name] = (needs, lambda folder: (folder / f"{name}.yaml").write_text(text))


_yaml("recipe", """\
genepool: 1
method: dare_ties
base: base
models:
  - model: tuned
    parameters: {weight: 0.5, density: [0.1, 0.9]}
  - base
parameters: {lambda: 1.0}
seed: 3
""", "base")  # fmt: skip
_yaml("mergekit", """\
merge_method: ties
base_model: base
slices:
  - sources:
      - {model: base, layer_range: [0, 2]}
      - {model: tuned, layer_range: [0, 2], parameters: {weight: [{filter: mlp, value: [0.1, 0.5]}, {value: 1}]}}
parameters: {normalize: true, int8_mask: true, density: 0.5}
dtype: bfloat16
tokenizer: {source: union, tokens: {"a": {source: base}}}
""", "base")  # fmt: skip
_yaml("study", """\
study: 1
base: base
skills: [tuned, skills/b]
method: task_arithmetic
parameters: {lambda: 1.0}
search: {weight: {low: 0.0, high: 1.0, start: 0.4, per: {layer_groups: 2}}}
tasks: {dir: tasks, valid: 4}
budget: {evaluations: 8}
strategy: {name: cma_es, options: {sigma: 0.2}}
seed: 1
""", "base")  # fmt: skip
_yaml("training", """\
train: 1
base: base
tasks: [tasks/say]
form: lora
lora: {rank: 2, alpha: 4}
objective: likelihood
steps: 2
batch: 2
schedule: cosine
""", "base")  # fmt: skip
_yaml("gates", """\
gates:
  - {task: say, measure: negative_flips, at_most: 1.0}
  - {task: mean, measure: score, at_least: 0.0, judged_by: estimate}
forgets: 1.0
""", "base")  # fmt: skip


@made("base")
def drawn(folder: Path) -> None:
    """A task that a template draws."""
    (folder / "drawn" / "sums").mkdir(parents=True)
    (folder / "drawn" / "sums" / "template.yaml").write_text(
        "variables:\n  a: {integer: [0, 99]}\n  b: {choice: [1, 2]}\n  c: {letters: [1, 3]}\n"
        "  d: {number: [0.0, 1.0]}\n"
        'prompt: "{{ a }}+{{ b }}{{ c }}"\nanswer: "{{ a + b }}"\ntags: ["{{ c }}"]\nonly_if: "{{ a != b }}"\n'
        "counts: {valid: 2, test: 2}\nseed: 1\n"
    )


def _task(folder: Path, settings: str, lines: list[dict[str, object]]) -> None:
    folder.mkdir(parents=True)
    (folder / "task.yaml").write_text(settings)
    (folder / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@made("base")
def patterns(folder: Path) -> None:
    """A task whose answers are regular expressions."""
    _task(folder / "patterns" / "found", "metric: regex\n", [{"prompt": "a", "answer": "[a-z]+"}] * 2)


@made("base")
def talks(folder: Path) -> None:
    """A task of conversations, put through a chat template, which the base then has."""
    lines: list[dict[str, object]] = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    ]
    _task(folder / "talks" / "talk", "metric: exact_match\nmax_new_tokens: 2\n", lines)
    settings = folder / "base" / "tokenizer_config.json"
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "chat_template": template}))


@made("base")
def tables(folder: Path) -> None:
    """A task as a Parquet file."""
    import pyarrow
    import pyarrow.parquet

    (folder / "tables" / "rows").mkdir(parents=True)
    (folder / "tables" / "rows" / "task.yaml").write_text("metric: exact_match\nmax_new_tokens: 2\n")
    rows = pyarrow.table({"prompt": ["a", "b"], "answer": ["b", "a"]})
    pyarrow.parquet.write_table(rows, folder / "tables" / "rows" / "test.parquet")


@made("base")
def sharded(folder: Path) -> None:
    """The fine-tune in several files with an index."""
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(folder / "tuned").save_pretrained(folder / "sharded", max_shard_size="8KB")


@made()
def llama(folder: Path) -> None:
    """A model that llama.cpp knows."""
    from tests.weights.gguf_world import byte_level, tiny_model

    tiny_model(folder / "llama", "qwen2", byte_level("gpt-2"))


@made("base")
def owned(folder: Path) -> None:
    """Tasks that are called like the skills, with a split to learn from."""
    import shutil

    for skill in ("tuned", "b"):
        shutil.copytree(folder / "tasks" / "say", folder / "owned" / skill)


@made("base")
def pickled(folder: Path) -> None:
    """The fine-tune as PyTorch's own file."""
    import shutil

    import torch
    from safetensors.torch import load_file

    (folder / "pickled").mkdir()
    shutil.copy(folder / "tuned" / "config.json", folder / "pickled")
    torch.save(load_file(folder / "tuned" / "model.safetensors"), folder / "pickled" / "pytorch_model.bin")


@made("base")
def adapter(folder: Path) -> None:
    """A LoRA adapter of the base."""
    evolve_world.build_adapter(folder)


def _copy_of(path: str, name: str) -> Callable[[Path], None]:
    def copy(folder: Path) -> None:
        import shutil

        shutil.copytree(folder / path, folder / name)

    return copy


MADE |= {world: ((), make) for world, make in WORLDS_OF_COMPOSED.items()}
MADE |= {f"by_{method}": ((one.world,), one.line(method, f"by_{method}")) for method, one in COMPOSED.items()}
MADE |= {
    "digits": (("images",), _copy_of("images/base", "digits")),
    "policy": (("poles",), _copy_of("poles/base", "policy")),
    "base.gguf": (("llama",), "export llama base.gguf"),
    "skill": (("base",), "skill extract tuned --base base --out skill.safetensors --name skill"),
    "sparse": (("skill",), "skill convert skill.safetensors --to sparse --out sparse.safetensors"),
    "library": (
        ("skill",), "library init --library library\nlibrary add skill.safetensors --library library --score say=0.5",
    ),
    "ledger": (("base",), "evaluate base tuned --tasks tasks --limit 2 --ledger ledger.sqlite"),
    "outcomes": (("ledger",), "outcomes export outcomes.jsonl --ledger ledger.sqlite"),
    "run": (("study",), "evolve study.yaml --out run --ledger ledger.sqlite"),
    "trained": (("base",), "train tasks/say --base base --out trained --steps 2 --batch 2 --ledger ledger.sqlite"),
    "formed": (
        ("base",), "train tasks/say --base base --form hydra --out formed --steps 2 --batch 2 --ledger ledger.sqlite",
    ),
    "composed": (
        ("owned",), "compose twin_merging tuned skills/b --base base --tasks owned --examples 2 --out composed",
    ),
}  # fmt: skip
