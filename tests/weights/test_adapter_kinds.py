"""Every kind of adapter that PEFT knows: read, with PEFT as the oracle, or refused by name."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from benchmarks.adapters.cases import BASES, CASES, Case, build_adapter, build_base
from genepool.errors import InputError
from genepool.weights import naming, open_weights
from genepool.weights.peft.kinds import REFUSED, kinds
from genepool.weights.peft.prompt_settings import PROMPTS
from genepool.weights.peft.settings import AdapterSettings

MODULE = "model.layers.0.self_attn.q_proj"
WEIGHT = f"{MODULE}.weight"
Put = Callable[..., str]


@pytest.fixture
def put(save_model: Any, tmp_path: Path) -> Put:
    """A base of one module with a hand-made adapter: `put("IA3", {"ia3_l": tensor}, alpha=2)`, as `BASE+ADAPTER`."""

    def make(kind: str, parts: dict[str, Any], shared: dict[str, Any] | None = None, **settings: Any) -> str:
        base = {WEIGHT: torch.tensor([[1.0, 2.0], [3.0, 4.0]]), f"{MODULE}.bias": torch.tensor([10.0, 20.0])}
        folder = save_model("base", base)
        adapter = tmp_path / "adapter"
        adapter.mkdir(exist_ok=True)
        named = {f"base_model.model.{MODULE}.{part}": torch.as_tensor(value) for part, value in parts.items()}
        named |= {f"base_model.{part}": torch.as_tensor(value) for part, value in (shared or {}).items()}
        save_file(named, adapter / "adapter_model.safetensors")
        (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": kind, **settings}))
        return f"{folder}+{adapter}"

    return make


def test_every_kind_and_setting_of_the_installed_peft_is_named() -> None:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    unnamed = []
    for name, config in PEFT_TYPE_TO_CONFIG_MAPPING.items():
        if name.value in REFUSED:
            continue
        known = kinds()[name.value].settings if name.value in kinds() else PROMPTS.get(name.value, ("", {}))[1]
        unnamed += [f"{name.value}: {one.name}" for one in dataclasses.fields(config) if one.name not in known]
    assert unnamed == []
    assert not set(REFUSED) & {*kinds(), *PROMPTS}
    assert not set(PROMPTS) & set(kinds())


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_kinds_that_change_no_weight_are_refused_with_the_reason(put: Put, kind: str) -> None:
    with pytest.raises(
        InputError, match=rf"adapter_config.json:peft_type: {kind} adapters cannot be merged: .*\. .*PEFT"
    ):
        open_weights(put(kind, {}, {"prompt_embeddings": [[1.0]]}))


def test_an_unknown_kind_and_an_unknown_setting_are_refused_by_name(put: Put) -> None:
    with pytest.raises(InputError, match="does not know adapters of type 'NEWEST'"):
        open_weights(put("NEWEST", {}))
    factors = {"lora_A.weight": [[1.0, 0.0]], "lora_B.weight": [[1.0], [1.0]]}
    with pytest.raises(
        InputError, match=r"adapter_config\.json:use_magic: genepool does not know this setting of LORA"
    ):
        open_weights(put("LORA", factors, use_magic=True))
    # What the first versions of PEFT wrote.
    assert (
        open_weights(put("LORA", factors, lora_alpha=1, merge_weights=False, enable_lora=None)).read(WEIGHT)[0, 0] == 2
    )
    # A setting that a later PEFT writes into every file, and that is not used.
    assert open_weights(put("LORA", factors, lora_alpha=1, use_magic=None)).read(WEIGHT)[0, 0] == 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"layer_replication": [[0, 1], [0, 1]]}, "layers are the base's replicated"),
        ({"alora_invocation_tokens": [5, 6]}, "an activated LoRA acts only after its invocation tokens"),
        ({"use_qalora": True}, "pooled in groups"),
        ({"arrow_config": {"top_k": 2}}, "a router mixes other adapters"),
        ({"init_lora_weights": "corda"}, "started as corda: .*path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "lora_ga"}, "started as lora_ga: .*path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "loftq"}, "started as loftq: .*in 4 or 8 bits"),
        ({"init_lora_weights": "pissa_niter_16"}, "started as pissa_niter_16: .*found at random"),
        ({"init_lora_weights": "newest"}, "does not know the start 'newest'"),
        ({"lora_alpha": "much"}, "lora_alpha: got 'much', expected a number"),
        ({"lora_alpha": 1e400}, "lora_alpha: got inf, expected a number"),
        ({"use_rslora": 1}, "use_rslora: got 1, expected true or false"),
        ({"alpha_pattern": {"(": 2}}, "alpha_pattern: '.*' is no regular expression"),
        ({"alpha_pattern": {"q_proj": None}}, "alpha_pattern: got None, expected a number"),
        ({"use_bdlora": {"nblocks": 0, "target_modules_bd_a": ["q_proj"]}}, "nblocks: got 0"),
    ],
)
def test_settings_of_lora_that_cannot_be_merged_are_refused(put: Put, settings: dict[str, Any], said: str) -> None:
    factors = {"lora_A.weight": [[1.0, 0.0]], "lora_B.weight": [[1.0], [1.0]]}
    with pytest.raises(InputError, match=said):
        open_weights(put("LORA", factors, **settings)).read(WEIGHT)


W, B, EYE = [[1.0, 2.0], [3.0, 4.0]], [10.0, 20.0], [[1.0, 0.0], [0.0, 1.0]]
LORA_BIAS = {"lora_A.weight": [[1.0, 0.0]], "lora_B.weight": [[1.0], [2.0]], "lora_B.bias": [1.0, 2.0]}
TOKENS = {"token_adapter.trainable_tokens_delta": [[1.0, 0.0]]}


@pytest.mark.parametrize(
    ("kind", "parts", "settings", "weight", "bias"),
    [
        # Outputs, and with them the bias, times 2 and 3; inputs alone in feed-forward modules.
        ("IA3", {"ia3_l": [[2.0], [3.0]]}, {}, [[2.0, 4.0], [9.0, 12.0]], [20.0, 60.0]),
        ("IA3", {"ia3_l": [[2.0, 3.0]]}, {}, [[2.0, 6.0], [6.0, 12.0]], B),
        # A quarter turn of the one pair of outputs: (a, b) becomes (-b, a).
        (
            "ROAD",
            {"road_theta": [torch.pi / 2], "road_alpha": [1.0]},
            {"group_size": 2},
            [[-3.0, -4.0], [1.0, 2.0]],
            [-20.0, 10.0],
        ),
        # A reflection at the second axis.
        ("HRA", {"hra_u": [[0.0], [5.0]]}, {}, [[1.0, -2.0], [3.0, -4.0]], B),
        ("BEFT", {"beft_bias": [[1.0, 2.0]]}, {}, W, [11.0, 22.0]),
        # alpha / r = 2 times the entrywise product of [[1, 1], [1, 1]] and [[1, 0], [0, 1]] of rank 2.
        (
            "LOHA",
            {
                "hada_w1_a": [[1.0, 0.0], [1.0, 0.0]],
                "hada_w1_b": [[1.0, 1.0], [0.0, 0.0]],
                "hada_w2_a": EYE,
                "hada_w2_b": EYE,
            },
            {"alpha": 4},
            [[3.0, 2.0], [3.0, 6.0]],
            B,
        ),
        (
            "LOKR",
            {"lokr_w1": [[2.0]], "lokr_w2": EYE},
            {"alpha": 4, "r": 8},
            [[2.0, 2.0], [3.0, 5.0]],
            B,
        ),
        ("HIRA", {"hira_A": [[1.0, 1.0]], "hira_B": [[1.0], [0.0]]}, {}, [[2.0, 4.0], [3.0, 4.0]], B),
        # Row i of the block is the kernel moved i to the right, divided by the two inputs.
        ("C3A", {"c3a_kernel": [[[2.0, 4.0]]]}, {}, [[2.0, 4.0], [5.0, 5.0]], B),
        ("SHIRA", {"shira_weight": [5.0], "shira_indices": [[1], [0]]}, {}, [[1.0, 2.0], [8.0, 4.0]], B),
        ("MISS", {"miss_block": [[1.0, 2.0]]}, {}, [[2.0, 3.0], [5.0, 6.0]], B),
        (
            "LORA",
            {"lora_A.weight": [[1.0, 0.0]], "lora_B.weight": [[1.0], [2.0]], "lora_B.bias": [1.0, 2.0]},
            {"lora_alpha": 3},
            [[4.0, 2.0], [9.0, 4.0]],
            [13.0, 26.0],
        ),
    ],
)
def test_worked_out_by_hand(
    put: Put, kind: str, parts: dict[str, Any], settings: dict[str, Any], weight: Any, bias: Any
) -> None:
    merged = open_weights(put(kind, parts, **settings))
    torch.testing.assert_close(merged.read(WEIGHT), torch.tensor(weight), atol=1e-5, rtol=0)
    torch.testing.assert_close(merged.read(f"{MODULE}.bias"), torch.tensor(bias), atol=1e-5, rtol=0)
    # Block by block gives what is read at once.
    rows = torch.cat([merged.read_rows(WEIGHT, row, row + 1) for row in range(2)])
    torch.testing.assert_close(rows, merged.read(WEIGHT))


@pytest.mark.parametrize(
    ("kind", "parts", "settings", "said"),
    [
        ("SHIRA", {"shira_weight": [5.0], "shira_indices": [[2], [0]]}, {}, "names entries outside"),
        ("SHIRA", {"shira_weight": [5.0], "shira_indices": [[0], [-1]]}, {}, "names entries outside"),
        ("IA3", {"ia3_l": [[2.0, 3.0, 4.0]]}, {}, r"got shape \[1, 3\], expected \[2, 1\]"),
        ("FOURIERFT", {"fourierft_spectrum": [1.0] * 5}, {}, r"got shape \[5\], expected \[4\]"),
        ("C3A", {"c3a_kernel": [[[1.0, 2.0, 3.0]]]}, {}, "got shape"),
        ("OFT", {"oft_R.weight": [[1.0, 2.0]]}, {}, "got shape"),
        ("LOHA", {"hada_w1_b": [[1.0, 1.0]]}, {}, "holds no hada_"),
        ("ROAD", {"road_theta": [0.0], "road_alpha": [1.0]}, {"group_size": 3}, "expected an even one"),
        ("ROAD", {"road_theta": [0.0], "road_alpha": [1.0]}, {"variant": "road_3"}, "expected one of 'road_1'"),
        ("WAVEFT", {"waveft_spectrum": [1.0]}, {"wavelet_family": "sym4"}, "got 'sym4', expected one of 'db1'"),
        ("PSOFT", {"psoft_R.weight": [1.0]}, {"r": 10**9}, "more than .* has directions"),
        ("UNILORA", {}, {}, "no architecture"),
        ("PVERA", {"pvera_lambda_d": [1.0]}, {"sample_at_inference": True}, "drawn anew for every input"),
        ("FROD", {"frod_lambda_l": [1.0]}, {"save_projection": False}, "basis of its layers is not in the file"),
        ("LORA", {"lora_A.weight": [[1.0, 0.0]]}, {}, "holds no lora_B.weight"),
        ("LORA", {"lora_magic": [[1.0, 0.0]]}, {}, "is not a known tensor of LoRA adapters"),
        (
            "LORA",
            {"token_adapter.trainable_tokens_delta": [[1.0, 0.0]]},
            {"trainable_token_indices": [2]},
            "different rows",
        ),
        (
            "LORA",
            {"token_adapter.trainable_tokens_delta": [[1.0, 0.0]]},
            {"trainable_token_indices": [True]},
            "different rows",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    put: Put, kind: str, parts: dict[str, Any], settings: dict[str, Any], said: str
) -> None:
    shared = {"unilora_theta_d": [1.0]} if kind == "UNILORA" else None
    with pytest.raises(InputError, match=said):
        open_weights(put(kind, parts, shared, **settings)).read(WEIGHT)


@pytest.mark.parametrize(
    ("kind", "parts", "shared"),
    [
        ("LORA", {"lora_A.weight": torch.tensor(1.0), "lora_B.weight": [[1.0], [1.0]]}, {}),
        ("LORA", {"lora_A.weight": torch.zeros(0, 2), "lora_B.weight": torch.zeros(2, 0)}, {}),
        ("MISS", {"miss_block": torch.zeros(1, 0)}, {}),
        ("GRALORA", {"gralora_A": torch.zeros(1, 2, 0), "gralora_B": torch.zeros(1, 0, 2)}, {}),
        ("DEFT", {"deft_P": torch.zeros(2, 0), "deft_R": torch.zeros(0, 2)}, {}),
        ("LOKR", {"lokr_w1": torch.tensor(2.0), "lokr_w2": torch.eye(2)}, {}),
        ("LOKR", {"lokr_w1": torch.ones(1), "lokr_w2": torch.ones(1)}, {}),
        ("VBLORA", {"vblora_logits_A": torch.zeros(0, 1, 2)}, {"vblora_vector_bank": torch.ones(2, 2)}),
        ("TINYLORA", {"tinylora_A": torch.zeros(0, 2), "tinylora_B": torch.zeros(2, 0)}, {}),
        ("FROD", {"frod_lambda_l": torch.ones(2)}, {"frod_V.self_attn.q_proj": torch.tensor(1.0)}),
        ("VERA", {"vera_lambda_b": torch.ones(2), "vera_lambda_d": torch.ones(0)}, {}),
    ],
    ids=str,
)
def test_tensors_without_axes_or_entries_are_refused_by_name(
    put: Put, kind: str, parts: dict[str, Any], shared: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match=r"adapter_model\.safetensors(:base_model\.\S+)?: (got shape|what it holds)"):
        open_weights(put(kind, parts, shared)).read(WEIGHT)


@pytest.mark.parametrize(
    ("kind", "parts", "settings", "said"),
    [
        ("LORA", LORA_BIAS, {"lora_alpha": 10**400}, "lora_alpha: got 1000.*expected a number"),
        (
            "OFT",
            {"oft_R.weight": [[1.0]]},
            {"num_cayley_neumann_terms": 10**14},
            "num_cayley_neumann_terms: .*at most 1000",
        ),
        (
            "PSOFT",
            {"psoft_R.weight": [1.0]},
            {"r": 2, "psoft_svd": "lowrank", "psoft_svd_lowrank_niter": 10**14},
            "psoft_svd_lowrank_niter: .*at most 100",
        ),
        ("LORA", LORA_BIAS, {"alpha_pattern": {"((.*)*)*x!": 2}}, "alpha_pattern: .*repeats"),
        ("LORA", LORA_BIAS, {"alpha_pattern": {"q_proj" * 200: 2}}, "alpha_pattern: .*at most 1000"),
    ],
)
def test_settings_that_would_take_forever_are_refused(
    put: Put, kind: str, parts: dict[str, Any], settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        open_weights(put(kind, parts, **settings)).read(WEIGHT)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        (r".*\.(q_proj|v_proj)", "model.layers.0.self_attn.q_proj"),
        (r".*decoder.*(SelfAttention|EncDecAttention).*(q|v)$", "decoder.block.0.layer.0.SelfAttention.q"),
        (r"(.*\.)?(model\.layers\.\d+\.mlp\.(up|down)_proj)$", "model.layers.10.mlp.up_proj"),
        (r"(?:.*?(?:text).*?(?:attention|attn|mlp).*?(?:q_proj|o_proj|fc1|fc2).*?)|(?:\bmodel\.layers\.[\d]{1,}\.mlp)",
         "text.layers.0.attn.q_proj"),
        (r"^(?!.*lm_head).*proj$", "model.layers.0.mlp.up_proj"),
    ],
)  # fmt: skip
def test_usual_patterns_are_searched_for(pattern: str, name: str) -> None:
    settings = AdapterSettings({}, Path("adapter_config.json"), {})
    assert settings.matches("target_modules", pattern, name, whole=True)


@pytest.mark.parametrize(
    "pattern",
    ["(a|a)*x", "(a|ab|b)*x", "(a(b(c+)?)+)", "(?>a+)+", "(x+x+)+y", "a?" * 60, ".*" * 8 + "x"],
)
def test_patterns_of_more_ways_than_a_name_has_are_refused(pattern: str) -> None:
    settings = AdapterSettings({}, Path("adapter_config.json"), {})
    with pytest.raises(InputError, match="repeats"):
        settings.matches("target_modules", pattern, "a" * 80)


def test_modules_whose_order_no_architecture_tells_are_refused(put: Put, save_model: Any, tmp_path: Path) -> None:
    """The file sorts layer 10 before layer 2; their vectors would be exchanged."""
    parts = {"tinylora_A": torch.eye(2), "tinylora_B": torch.eye(2)}
    one = put("TINYLORA", parts, {"tinylora_v.0": [1.0]}, tinylora_dropout=0.0)
    assert not open_weights(one).read(WEIGHT).equal(torch.tensor(W))
    modules = [f"model.layers.{number}.self_attn.q_proj" for number in (2, 10)]
    base = save_model("two", {f"{module}.weight": torch.tensor(W) for module in modules})
    named = {f"base_model.model.{module}.{part}": parts[part].clone() for module in modules for part in parts}
    vectors = {f"base_model.tinylora_v.{number}": torch.ones(1) for number in range(2)}
    save_file(named | vectors, tmp_path / "adapter" / "adapter_model.safetensors")
    with pytest.raises(InputError, match="place among the adapted ones, and the config names no"):
        open_weights(f"{base}+{tmp_path / 'adapter'}")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {name: build_base(name, folder) for name in BASES}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_merges_as_peft_does(cli: Any, bases: dict[str, Path], tmp_path: Path, case: Case) -> None:
    base = bases[case.base]
    expected = build_adapter(case, base, tmp_path / "adapter")
    recipe = {"genepool": 1, "method": "linear", "models": [f"{base}+{tmp_path / 'adapter'}"]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert cli("merge", tmp_path / "recipe.yaml", tmp_path / "out").code == 0
    merged, before = (naming.in_memory_layout(open_weights(folder)) for folder in (tmp_path / "out", base))
    moved = 0.0
    for name in before.names():
        torch.testing.assert_close(merged.read(name), expected[name], atol=5e-6, rtol=1e-5)
        moved = max(moved, float((expected[name] - before.read(name)).abs().max()))
    assert moved > 1e-4
