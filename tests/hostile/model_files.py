"""Files of models beyond the plain ones: PEFT's other methods, quantised checkpoints, other kinds of model.

Added to the kinds of `hostile_files`. Of every method of PEFT and every scheme of quantisation the fuzzer puts the
settings wrong, and the tensors.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.hostile.kinds import MADE, Kind, made

_TESTS = Path(__file__).parents[1]

#: Of PEFT's methods: the settings of one adapter each, as `benchmarks.adapters.cases` has them.
_METHODS: dict[str, dict[str, Any]] = {
    "dora": {"kind": "LORA", "use_dora": True}, "adalora": {"total_step": 10, "init_r": 6, "lora_alpha": 5},
    "boft": {"boft_block_size": 8}, "c3a": {"block_size": 16}, "deft": {"r": 4}, "delora": {"r": 4},
    "fourierft": {"n_frequency": 50}, "frod": {}, "glora": {"r": 3}, "gralora": {"r": 4}, "hira": {"r": 4},
    "hra": {"r": 4}, "ia3": {"feedforward_modules": ["down_proj"]}, "loha": {"r": 3, "alpha": 5},
    "lokr": {"r": 2, "decompose_both": True, "decompose_factor": 2}, "miss": {"r": 8}, "oft": {"oft_block_size": 8},
    "osf": {"effective_rank": 8}, "peanut": {"r": 4}, "psoft": {"r": 4}, "pvera": {"r": 8}, "randlora": {"r": 4},
    "road": {"group_size": 16}, "shira": {"r": 2}, "supertuning": {"r": 2, "lora_alpha": 4}, "tinylora": {},
    "unilora": {"theta_d_length": 30}, "vblora": {"vector_length": 16, "num_vectors": 10}, "vera": {"r": 8},
    "waveft": {"n_frequency": 50},
}  # fmt: skip
_SCHEMES = (
    "awq_gemm", "bitsandbytes_int8", "bitsandbytes_nf4_nested", "compressed_tensors_float8_blocks",
    "compressed_tensors_int4_zeros", "compressed_tensors_nvfp4", "fp8_blocks", "gptq_4_bits", "gptq_3_bits_v2_ordered",
    "mxfp4",
)  # fmt: skip


def _method_kinds() -> tuple[Kind, ...]:
    found = []
    for name in _METHODS:
        place, row = f"peft_{name}", "PEFT's other methods"
        typed = (f"skill convert {place} --base {{world}}/large --to dense --out out.safetensors",)
        settings, tensors = f"{place}/adapter_config.json", f"{place}/adapter_model.safetensors"
        found.append(Kind(f"settings of {name}", settings, "json", typed, row=f"{row}: settings"))
        found.append(Kind(f"tensors of {name}", tensors, "tensors", typed, row=f"{row}: tensors"))
    return tuple(found)


def _scheme_kinds() -> tuple[Kind, ...]:
    found = []
    for name in _SCHEMES:
        place, row = f"quantised_{name}", "quantised checkpoints"
        typed, beside = (f"merge {place}.yaml out", f"inspect {place}"), (f"{place}.yaml",)
        config, tensors = f"{place}/config.json", f"{place}/model.safetensors"
        found.append(Kind(f"config in {name}", config, "json", typed, beside, row=f"{row}: config"))
        found.append(Kind(f"weights in {name}", tensors, "tensors", typed[:1], beside, row=f"{row}: tensors"))
    return tuple(found)


MODEL_KINDS = (
    *_method_kinds(),
    *_scheme_kinds(),
    *(Kind(f"settings of a {kind}", f"soft_{kind}/adapter_config.json", "json",
           (f"generate {{world}}/base+soft_{kind} --prompt a --max-new-tokens 2",))
      for kind in ("prompt", "prefix")),
    *(Kind(f"tensors of a {kind}", f"soft_{kind}/adapter_model.safetensors", "tensors",
           (f"generate {{world}}/base+soft_{kind} --prompt a --max-new-tokens 2",))
      for kind in ("prompt", "prefix")),
    Kind("settings of a p-tuning", "soft_ptuning/adapter_config.json", "json",
         ("inspect {world}/base+soft_ptuning", "inspect soft_ptuning"), refused=True),
    Kind("adapter in GGUF", "lora.gguf", "bytes",
         ("generate {world}/llama+lora.gguf --prompt a --max-new-tokens 2",
          "skill convert lora.gguf --base {world}/llama --to low-rank --out out.safetensors")),
    Kind("keys of a GGUF file", "base.gguf", "gguf",
         ("inspect base.gguf", "generate base.gguf --prompt a --max-new-tokens 2", "merge gguf.yaml out"),
         ("gguf.yaml",)),
    Kind("notes beside an adapter", "tuned_head/adapter/genepool.json", "json",
         ("inspect {world}/body+tuned_head/adapter",
          "evaluate {world}/body+tuned_head/adapter --tasks sides --limit 1 --ledger own.sqlite"),
         ("sides",)),
    Kind("classifier config", "classifier/config.json", "json",
         ("evaluate classifier --tasks feelings --limit 2 --ledger own.sqlite", "inspect classifier"), ("feelings",)),
    Kind("translator config", "translator/config.json", "json",
         ("generate translator --prompt ab= --max-new-tokens 2", "inspect translator")),
    Kind("image processor", "vit/preprocessor_config.json", "json",
         ("evaluate vit --tasks pictures --limit 2 --ledger own.sqlite",), ("pictures",)),
    Kind("image", "pictures/animals/pictures/0.png", "bytes",
         ("evaluate vit --tasks pictures --limit 2 --ledger own.sqlite",), ("vit",)),
    Kind("examples of images", "pictures/animals/test.jsonl", "jsonl",
         ("evaluate vit --tasks pictures --limit 2 --ledger own.sqlite",), ("vit",)),
    Kind("episodes", "episodes/first/test.jsonl", "jsonl",
         ("evaluate policy --tasks episodes --task first --limit 1 --ledger own.sqlite",), ("policy",)),
    Kind("conversations", "talks/talk/test.jsonl", "jsonl", ("evaluate base --tasks talks --limit 1",), ("base",)),
    Kind("examples as CSV", "listed/rows/test.csv", "bytes", ("evaluate base --tasks listed --limit 1",), ("base",)),
    Kind("chat template", "templated/chat_template.jinja", "jinja",
         ("evaluate templated --tasks talks --limit 1", "inspect templated", "merge templated.yaml out"),
         ("talks", "templated.yaml", "base")),
    Kind("special tokens", "special/special_tokens_map.json", "json",
         ("generate special --prompt a --max-new-tokens 2",
          "vocabulary transplant special --tokenizer special --out out")),
    Kind("sentencepiece model", "pieces/tokenizer.model", "bytes", ("inspect pieces", "merge pieces.yaml out"),
         ("pieces.yaml", "base")),
    Kind("card of a model", "carded/README.md", "bytes", ("init project carded --base {world}/base",)),
    Kind("notes of a merge", "merged/genepool.json", "json",
         ("init project merged --base {world}/base", "inspect merged")),
    Kind("statistics of a model", "statistics/router.safetensors", "tensors", ("merge fisher.yaml out",),
         ("fisher.yaml", "images")),
    Kind("mixture", "mixture.yaml", "yaml", ("plan mixture.yaml", "merge mixture.yaml out"), ("base", "tuned")),
    Kind("nested recipe", "nested.yaml", "yaml", ("plan nested.yaml", "merge nested.yaml out"), ("base", "tuned")),
    Kind("mergekit-evolve's file", "evolved.yaml", "yaml", ("plan evolved.yaml --tasks tasks",),
         ("base", "tuned", "tasks")),
    Kind("bred study", "bred.yaml", "yaml", ("plan bred.yaml",), ("base", "tuned", "skills", "tasks")),
    Kind("population of a study", "breeding/population/*.safetensors", "tensors",
         ("evolve bred.yaml --out breeding --ledger own.sqlite", "collection breeding --write winner --out out"),
         ("bred.yaml", "base", "tuned", "skills", "tasks")),
    Kind("lineage of an export", "exported/lineage.json", "json", ("library import exported --library shelf",),
         ("shelf",)),
    Kind("skill in a library", "library/files/*/*.safetensors", "safetensors",
         ("library check --library library", "library export skill --library library --out out",
          "library show skill --library library")),
    Kind("log of lifelong learning", "lifelong.csv", "bytes", ("measure lifelong lifelong.csv",)),
    Kind("curve", "curve.csv", "bytes", ("measure curve curve.csv --at 10000 --horizon 2000",)),
    Kind("samples of lm-eval", "samples.jsonl", "jsonl",
         ("outcomes import samples.jsonl --model base --task say --ledger own.sqlite",)),
    Kind("users of a personal form", "users.safetensors", "tensors",
         ("train tasks/say --base base --form personal --set form.users=users.safetensors --set form.width=4 --steps 1 "
          "--batch 2 --test 2 --out out --ledger own.sqlite",),
         ("base", "tasks")),
)  # fmt: skip


def _tiny() -> Any:
    """The makers of tiny models of every kind, which lie in the folder of another room's tests."""
    if str(_TESTS / "tasks") not in sys.path:
        sys.path.append(str(_TESTS / "tasks"))
    import tiny_models

    return tiny_models


@made()
def large(folder: Path) -> None:
    """The base of PEFT's methods."""
    from benchmarks.adapters.cases import build_base

    build_base("llama", folder / "bases").rename(folder / "large")


def _method(name: str, settings: dict[str, Any]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        from benchmarks.adapters.cases import Case, build_adapter

        given = dict(settings)
        build_adapter(Case(given.pop("kind", name.upper()), given), folder / "large", folder / f"peft_{name}")

    return make


def _scheme(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        from tests.weights.quantised_models import example

        example(name).write(folder / f"quantised_{name}")
        told = {"genepool": 1, "method": "linear", "models": [f"quantised_{name}"]}
        (folder / f"quantised_{name}.yaml").write_text(yaml.safe_dump(told))

    return make


MADE |= {f"peft_{name}": (("large",), _method(name, settings)) for name, settings in _METHODS.items()}
MADE |= {f"quantised_{name}": ((), _scheme(name)) for name in _SCHEMES}


def _soft(kind: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        import peft
        import torch
        from transformers import AutoModelForCausalLM

        classes = {
            "prompt": peft.PromptTuningConfig, "prefix": peft.PrefixTuningConfig, "ptuning": peft.PromptEncoderConfig,
        }  # fmt: skip
        torch.manual_seed(0)
        base = AutoModelForCausalLM.from_pretrained(folder / "base")
        settings = classes[kind](task_type="CAUSAL_LM", num_virtual_tokens=3)
        peft.get_peft_model(base, settings).save_pretrained(str(folder / f"soft_{kind}"))

    return make


MADE |= {f"soft_{kind}": (("base",), _soft(kind)) for kind in ("prompt", "prefix", "ptuning")}


@made("llama")
def lora(folder: Path) -> None:
    """An adapter for llama.cpp."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "llama")
    settings = LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    get_peft_model(model, settings).save_pretrained(str(folder / "llama_adapter"))


MADE["lora.gguf"] = (("lora",), "export llama_adapter lora.gguf --base llama")


def _yaml(name: str, *needs: str, **told: Any) -> None:
    MADE[name] = (needs, lambda folder: (folder / f"{name}.yaml").write_text(yaml.safe_dump(told)))


_yaml("gguf", genepool=1, method="linear", models=["base.gguf"])


@made()
def headed(folder: Path) -> None:
    """A body without a head, which a task of classes gives one: the adapter that comes out has notes beside it."""
    import torch
    import transformers

    settings = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    tiny = _tiny()
    torch.manual_seed(0)
    tokenizer = tiny.character_tokenizer()
    config = transformers.BertConfig(**settings, vocab_size=len(tokenizer), pad_token_id=0)
    transformers.BertModel(config).save_pretrained(folder / "body")
    tokenizer.save_pretrained(folder / "body")
    place = folder / "sides" / "side"
    place.mkdir(parents=True)
    (place / "task.yaml").write_text("classes: [good, bad]\n")
    lines = [{"prompt": "ab", "answer": "good"}, {"prompt": "cd", "answer": "bad"}]
    for split in ("train", "valid", "test"):
        (place / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


MADE["sides"] = MADE["body"] = (("headed",), lambda _: None)
MADE["tuned_head"] = (
    ("headed",), "train sides/side --base body --lora 2 --out tuned_head --steps 1 --batch 2 --ledger own.sqlite",
)  # fmt: skip


@made()
def classifier(folder: Path) -> None:
    """A classifier of texts, and a task of its labels."""
    _tiny().write_classifier(folder / "classifier")
    place = folder / "feelings" / "feeling"
    place.mkdir(parents=True)
    (place / "task.yaml").write_text("metric: exact_match\n")
    lines = [{"prompt": "ab", "answer": "good"}, {"prompt": "cd", "answer": "bad"}]
    (place / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


MADE["feelings"] = (("classifier",), lambda _: None)


@made()
def translator(folder: Path) -> None:
    """An encoder-decoder."""
    _tiny().write_translator(folder / "translator")


@made()
def vit(folder: Path) -> None:
    """A classifier of images, and a task of pictures."""
    import numpy as np
    from PIL import Image

    _tiny().write_image_classifier(folder / "vit")
    place = folder / "pictures" / "animals"
    (place / "pictures").mkdir(parents=True)
    generator = np.random.default_rng(0)
    lines = []
    for number in range(2):
        values = generator.integers(0, 256, (12, 9, 3), dtype=np.uint8)
        Image.fromarray(values).save(place / "pictures" / f"{number}.png")
        lines.append({"image": f"pictures/{number}.png", "answer": ("cat", "dog")[number]})
    (place / "task.yaml").write_text("input: image\n")
    (place / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


MADE["pictures"] = (("vit",), lambda _: None)


@made("poles")
def episodes(folder: Path) -> None:
    """Episodes of a pole."""
    shutil.copytree(folder / "poles" / "tasks", folder / "episodes")


@made("base")
def listed(folder: Path) -> None:
    """A task as a CSV file."""
    place = folder / "listed" / "rows"
    place.mkdir(parents=True)
    (place / "task.yaml").write_text("metric: exact_match\nmax_new_tokens: 2\n")
    with (place / "test.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["prompt", "answer"], ["a", "b"], ["b, c", "a"]])


@made("base", "talks")
def templated(folder: Path) -> None:
    """The base with its chat template in a file of its own, and a recipe that merges it."""
    shutil.copytree(folder / "base", folder / "templated")
    (folder / "templated" / "chat_template.jinja").write_text(
        "{% for message in messages %}{% if message.role == 'user' %}<{{ message.content | trim }}>{% else %}"
        "{{ message['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}:{% endif %}"
    )
    told = {"genepool": 1, "method": "linear", "models": ["templated", "base"], "chat_template": "auto"}
    (folder / "templated.yaml").write_text(yaml.safe_dump(told))


@made("base")
def special(folder: Path) -> None:
    """The base with a file of special tokens, as older versions of transformers wrote it."""
    shutil.copytree(folder / "base", folder / "special")
    tokens = {"eos_token": {"content": "<eos>", "lstrip": False, "special": True}, "pad_token": "<pad>"}
    (folder / "special" / "special_tokens_map.json").write_text(json.dumps(tokens))


@made("base")
def carded(folder: Path) -> None:
    """The fine-tune with a model card."""
    shutil.copytree(folder / "tuned", folder / "carded")
    (folder / "carded" / "README.md").write_text("---\nlicense: mit\nbase_model: base\ntags: [a, b]\n---\n# A model\n")


@made("base")
def pieces(folder: Path) -> None:
    """The base with a tokenizer of sentencepiece's alone."""
    import struct

    from genepool.testbed.tokenizer import VOCABULARY

    shutil.copytree(folder / "base", folder / "pieces")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / "pieces" / name).unlink(missing_ok=True)
    found = b""
    for text in VOCABULARY:
        raw = text.encode()
        piece = b"\x0a" + bytes([len(raw)]) + raw + b"\x15" + struct.pack("<f", 1) + b"\x18\x01"
        found += b"\x0a" + bytes([len(piece)]) + piece
    (folder / "pieces" / "tokenizer.model").write_bytes(found + b"\x12\x03\x0a\x01x")
    told = {"genepool": 1, "method": "linear", "models": ["pieces", "base"]}
    (folder / "pieces.yaml").write_text(yaml.safe_dump(told))


@made("images")
def fisher(folder: Path) -> None:
    """The recipe of a merge by statistics."""
    told = {"genepool": 1, "method": "fisher", "base": "images/base", "statistics": "statistics/router.safetensors",
            "models": ["images/full/first", "images/full/second"]}  # fmt: skip
    (folder / "fisher.yaml").write_text(yaml.safe_dump(told))


MADE["statistics"] = (
    ("images",),
    "compose fisher images/full/first images/full/second --base images/base --tasks images/tasks --examples 4 --keep "
    "--out statistics",
)
MADE["merged"] = (("recipe",), "merge recipe.yaml merged")
_yaml("nested", "base", genepool=1, base="base", method="ties", parameters={"density": 0.5},
      models=[{"method": "linear", "models": ["tuned", "base"]}, "tuned"])  # fmt: skip
_yaml("mixture", "base", base_model="base", gate_mode="hidden", dtype="float32",
      experts=[{"source_model": "base", "positive_prompts": ["a"]},
               {"source_model": "tuned", "positive_prompts": ["b", "c"], "negative_prompts": ["d"]}])  # fmt: skip
_yaml("evolved", "base", genome={"models": ["base", "tuned"], "merge_method": "ties", "base_model": "base",
                                 "layer_granularity": 1, "normalize": True},
      tasks=[{"name": "say", "weight": 1.0, "metric": "contains"}], limit=2)  # fmt: skip
_yaml("bred", "base", study=1, base="base", skills=["tuned", "skills/b"], tasks={"dir": "tasks", "valid": 4},
      budget={"evaluations": 8}, seed=1, strategy={"name": "genome", "options": {"population": 4}},
      finalists=2)  # fmt: skip
MADE["breeding"] = (("bred",), "evolve bred.yaml --out breeding --ledger own.sqlite")
MADE["shelf"] = (("skill",), "library init --library shelf")
MADE["exported"] = (("library",), "library export skill --library library --out exported")


@made()
def lifelong(folder: Path) -> None:
    """A log of lifelong learning."""
    lines = ["block_num,block_type,task_name,exp_num,reward", "0,train,a,0,0.1", "1,test,a,1,0.4", "2,train,b,2,0.2",
             "3,test,a,3,0.4", "4,train,a,4,0.8", "5,test,a,5,0.9"]  # fmt: skip
    (folder / "lifelong.csv").write_text("\n".join(lines) + "\n")


@made()
def curve(folder: Path) -> None:
    """A curve of errors."""
    rows = [f"{n},{0.1 + 2 * n**-0.5}" for n in (10, 30, 100, 300, 1000)]
    (folder / "curve.csv").write_text("n,error\n" + "\n".join(rows) + "\n")


@made()
def samples(folder: Path) -> None:
    """A line of lm-eval's samples."""
    line = {
        "doc_id": 7, "doc": {"question": "1+1"}, "target": "2", "resps": [[" 2"]], "filtered_resps": ["2"],
        "arguments": {"gen_args_0": {"arg_0": "Q: 1+1", "arg_1": {"until": ["."]}}}, "filter": "strict-match",
        "metrics": ["exact_match"], "doc_hash": "0", "exact_match": 1.0,
    }  # fmt: skip
    (folder / "samples.jsonl").write_text("".join(json.dumps({**line, "doc_id": n}) + "\n" for n in range(3)))


@made()
def users(folder: Path) -> None:
    """A vector for a user."""
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"say": np.ones(4, np.float32), "other": np.zeros(4, np.float32)}, folder / "users.safetensors")
