"""The sweep over transformers' architectures: sixty of its classes, and how results are told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.architectures.checks import Found
from benchmarks.architectures.page import table

# Masked, causal, encoder-decoder, vision, audio, multimodal, mixtures of experts, state spaces; classifiers and bodies.
SAMPLE = {
    "AlbertForMaskedLM": "albert", "AltCLIPModel": "altclip",
    "ASTForAudioClassification": "audio-spectrogram-transformer",
    "Starcoder2ForCausalLM": "starcoder2", "BartForConditionalGeneration": "bart", "BeitForImageClassification": "beit",
    "BertForMaskedLM": "bert", "BertForPreTraining": "bert", "BertForTokenClassification": "bert",
    "BertLMHeadModel": "bert", "BigBirdForMaskedLM": "big_bird", "GemmaForCausalLM": "gemma",
    "BloomForCausalLM": "bloom", "CamembertForMaskedLM": "camembert", "CLIPModel": "clip",
    "CodeGenForCausalLM": "codegen", "Cohere2ForCausalLM": "cohere2", "ConvNextForImageClassification": "convnext",
    "DebertaV2ForMaskedLM": "deberta-v2", "DeepseekV3ForCausalLM": "deepseek_v3", "Dinov2Model": "dinov2",
    "DistilBertForMaskedLM": "distilbert", "ElectraForPreTraining": "electra", "FalconForCausalLM": "falcon",
    "FNetForMaskedLM": "fnet", "Gemma2ForCausalLM": "gemma2", "Gemma3ForConditionalGeneration": "gemma3",
    "GPT2LMHeadModel": "gpt2", "GPT2ForSequenceClassification": "gpt2", "GPTNeoXForCausalLM": "gpt_neox",
    "GPTJForCausalLM": "gptj", "GptOssForCausalLM": "gpt_oss", "GraniteForCausalLM": "granite",
    "LlamaForCausalLM": "llama", "LlamaForQuestionAnswering": "llama", "LlavaForConditionalGeneration": "llava",
    "LongformerForMaskedLM": "longformer", "LongT5ForConditionalGeneration": "longt5", "M2M100Model": "m2m_100",
    "MambaForCausalLM": "mamba", "MarianMTModel": "marian", "MBartForConditionalGeneration": "mbart",
    "MixtralForCausalLM": "mixtral", "MobileBertForMaskedLM": "mobilebert", "ModernBertForMaskedLM": "modernbert",
    "MPNetForMaskedLM": "mpnet", "OlmoeForCausalLM": "olmoe", "OPTForCausalLM": "opt", "PegasusModel": "pegasus",
    "Phi3ForCausalLM": "phi3", "Qwen2ForCausalLM": "qwen2", "Qwen2VLForConditionalGeneration": "qwen2_vl",
    "Qwen3MoeForCausalLM": "qwen3_moe", "RobertaForMaskedLM": "roberta", "SiglipModel": "siglip",
    "SwinForImageClassification": "swin", "T5ForConditionalGeneration": "t5", "ViTForImageClassification": "vit",
    "WhisperForConditionalGeneration": "whisper", "XLMRobertaForMaskedLM": "xlm-roberta",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLE)
def test_the_merge_of_one_model_is_that_model_and_lora_is_what_peft_makes(name: str) -> None:
    from benchmarks.architectures.checks import check

    found = check(name, SAMPLE[name])
    assert found.identity == "same", found.reason
    assert found.outputs.startswith("same") or found.outputs == "no inputs found"
    assert found.lora in ("same", "no linear layers", "not by PEFT"), found.reason


def test_sixty_classes_are_asked() -> None:
    from benchmarks.architectures.classes import classes

    known = classes()
    assert len(SAMPLE) == 60
    assert {name: known.get(name) for name in SAMPLE} == SAMPLE


def test_the_table_counts_and_names_what_is_not_the_same() -> None:
    results = [
        Found("A", "a", "same", "same of input_ids", "same"),
        Found("B", "b", "same", "no inputs found", "no linear layers"),
        Found("C", "c", "other tensors", reason="x differs by 1"),
        Found("D", "d", "not built", reason="a library is missing"),
        Found("E", "e", "same", "differ", "other tensors", "y differs by 2"),
        Found("F", "f", "same", "same of input_ids", "not by PEFT", "PEFT refuses"),
        Found("G", "g", "same", "same of input_ids", "as trained", "z differs by 3"),
    ]
    shown = table(results)
    for row in (
        "| classes checked | 7 |  |",
        "saved and loaded again by transformers | 6 | of 7 |",
        "as stored and as loaded | 5 | of 6 |",
        "equal outputs | 3 | of 4 |",
        "merged as PEFT merges it | 1 | of 3 |",
        "PEFT's merge of the saved adapter is not | 1 | of 2 |",
    ):
        assert row in shown
    wrong, rest = shown.split("## Not as transformers or PEFT has it")[1].split("## Not built small")
    assert "- `C`: other tensors. x differs by 1" in wrong
    assert "- `E`: adapter: other tensors. y differs by 2" in wrong
    assert "- `D`: not built. a library is missing" in rest
    assert "`G`" not in wrong
    assert "## Merged as trained, and otherwise by PEFT\n\n- `G`: adapter: as trained. z differs by 3" in rest
    assert "- `F`: adapter: not by PEFT. PEFT refuses" in rest


@pytest.mark.slow
def test_the_program_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.architectures", "--only", "gptj", "--json", "--record", tmp_path / "r"]
    first = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert first.returncode == 0, first.stderr
    found = [json.loads(line) for line in first.stdout.splitlines()]
    assert {one["identity"] for one in found} == {"same"}
    assert "GPTJForCausalLM" in {one["name"] for one in found}
    again = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert again.stdout == first.stdout
    assert len((tmp_path / "r").read_text().splitlines()) == len(found)


@pytest.mark.slow
def test_a_class_that_is_none_is_refused() -> None:
    command = [sys.executable, "-m", "benchmarks.architectures", "--only", "NoSuchModel"]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert answer.returncode == 2
    assert "--only NoSuchModel: no such class" in answer.stderr
