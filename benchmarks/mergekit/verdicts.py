"""What becomes here of everything that can be written for mergekit: its options, keys, methods and parameters.

`__main__` refuses to write figures while anything of the installed mergekit is missing here. A verdict may name a
measurement (`cases.CASES`, `answers.TRANSPLANTS`, or all stored recipes); those of keys, methods and parameters are
found by which stored recipes use them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

Status = Literal["same", "better", "different by design", "refused"]


class Verdict(NamedTuple):
    """One row.

    Attributes:
        status: the verdict. Options that are not there are `better` where the merge does by itself what they ask for,
            and `refused` where it does not.
        here: what to write here, or why there is nothing to write.
        case: the measurement behind it; empty for none, or where stored recipes are.
    """

    status: Status
    here: str = ""
    case: str = ""


_STREAMED = "not needed: tensors stream in blocks, whatever the format"
_DONE_SO = "not needed: always done"
_NO_CODE = "no code of a model is run"
_NO_LIST = "not needed: nothing depends on a list of architectures"
_AS_IT_IS = "hidden states are computed by the model as it is"
_AS_ABOVE = "as above"

#: Options that mergekit's commands that merge have in common.
EVERY_MERGE: dict[str, Verdict] = {
    "--allow-crimes": Verdict("better", _NO_LIST),
    "--unsafe-truncate-embeddings": Verdict("refused", "name the tokenizer that the result is to have"),
    "--transformers-cache": Verdict("different by design", "`HF_HOME` says where the hub's files are"),
    "--lora-merge-cache": Verdict("better", "not needed: adapters are applied tensor by tensor while merging"),
    "--lora-merge-dtype": Verdict("different by design", "adapters are applied in float32"),
    "--cuda": Verdict("same", "`--device cuda`"),
    "--device": Verdict("same", "`--device NAME`"),
    "--low-cpu-memory": Verdict("better", _STREAMED),
    "--out-shard-size": Verdict("better", "`--out-shard-size 2GB`; there it counts bytes, whatever its help says"),
    "--copy-tokenizer": Verdict("same", "always done"),
    "--clone-tensors": Verdict("better", "not needed: every tensor of the output is written by itself"),
    "--trust-remote-code": Verdict("refused", _NO_CODE),
    "--random-seed": Verdict("better", "`--seed`; without it the seed is 0, and the result is the same every time"),
    "--lazy-unpickle": Verdict("better", f"`--allow-pickle` opens such files; {_STREAMED}"),
    "--write-model-card": Verdict("same", "always done"),
    "--safe-serialization": Verdict("same", "always done; PyTorch's .bin files are not written"),
    "--verbosity": Verdict("different by design", "`genepool plan` says what a merge will do"),
    "--quiet": Verdict("same", "`--quiet`"),
    "--read-to-gpu": Verdict("better", "not needed: tensors stream through the device"),
    "--multi-gpu": Verdict("refused", "one device"),
    "--num-threads": Verdict("same", "`--threads`"),
    "--gpu-rich": Verdict("same", "`--device cuda`"),
    "--async-write": Verdict("better", "not needed: reading, computing and writing overlap"),
    "--write-threads": Verdict("better", "not needed: reading, computing and writing overlap"),
}

#: The other arguments and options, by command.
COMMANDS: dict[str, dict[str, Verdict]] = {
    "mergekit-yaml": {
        "CONFIG_FILE": Verdict("same", "`genepool merge FILE OUT`", "recipes"),
        "OUT_PATH": Verdict("better", "`OUT`; refused where something is, without `--overwrite`"),
    },
    "mergekit-multi": {
        "CONFIG_FILE": Verdict(
            "same",
            "`genepool merge FILE OUT`: the document without `name` is written, the others are computed as they are "
            "read; one that none uses warns",
            "several documents",
        ),
        "--out-path": Verdict("same", "`OUT`"),
        "--intermediate-dir": Verdict("better", "not needed: there are no intermediate models"),
        "--lazy": Verdict("better", "not needed: there are no intermediate models; a killed merge continues"),
    },
    "mergekit-moe": {
        "CONFIG_PATH": Verdict("same", "`genepool merge FILE OUT`", "mixtures"),
        "OUT_PATH": Verdict("same", "`OUT`"),
        "--load-in-4bit": Verdict("refused", _AS_IT_IS),
        "--load-in-8bit": Verdict("refused", _AS_IT_IS),
        "--i-understand-this-is-not-useful-without-training": Verdict(
            "better", "not needed: a note says that all experts are one model"
        ),
    },
    "mergekit-layershuffle": {
        "OUT_PATH": Verdict(
            "better",
            "`genepool shuffle MODEL... --out FILE`, then `genepool merge FILE OUT`; the command fails there with "
            "every model, so what follows is from reading it",
            "shuffle",
        ),
        "--model": Verdict("same", "`MODEL...`"),
        "--weight": Verdict("better", "`--weight`; without it all models are drawn alike, an error there"),
        "--print-yaml": Verdict("same", "the recipe of `--out`"),
        "--write-yaml": Verdict("same", "`--out`"),
        "--dry-run": Verdict("same", "`genepool shuffle` alone"),
        "--fp16": Verdict("same", "`dtype: float16` in the recipe"),
        "--full-random": Verdict(
            "different by design", "`--full-random` draws from all layers of a model; there, from the first of them"
        ),
    },
    "mergekit-extract-lora": {
        "--model": Verdict("same", "`genepool skill convert MODEL --base BASE --to peft --out OUT`", "extract"),
        "--base-model": Verdict("same", "`--base`"),
        "--out-path": Verdict("same", "`--out`"),
        "--max-rank": Verdict("same", "`--rank`; 16 by default, there 128", "extract"),
        "--distribute-scale": Verdict(
            "same", "both factors get the square root of the singular values; what they multiply to is the same"
        ),
        "--embed-lora": Verdict("same", "the default here; `--whole embedding` for its opposite", "extract embed"),
        "--save-module": Verdict("same", "`--whole PATTERN`", "extract"),
        "--exclude-regex": Verdict(
            "same", "`genepool skill extract --exclude PATTERN` first; patterns are globs, roles and modules"
        ),
        "--include-regex": Verdict("same", "`genepool skill extract --only PATTERN` first"),
        "--sv-epsilon": Verdict("refused", "directions that are rounding are dropped by themselves"),
        "--skip-undecomposable": Verdict("same", "`--factors-only`"),
    },
    "mergekit-pytorch": {
        "CONFIG_PATH": Verdict("same", "`genepool merge FILE OUT`; models may be single files", "files"),
        "OUT_PATH": Verdict("same", "`OUT`"),
        "--tensor-intersection": Verdict(
            "better", "`rest: MODEL` keeps what not all models have, instead of losing it"
        ),
        "--tensor-union": Verdict("better", "`rest: MODEL`, or `tensors` says of each where it is from"),
    },
    "mergekit-legacy": {
        "OUT_PATH": Verdict("same", "a recipe, which `--print-yaml` writes", "legacy"),
        "--merge": Verdict("same", "`models`"),
        "--density": Verdict("same", "`density`"),
        "--weight": Verdict("same", "`weight`, or `t` of slerp"),
        "--method": Verdict("same", "`merge_method`"),
        "--base-model": Verdict("same", "`base_model`"),
        "--normalize": Verdict("same", "`normalize`"),
        "--int8-mask": Verdict("same", "no effect in either"),
        "--bf16": Verdict("different by design", "`dtype: bfloat16`; arithmetic stays in float32"),
        "--naive-count": Verdict("refused", "its recipe has a parameter that mergekit itself passes over"),
        "--print-yaml": Verdict("same", "the recipe is the file"),
    },
    "mergekit-tokensurgeon": {
        "MODEL": Verdict("same", "`genepool vocabulary transplant MODEL`"),
        "DONOR": Verdict("better", "`--tokenizer DONOR`; for some methods a tokenizer is enough"),
        "OUT_PATH": Verdict("same", "`--out`"),
        "--k": Verdict("same", "`--k`; 64 by default, as there", "omp of 3"),
        "--cosine-similarity": Verdict("refused", "distances are Euclidean, as by default there"),
        "--approximation-method": Verdict("same", "`--method`; its values are below"),
        "--weight-scheme": Verdict("refused", "neighbours weigh one over their distance, as by default there"),
        "--subword-method": Verdict("refused", "the mean, as by default there"),
        "--batch-size": Verdict("better", "not needed: always in batches"),
        "--prefix-match": Verdict("same", "`--prefix-match`, for embedding and head"),
        "--byte-match": Verdict("same", "`--byte-match`, for embedding and head"),
        "--magikarp": Verdict("refused", "no token is left out for being poorly trained"),
        "--new-vocab-noise": Verdict("refused", "new rows are what the method computes"),
        "--new-vocab-scale": Verdict("refused", "new rows are what the method computes"),
    },
    "mergekit-tokensurgeon --approximation-method": {
        "common_interpolation": Verdict("same", "`--method neighbours`", "nearest 4"),
        "subword": Verdict(
            "same",
            "`--method subword`; unknown pieces are left out, and a special token, which has no text, gets the mean "
            "row: both by design and not in the figure",
            "subword",
        ),
        "mean": Verdict("same", "`--method mean`", "mean"),
        "zero": Verdict("same", "`--method zero`", "zero"),
        "randn": Verdict("refused", "`gaussian` has the mean and covariance of the rows"),
        "john_hewitt": Verdict("different by design", "`--method gaussian`: the same rule, other random numbers"),
        "omp": Verdict("same", "`--method omp`, the default in both", "omp of 8"),
        "landmark_pca": Verdict("refused", "use `omp`"),
        "stb": Verdict("refused", "use `omp`"),
        "mp_rope": Verdict("refused", "use `omp`"),
    },
    "bakllama": {
        "CONFIG_PATH": Verdict("refused", "write `slices`; the command fails there with every file", "bakllama"),
        "OUT_PATH": Verdict("refused", _AS_ABOVE),
        "--clone-tensors": Verdict("refused", _AS_ABOVE),
        "--fp16": Verdict("refused", _AS_ABOVE),
    },
    "mergekit-evolve": {
        "GENOME-CONFIG-PATH": Verdict(
            "same", "`genepool evolve FILE`: the same genome, CMA-ES and recipes; held-out examples judge the winner"
        ),
        "--max-fevals": Verdict("same", "`--budget`, 100 by default"),
        "--vllm": Verdict("refused", "candidates are asked in the process that makes them"),
        "--strategy": Verdict("different by design", "`--workers`"),
        "--in-memory": Verdict("better", "not needed: nothing is evaluated through the disk"),
        "--storage-path": Verdict("better", "`--out`; the same command continues a run that was stopped"),
        "--num-gpus": Verdict("same", "`--device` and `--workers`"),
        "--merge-cuda": Verdict("same", "`--device`"),
        "--trust-remote-code": Verdict("refused", _NO_CODE),
        "--allow-crimes": Verdict("better", _NO_LIST),
        "--random-seed": Verdict("better", "`--seed`; there it does not reach CMA-ES"),
        "--batch-size": Verdict("same", "`batch` in the study file of the run"),
        "--sigma0": Verdict("same", "`strategy.options.sigma` in the study file of the run; 1/6 as there"),
        "--wandb": Verdict("refused", "`history.jsonl` and `report.html` are written instead"),
        "--wandb-project": Verdict("refused", _AS_ABOVE),
        "--wandb-entity": Verdict("refused", _AS_ABOVE),
        "--task-search-path": Verdict("same", "`--tasks`; a task file of lm-eval also needs `--trust-tasks`"),
        "--i-understand-the-depths-of-the-evils-i-am-unleashing": Verdict(
            "better", "not needed: half of the examples are kept for the test"
        ),
        "--save-final-model": Verdict("better", "not needed: the winner is always written and tested"),
        "--reshard": Verdict("better", _STREAMED),
        "--timeout": Verdict("same", "`--stop-when minutes=M`"),
        "--load-in-8bit": Verdict("refused", "candidates are asked as they would be written"),
        "--load-in-4bit": Verdict("refused", "candidates are asked as they would be written"),
        "--force-population-size": Verdict("same", "`strategy.options.population` in the study file of the run"),
    },
}

#: The keys of its files, by the part of the file that they stand in.
KEYS: dict[str, dict[str, Verdict]] = {
    "recipe": {
        "merge_method": Verdict("same"),
        "models": Verdict("same", "each over all its layers"),
        "slices": Verdict(
            "better", "of a model with several stacks: the stack that writes, and a note says so; mergekit refuses"
        ),
        "modules": Verdict(
            "better",
            "`text_decoder`, `vision_tower`, `multi_modal_projector`, `encoder`, `decoder` and `shared`, or the path "
            "of a module. What no module covers is the base's or the first model's; mergekit leaves it out",
        ),
        "base_model": Verdict("same"),
        "parameters": Verdict("same", "under a model, a source, a slice, a module, or the recipe"),
        "dtype": Verdict(
            "different by design",
            "arithmetic is always float32; `dtype` says what is stored when there is no `out_dtype`. With neither, a "
            "tensor is stored in the widest type among its inputs, in both",
        ),
        "out_dtype": Verdict("same", "float32, float16, bfloat16"),
        "tokenizer_source": Verdict(
            "same",
            "`base`, `union`, a model: rows are lined up by their tokens; [what is filled "
            "in](../how-to/vocabularies.md). New tokens get their ids in the order of the models; mergekit's order "
            "changes from run to run, and the figure is of rows of one token. A token whose id has no row counts as "
            "missing; mergekit stops",
        ),
        "tokenizer": Verdict("same"),
        "chat_template": Verdict(
            "same",
            "Jinja text; `auto`: of equally frequent templates the first, where mergekit's choice changes from run to "
            "run; `alpaca`, `chatml`, `exaone`, `llama3`, `mistral`: without the further line breaks of mergekit's "
            "files. The figure is of weights",
        ),
    },
    "slice": {
        "sources": Verdict("same"),
        "base_model": Verdict("same"),
        "residual_weight": Verdict("same", "no effect in either"),
        "parameters": Verdict("same"),
    },
    "source or model": {
        "model": Verdict("same", "`path`, `path@revision`, `path+adapter`, and `{model: {path: ...}}`"),
        "layer_range": Verdict(
            "better",
            "empty, reversed or too long: an error before the merge starts; mergekit writes a model without layers "
            "for the first two",
        ),
        "parameters": Verdict("same"),
    },
    "module": {"slices": Verdict("same"), "models": Verdict("same"), "parameters": Verdict("same")},
    "tokenizer": {
        "source": Verdict("same", "`union` when absent"),
        "tokens": Verdict(
            "better",
            "a token without a `source` that some model lacks is an error before anything is read; in mergekit while "
            "it merges",
        ),
        "pad_to_multiple_of": Verdict("same"),
    },
    "mixture": {
        "base_model": Verdict("same", "models as anywhere in genepool: BASE+ADAPTER too"),
        "experts": Verdict("same"),
        "gate_mode": Verdict(
            "same",
            "the figure is of all modes. `hidden`, `hidden_last`, `hidden_avg` by design in float32, each prompt by "
            "itself; mergekit computes in bfloat16 (for the figure in float32), and its mean counts padding as tokens. "
            "`random` and `uniform_random`: other random numbers, but for the figure; `seed` (a key of ours) or "
            "`--seed` decides",
        ),
        "dtype": Verdict("same"),
        "experts_per_token": Verdict("same"),
        "shared_experts": Verdict(
            "better",
            "one for `qwen`, with a gate; at most one for `deepseek`, without. There it must be the base or an expert "
            "too, or the command fails",
        ),
        "architecture": Verdict(
            "same",
            "`mixtral`, `qwen`, `qwen3`, `deepseek`; the first that can hold the models by default; the figure is of "
            "`mixtral`, `qwen` and `deepseek`",
        ),
    },
    "expert": {
        "source_model": Verdict("same"),
        "positive_prompts": Verdict("same", "an empty prompt is an error"),
        "negative_prompts": Verdict("same"),
        "noise_scale": Verdict(
            "different by design",
            "the same rule, other random numbers, from the seed and the tensor's name. The figure is with ours in both",
        ),
        "residual_scale": Verdict("same"),
    },
    "evolve": {
        "genome": Verdict("same"),
        "tasks": Verdict(
            "same",
            "found by name in `--tasks` folders, then among lm-eval's; others are refused. The figure is of the sum of "
            "the scores",
        ),
        "limit": Verdict("same", "examples per task that score a candidate"),
        "num_fewshot": Verdict("same", "of lm-eval's tasks; one of genepool's own says it in its task.yaml"),
        "shuffle": Verdict("different by design", "no effect: every candidate answers the same examples"),
        "random_init": Verdict("same", "other random numbers, from the seed. The figure is with ours in both"),
        "apply_chat_template": Verdict(
            "different by design", "where the file does not say: if the first model has a chat template. There true"
        ),
        "fewshot_as_multiturn": Verdict("same", "false beside a chat template is refused"),
    },
    "genome": {
        "models": Verdict("same", "relative to the file, then to the working folder"),
        "merge_method": Verdict("same", "linear, task_arithmetic, ties, dare_ties, slerp"),
        "base_model": Verdict(
            "better", "linear and slerp need none; one that is none of the models is refused, where merges fail there"
        ),
        "tokenizer_source": Verdict("same", "as in recipes"),
        "layer_granularity": Verdict("same"),
        "normalize": Verdict("same"),
        "allow_negative_weights": Verdict("same"),
        "filters": Verdict("same"),
        "smooth": Verdict("same"),
    },
    "task": {
        "name": Verdict("same"),
        "weight": Verdict("different by design", "negative weights are refused: all scores are from 0 to 1"),
        "metric": Verdict("same", "of lm-eval's tasks, with its filter (`exact_match,strict-match`)"),
    },
}

_DRAWS = "the same rule, other random numbers. The figure is with ours in both"
#: Its merge methods; those not here are `same`.
METHODS: dict[str, Verdict] = {
    "ties": Verdict("same", "at equal magnitudes [different by design](#different-by-design)"),
    "dare_linear": Verdict("different by design", _DRAWS),
    "dare_ties": Verdict("different by design", _DRAWS),
    "della": Verdict("different by design", _DRAWS),
    "della_linear": Verdict("different by design", _DRAWS),
    "karcher": Verdict("different by design", "ours converges in float64, mergekit's stops in float32"),
    "arcee_fusion": Verdict(
        "same", "up to a million entries per tensor; beyond, [different by design](#different-by-design)"
    ),
}

#: Its parameters, by name or by `method.name`; those not here are `same`.
PARAMETERS: dict[str, Verdict] = {
    "weight": Verdict("same", "must be given"),
    "normalize": Verdict("same", "false by default"),
    "linear.normalize": Verdict("same", "true by default"),
    "ties.normalize": Verdict("same", "true by default"),
    "della.normalize": Verdict("same", "true by default"),
    "lambda": Verdict("same", "1 by default, applied after `normalize`"),
    "density": Verdict("same", "1 by default"),
    "task_arithmetic.density": Verdict("same", "no effect in either, and a warning here"),
    "rescale": Verdict("same", "true by default"),
    "ties.rescale": Verdict("same", "false by default"),
    "breadcrumbs.rescale": Verdict("same", "false by default"),
    "breadcrumbs_ties.rescale": Verdict("same", "false by default"),
    "task_arithmetic.rescale": Verdict("same", "no effect in either, and a warning here"),
    "int8_mask": Verdict("same", "no effect in either"),
    "t": Verdict("same", "must be given; also outside [0, 1]"),
    "nearswap.t": Verdict("better", "must be given; below 0 an error, where mergekit writes the base"),
    "gamma": Verdict("same", "0.01 by default"),
    "epsilon": Verdict("same", "1e-5 by default"),
    "della.epsilon": Verdict(
        "better", "0.15 by default; where density +- epsilon leaves (0, 1) narrowed, where mergekit fails"
    ),
    "della_linear.epsilon": Verdict(
        "better", "0.15 by default; where density +- epsilon leaves (0, 1) narrowed, where mergekit fails"
    ),
    "r": Verdict("same", "0.1 by default"),
    "alpha": Verdict("same", "0.2 by default"),
    "select_topk": Verdict("same", "1 by default"),
    "filter_wise": Verdict("same", "false by default"),
    "nuslerp_flatten": Verdict("same", "true by default"),
    "nuslerp_row_wise": Verdict(
        "same", "false by default; of a tensor with more than two axes, all but the last count as one"
    ),
    "normalize_weights": Verdict("same", "true by default"),
    "eps": Verdict("same", "1e-8 by default"),
    "max_iter": Verdict("different by design", "10 by default; ours converges in float64"),
    "tol": Verdict("different by design", "1e-5 by default; ours converges in float64"),
    "scale": Verdict("same", "untouched by default"),
}

#: Inputs that are neither a key nor an option.
INPUTS: dict[str, Verdict] = {
    "a quantised model (measured: FP8 with a scale per block)": Verdict(
        "better",
        "dequantised block by block and merged as floats, or refused by name; there the stored numbers are merged "
        "without their scales",
        "quantised",
    ),
}


def of_method(name: str) -> Verdict:
    """Of a merge method."""
    return METHODS.get(name, Verdict("same"))


def of_parameter(method: str, name: str) -> Verdict | None:
    """Of a parameter of a method; None where nothing is said of it."""
    return PARAMETERS.get(f"{method}.{name}") or PARAMETERS.get(name)


def missing(surface: Mapping[str, Mapping[str, list[str]]]) -> list[str]:
    """What mergekit's commands, files and methods take and no verdict is given on."""
    said = {"": EVERY_MERGE, **COMMANDS}
    there = {"": surface["every merge"], **surface["commands"]}
    lacking = [
        f"{command} {one}" for command, all_ in there.items() for one in all_ if one not in said.get(command, {})
    ]
    lacking += [
        f"{part}.{one}" for part, all_ in surface["keys"].items() for one in all_ if one not in KEYS.get(part, {})
    ]
    lacking += [
        f"{method}.{one}"
        for method, all_ in surface["methods"].items()
        for one in all_
        if of_parameter(method, one) is None
    ]
    return lacking
