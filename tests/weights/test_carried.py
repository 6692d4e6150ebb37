"""Which files beside the weights go along, which stay behind and why; a stranger's folder causes bounded work."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from genepool.weights import carried
from genepool.weights.carried import CarriedFiles, carried_files

WEIGHTS = ("model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def folder(path: Path, *files: str, **contents: Any) -> Path:
    """A model's folder with these files, JSON contents by stem ("modules=[...]")."""
    for name in ("config.json", "model.safetensors", *files):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("{}")
    for stem, content in contents.items():
        (path / f"{stem}.json").write_text(json.dumps(content))
    return path


def names(found: CarriedFiles) -> set[str]:
    return set(found.files)


def test_everything_of_a_model_goes_along(tmp_path: Path) -> None:
    files = {
        "tokenizer.json", "tokenizer_config.json", "source.spm", "target.spm", "tekken.json", "bpe.codes",
        "preprocessor_config.json", "video_preprocessor_config.json", "generation_config.json", "chat_template.jinja",
        "additional_chat_templates/rag.jinja", "chat_templates/default.jinja", "1_Pooling/config.json", "LICENSE",
        "config_sentence_transformers.json", "a_file_of_tomorrow.json", "assets/one/two/voices.json",
    }  # fmt: skip
    found = carried_files(folder(tmp_path / "m", *files, *WEIGHTS))
    assert names(found) == files
    assert found.left == {}


def test_modules_keep_their_own_weights_and_no_other_folder_does(tmp_path: Path) -> None:
    modules = [{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}, "nothing", {"path": 3}]
    files = ("1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors", "3_Dense/pytorch_model.bin")
    found = carried_files(folder(tmp_path / "m", *files, modules=modules))
    assert names(found) == {"modules.json", *files[:3]}
    assert found.left == {"3_Dense/": carried.IN_ANOTHER_FORM}


@pytest.mark.parametrize(
    ("file", "left", "why"),
    [
        ("onnx/model.onnx", "onnx/", carried.IN_ANOTHER_FORM),
        ("original/consolidated.00.pth", "original/", carried.IN_ANOTHER_FORM),
        ("consolidated.safetensors", "consolidated.safetensors", carried.IN_ANOTHER_FORM),
        ("tf_model.h5", "tf_model.h5", carried.IN_ANOTHER_FORM),
        ("adapter_model.safetensors", "adapter_model.safetensors", carried.ADAPTER),
        ("adapter_config.json", "adapter_config.json", carried.ADAPTER),
        ("lora/adapter_config.json", "lora/", carried.IN_ANOTHER_FORM),
        ("optimizer.pt", "optimizer.pt", carried.TRAINING_STATE),
        ("rng_state_0.pth", "rng_state_0.pth", carried.TRAINING_STATE),
        ("trainer_state.json", "trainer_state.json", carried.TRAINING_STATE),
        ("all_results.json", "all_results.json", carried.TRAINING_STATE),
        ("checkpoint-500/trainer_state.json", "checkpoint-500/", carried.TRAINING_STATE),
        ("runs/Nov30/events.out.tfevents.1", "runs/", carried.TRAINING_STATE),
        (".git/HEAD", ".git/", carried.HIDDEN),
        (".gitattributes", ".gitattributes", carried.HIDDEN),
        ("__pycache__/a.json", "__pycache__/", "a cache"),
        ("README.md", "README.md", carried.REPLACED),
        ("mergekit_config.yml", "mergekit_config.yml", carried.REPLACED),
        ("handler.py", "handler.py", carried.UNNAMED_CODE),
        ("ledger.sqlite", "ledger.sqlite", "a database"),
    ],
)
def test_what_is_not_the_models_stays_behind_with_the_reason(tmp_path: Path, file: str, left: str, why: str) -> None:
    found = carried_files(folder(tmp_path / "m", "tokenizer.json", file))
    assert names(found) == {"tokenizer.json"}
    assert found.left == {left: why}


def test_code_that_a_config_names_is_copied_with_what_it_imports(tmp_path: Path) -> None:
    auto_map = {
        "AutoConfig": "configuration_mine.Config",
        "AutoModel": "modeling_mine.Mine",
        "AutoTokenizer": ["t.T", None],
    }
    path = folder(tmp_path / "m", "configuration_mine.py", "layers.py", "other.py", config={"auto_map": auto_map})
    (path / "modeling_mine.py").write_text("import os\nfrom .layers import Layer\nfrom . import configuration_mine\n")
    found = carried_files(path)
    assert set(found.code) == {"configuration_mine.py", "modeling_mine.py", "layers.py"}
    assert set(found.code) <= names(found)
    assert found.missing == ("t.py",)
    assert found.left == {"other.py": carried.UNNAMED_CODE}


@pytest.mark.parametrize(
    "named", ["org/name--modeling.Mine", "../../secret.Mine", "/etc/passwd", 3, None, ["a", 3], {"x": 1}, "a b.C"]
)
def test_code_is_never_looked_for_outside_the_folder(tmp_path: Path, named: Any) -> None:
    (tmp_path / "secret.py").write_text("")
    path = folder(tmp_path / "m", config={"auto_map": {"AutoModel": named}}, modules=[{"type": named}, named])
    found = carried_files(path)
    assert found.code == ()
    assert names(found) == {"modules.json"}


def test_a_library_s_module_is_no_missing_file(tmp_path: Path) -> None:
    modules = [{"path": "", "type": "pylate.models.Dense"}, {"path": "1_Own", "type": "own.Layer"}]
    found = carried_files(folder(tmp_path / "m", "own.py", "1_Own/config.json", modules=modules))
    assert (found.code, found.missing) == (("own.py",), ())


def test_the_tokenizer_of_another_model_brings_templates_and_generation_settings(tmp_path: Path) -> None:
    shared = ("tokenizer.json", "chat_template.jinja", "generation_config.json", "preprocessor_config.json")
    base = folder(tmp_path / "base", *shared, "vocab.txt", "processor_config.json", "chat_templates/old.jinja")
    chat = folder(tmp_path / "chat", *shared, "merges.txt", "chat_templates/new.jinja", "tokenization_mine.py")
    (chat / "tokenizer_config.json").write_text(
        json.dumps({"auto_map": {"AutoTokenizer": ["tokenization_mine.T", None]}})
    )
    found = carried_files(base, chat)
    assert {name: path.relative_to(tmp_path).parts[0] for name, path in found.files.items()} == {
        "tokenizer.json": "chat",
        "tokenizer_config.json": "chat",
        "merges.txt": "chat",
        "chat_template.jinja": "chat",
        "chat_templates/new.jinja": "chat",
        "generation_config.json": "chat",
        "tokenization_mine.py": "chat",
        "preprocessor_config.json": "base",
        "processor_config.json": "base",
    }
    (chat / "generation_config.json").unlink()
    assert carried_files(base, chat).files["generation_config.json"] == base / "generation_config.json"


def test_links_are_followed_within_the_folder_and_to_the_hub_s_blobs_only(tmp_path: Path) -> None:
    model = folder(tmp_path / "home" / "model", "tokenizer.json")
    key = tmp_path / "home" / ".ssh" / "id_rsa"
    key.parent.mkdir()
    key.write_text("secret")
    (model / "vocab_notes.txt").symlink_to("../.ssh/id_rsa")
    (model / "vocab.txt").symlink_to(key)
    (model / "assets").symlink_to(tmp_path)
    (model / "same.json").symlink_to("tokenizer.json")
    away = dict.fromkeys(("assets", "vocab.txt", "vocab_notes.txt"), carried.ELSEWHERE)
    found = carried_files(model)
    assert names(found) == {"tokenizer.json", "same.json"}
    assert found.left == away
    (model / "config.json").unlink()
    found = carried_files(model)
    assert names(found) == {"tokenizer.json"}
    assert found.left == {"vocab.txt": carried.ELSEWHERE}


def test_a_snapshot_of_the_hub_s_cache_is_links_to_its_own_blobs(tmp_path: Path) -> None:
    entry = tmp_path / "models--org--name"
    hub = folder(entry / "snapshots" / "abc", "1_Pooling/config.json")
    digest, notes = "0123456789" * 4, "notes.txt"
    (entry / "blobs").mkdir()
    (tmp_path / "other" / "blobs").mkdir(parents=True)
    for path in (entry / "blobs" / digest, entry / "blobs" / notes, tmp_path / "other" / "blobs" / digest):
        path.write_text("{}")
    (hub / "tokenizer.json").symlink_to(f"../../blobs/{digest}")
    (hub / "1_Pooling" / "more.json").symlink_to(f"../../../blobs/{digest}")
    (hub / "notes.txt").symlink_to(f"../../blobs/{notes}")
    (hub / "vocab.txt").symlink_to(f"../../../other/blobs/{digest}")
    found = carried_files(hub)
    assert names(found) == {"tokenizer.json", "1_Pooling/config.json", "1_Pooling/more.json"}
    assert found.left == dict.fromkeys(("notes.txt", "vocab.txt"), carried.ELSEWHERE)


def test_code_behind_a_link_stays_behind_with_the_tokenizer_that_names_it(tmp_path: Path) -> None:
    base, chat = folder(tmp_path / "base"), folder(tmp_path / "chat", "tokenizer.json")
    (tmp_path / "t.py").write_text("")
    (chat / "t.py").symlink_to("../t.py")
    (chat / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["t.T", None]}}))
    found = carried_files(base, chat)
    assert names(found) == {"tokenizer.json", "tokenizer_config.json"}
    assert found.code == ()


def test_adapters_of_a_module_go_along_with_its_weights(tmp_path: Path) -> None:
    files = ("0_Own/adapter_config.json", "0_Own/adapter_model.safetensors")
    assert names(carried_files(folder(tmp_path / "m", *files, modules=[{"path": "0_Own"}]))) == {"modules.json", *files}


@pytest.mark.parametrize(
    "text", ["\n" * 900_000, "from ." + "a" * 900_000, "from" + " " * 900_000, "from .a.b" * 90_000]
)
def test_imports_are_found_in_linear_time(tmp_path: Path, text: str) -> None:
    path = folder(tmp_path / "m", "layers.py", config={"auto_map": {"AutoModel": "mine.Mine"}})
    # Quadratic work would take hours.
    (path / "mine.py").write_text(f"{text}\n\tfrom  .layers import Layer\n")
    assert carried_files(path).code == ("mine.py", "layers.py")


def test_a_pipe_is_waited_for_by_nobody(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", "tokenizer.json")
    for name in ("modules.json", "tokenizer_config.json"):
        os.mkfifo(path / name)
    found = carried_files(path)
    assert names(found) == {"tokenizer.json"}
    assert found.left == dict.fromkeys(("modules.json", "tokenizer_config.json"), "not a file")


def test_weights_without_a_config_may_lie_beside_anything(tmp_path: Path) -> None:
    path = folder(tmp_path / "downloads", "tokenizer.json", "taxes.json")
    (path / "config.json").unlink()
    assert names(carried_files(path)) == {"tokenizer.json"}
    assert carried_files(tmp_path / "nowhere") == CarriedFiles()
    assert carried_files(None) == CarriedFiles()


def test_the_work_is_bounded_in_files_bytes_and_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder(tmp_path / "m", "a.json", "b/c/d/e/f/g/h/i.json", "x.json", "y.json")
    (path / "a.json").write_text(" " * 101)
    monkeypatch.setattr(carried, "MOST_BYTES", 100)
    found = carried_files(path)
    assert names(found) == {"x.json", "y.json"}
    assert found.left == {
        "a.json": "101 bytes, and at most 100 are carried",
        "b/c/d/e/f/g/h/": "nested too deeply",
    }
    (path / "y.json").write_text(" " * 60)
    monkeypatch.setattr(carried, "MOST_BYTES_IN_ALL", 61)
    found = carried_files(path)
    assert names(found) == {"x.json"}
    assert found.left["y.json"] == carried.TOO_MUCH
    assert "1,000,000,000 bytes in all" in carried.TOO_MUCH
    monkeypatch.setattr(carried, "MOST_FILES", 3)
    assert carried_files(path).left["..."] == "more than 3 files"


@pytest.mark.slow
def test_every_file_that_a_tokenizer_of_transformers_names_is_known_as_one() -> None:
    import transformers
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    named = {
        name for entry in TOKENIZER_MAPPING_NAMES.values() for name in (entry if isinstance(entry, tuple) else [entry])
    }
    files: set[str] = set()
    for name in sorted(filter(None, named)):
        # Of a class whose library is not installed only a stand-in is there.
        with contextlib.suppress(AttributeError, ImportError):
            files |= set(getattr(transformers, name).vocab_files_names.values())
    assert len(files) > 15
    assert files <= carried.TOKENIZER_FILES
