"""Makes the example files beside this one: small tensors quantised by the real libraries, and what these say they are.

Run by hand when a library changes its files; the tests only read them. It needs bitsandbytes, compressed-tensors and
auto-gptq (`pip install --no-deps`), and checkouts of AutoAWQ and GPTQModel, whose packages cannot be installed without
a GPU:

    python tests/weights/quantised_examples/make.py AUTOAWQ GPTQMODEL
"""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
import types
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
ROWS, COLUMNS = 48, 64


def keep(case: str, maker: str, settings: dict[str, Any], stored: dict[str, Any], expected: dict[str, Any]) -> None:
    """One file: stored tensors under their own names, and what the library makes of them after "expected:"."""
    tensors = {name: value.detach().contiguous().clone() for name, value in stored.items()}
    tensors |= {f"expected:{name}": value.detach().contiguous().clone() for name, value in expected.items()}
    kinds = {str(value.dtype).removeprefix("torch.") for value in expected.values()}
    assert len(kinds) == 1, kinds
    said = {"settings": json.dumps(settings), "maker": maker, "dtype": kinds.pop()}
    save_file(tensors, HERE / f"{case}.safetensors", metadata=said)


def weights(seed: int, rows: int = ROWS, columns: int = COLUMNS) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.05


def bitsandbytes_examples() -> None:
    import bitsandbytes as bnb

    maker = f"bitsandbytes {version('bitsandbytes')}"
    cases = {
        "nf4": ("nf4", False, torch.float32, torch.uint8),
        "nf4_nested": ("nf4", True, torch.bfloat16, torch.uint8),
        "fp4": ("fp4", False, torch.float16, torch.uint8),
        "fp4_nested_in_bfloat16": ("fp4", True, torch.float32, torch.bfloat16),
    }
    for number, (case, (kind, nested, dtype, storage)) in enumerate(cases.items()):
        # With nested scales a tensor needs many blocks for more than one scale of scales.
        rows, columns = (20, 1024) if nested and storage == torch.uint8 else (ROWS, COLUMNS)
        codes, state = bnb.functional.quantize_4bit(
            weights(number, rows, columns).to(dtype),
            blocksize=64,
            compress_statistics=nested,
            quant_type=kind,
            quant_storage=storage,
        )
        stored = {"layer.weight": codes} | {
            f"layer.weight.{name}": value for name, value in state.as_dict(packed=True).items()
        }
        expected = bnb.functional.dequantize_4bit(codes, state)
        settings = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind}
        keep(f"bitsandbytes_{case}", maker, settings, stored, {"layer.weight": expected})
    codes, scales, _ = bnb.functional.int8_vectorwise_quant(weights(9).half())
    stored = {"layer.weight": codes, "layer.SCB": scales, "layer.weight_format": torch.tensor(0, dtype=torch.uint8)}
    expected = bnb.functional.int8_vectorwise_dequant(codes, scales)
    settings = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    keep("bitsandbytes_int8", maker, settings, stored, {"layer.weight": expected})


def fp8_examples() -> None:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    maker = f"transformers {version('transformers')}"
    oracle = Fp8Dequantize(None)

    def of(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        return oracle._dequantize_one(codes, scales, torch.bfloat16)

    def grid(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=torch.Generator().manual_seed(3)) * 0.01 + 0.001

    four, five = (weights(11) * 400).to(torch.float8_e4m3fn), (weights(12) * 400).to(torch.float8_e5m2)
    block = {"quant_method": "fp8", "weight_block_size": [16, 16], "activation_scheme": "dynamic"}
    experts = (weights(13, 2 * ROWS, COLUMNS) * 400).to(torch.float8_e4m3fn).reshape(2, ROWS, COLUMNS)
    nibbles = torch.randint(-128, 128, (ROWS, COLUMNS // 2), generator=torch.Generator().manual_seed(4)).to(torch.int8)
    powers = torch.randint(110, 130, (ROWS, COLUMNS // 32), generator=torch.Generator().manual_seed(5)).to(torch.uint8)
    for case, settings, codes, name, scales in (
        ("fp8_blocks", block, four, "weight_scale_inv", grid(3, 4)),
        ("fp8_tensor_e5m2", {"quant_method": "fp8", "activation_scheme": "static"}, five, "weight_scale", grid(1)[0]),
        ("fp8_rows", {"quant_method": "fbgemm_fp8"}, four, "weight_scale", grid(ROWS, 1)),
        ("fp8_experts", block, experts, "weight_scale_inv", grid(2, 3, 4)),
        ("fp8_e2m1_experts", block, nibbles, "scale", powers.view(torch.float8_e8m0fnu)),
        ("mxfp8", {"quant_method": "mxfp8", "weight_block_size": [1, 32]}, four, "weight_scale_inv", powers),
    ):
        stored = {"layer.weight": codes, f"layer.{name}": scales, "layer.input_scale": torch.ones(())}
        keep(case, maker, settings, stored, {"layer.weight": of(codes, scales)})


def mxfp4_examples() -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    random = torch.Generator().manual_seed(6)
    codes = torch.randint(0, 256, (2, ROWS, 3, 16), generator=random).to(torch.uint8)
    scales = torch.randint(100, 140, (2, ROWS, 3), generator=random).to(torch.uint8)
    keep(
        "mxfp4",
        f"transformers {version('transformers')}",
        {"quant_method": "mxfp4"},
        {"experts.gate_up_proj_blocks": codes, "experts.gate_up_proj_scales": scales},
        {"experts.gate_up_proj": convert_moe_packed_tensors(codes, scales, dtype=torch.bfloat16)},
    )


def compressed_tensors_examples() -> None:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    maker = f"compressed-tensors {version('compressed-tensors')}"
    cases = {
        "int8_rows": ("int-quantized", {"num_bits": 8, "type": "int", "strategy": "channel"}, (ROWS, 1), 0.002),
        "int8_zeros": (
            "int-quantized",
            {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": False},
            (ROWS, 1),
            0.002,
        ),
        "int4_groups": (
            "pack-quantized",
            {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32},
            (ROWS, 2),
            0.02,
        ),
        "int4_zeros": (
            "pack-quantized",
            {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 16, "symmetric": False},
            (ROWS, 4),
            0.02,
        ),
        "int3": ("pack-quantized", {"num_bits": 3, "type": "int", "strategy": "channel"}, (ROWS, 1), 0.04),
        "int8_packed": ("pack-quantized", {"num_bits": 8, "type": "int", "strategy": "channel"}, (ROWS, 1), 0.002),
        "float8_tensor": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "tensor"}, (1,), 0.001),
        "float8_blocks": (
            "float-quantized",
            # 40 columns do not divide 64: the last block is narrower.
            {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [32, 40]},
            (2, 2),
            0.001,
        ),
        "nvfp4": (
            "nvfp4-pack-quantized",
            {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16},
            (ROWS, 4),
            30.0,
        ),
        "mxfp4": (
            "mxfp4-pack-quantized",
            {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32},
            (ROWS, 2),
            0.02,
        ),
        "mxfp6": (
            "mxfp6-pack-quantized",
            {"num_bits": 6, "type": "float", "strategy": "group", "group_size": 32},
            (ROWS, 2),
            0.01,
        ),
        "mxfp8": (
            "mxfp8-quantized",
            {"num_bits": 8, "type": "float", "strategy": "group", "group_size": 32, "scale_dtype": torch.uint8},
            (ROWS, 2),
            0.001,
        ),
    }
    for number, (case, (form, said, shape, size)) in enumerate(cases.items()):
        arguments = QuantizationArgs(**said)
        scheme = QuantizationScheme(targets=["Linear"], weights=arguments, format=form)
        random = torch.Generator().manual_seed(number)
        scales = (torch.rand(shape, generator=random) * size + size / 2).to(torch.bfloat16)
        state: dict[str, torch.Tensor] = {"weight": weights(20 + number).bfloat16(), "weight_scale": scales}
        if said.get("symmetric") is False:
            most = 2 ** (said["num_bits"] - 1)
            state["weight_zero_point"] = torch.randint(-most, most, shape, generator=random).to(torch.int8)
        if form == "nvfp4-pack-quantized":
            state["weight_global_scale"] = torch.tensor([2000.0])
        compressor = BaseCompressor.get_value_from_registry(form)
        stored = compressor.compress(state, scheme)
        expected = compressor.decompress(stored, scheme)["weight"]
        group = json.loads(scheme.model_dump_json(exclude_none=True))
        settings = {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}}
        keep(
            f"compressed_tensors_{case}",
            maker,
            settings,
            {f"layer.{name}": value for name, value in stored.items()},
            {"layer.weight": expected},
        )


def gptq_examples(checkout: Path) -> None:
    home = importlib.util.find_spec("auto_gptq").submodule_search_locations[0]  # type: ignore[union-attr, index]
    spec = importlib.util.spec_from_file_location("old", Path(home) / "nn_modules/qlinear/qlinear_cuda_old.py")
    old = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(old)  # type: ignore[union-attr]
    maker = f"auto-gptq {version('auto-gptq')}"
    for bits in (2, 3, 4, 8):
        group = 32
        layer = old.QuantLinear(bits, group, COLUMNS, 64, False, use_cuda_fp16=False, weight_dtype=torch.float32)
        linear = torch.nn.Linear(COLUMNS, 64, bias=False)
        linear.weight.data = weights(40 + bits, 64)
        scales = linear.weight.data.reshape(64, -1, group).abs().amax(-1) * 2 / 2**bits
        # AutoGPTQ keeps each zero point less 1 and lets 0 run over.
        zeros = torch.randint(1, 2**bits - 1, scales.shape, generator=torch.Generator().manual_seed(bits)).float()
        limits = (0 - zeros) * scales, (2**bits - 1 - zeros) * scales
        bounded = linear.weight.data.reshape(64, -1, group)
        linear.weight.data = bounded.clamp(limits[0][..., None], limits[1][..., None]).reshape(64, COLUMNS)
        layer.pack(linear, scales, zeros, None)
        layer.scales = layer.scales.half().float()
        stored = {f"layer.{name}": value for name, value in layer.state_dict().items()}
        stored["layer.scales"] = stored["layer.scales"].half()
        settings = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": False, "sym": False}
        keep(f"gptq_{bits}_bits", maker, settings, stored, {"layer.weight": layer(torch.eye(COLUMNS)).mT})
        if bits in (3, 4):
            model_gptq_example(checkout, bits, stored)


def model_gptq_example(checkout: Path, bits: int, stored: dict[str, torch.Tensor]) -> None:
    """The second form of zero points, and inputs in an order of their own, by GPTQModel's own lines."""
    text = (checkout / "gptqmodel/nn_modules/qlinear/__init__.py").read_text()
    tree = ast.parse(text)
    kind = next(one for one in tree.body if isinstance(one, ast.ClassDef) and one.name == "PackableQuantLinear")
    wanted = {"dequantize_weight", "_dequantize_from_codes", "_init_wf_unsqueeze_buffers", "_wf_device"}
    body: list[ast.stmt] = [one for one in kind.body if isinstance(one, ast.FunctionDef) and one.name in wanted]
    taken = ast.Module([ast.ClassDef("Taken", [ast.Name("Base", ast.Load())], [], body, [])], [])
    scope: dict[str, Any] = {
        "t": torch,
        "Base": torch.nn.Module,
        "_torch_right_shift": torch.bitwise_right_shift,
        "_torch_left_shift": torch.bitwise_left_shift,
    }
    exec(compile(ast.fix_missing_locations(taken), "GPTQModel", "exec"), scope)
    order = torch.randperm(COLUMNS, generator=torch.Generator().manual_seed(bits)) // 32
    layer = scope["Taken"]()
    layer.planar, layer.bits, layer.maxq, layer.pack_dtype_bits = False, bits, 2**bits - 1, 32
    layer.pack_factor, layer.enable_wf_unsqueeze, layer.dequant_dtype = 32 // bits, True, torch.int8
    layer.g_idx = order.to(torch.int32)
    layer.qweight, layer.qzeros = stored["layer.qweight"], stored["layer.qzeros"]
    layer.scales = stored["layer.scales"].float()
    settings = {"quant_method": "gptq", "bits": bits, "group_size": 32, "desc_act": True}
    keep(
        f"gptq_{bits}_bits_v2_ordered",
        "GPTQModel's dequantize_weight",
        settings | {"checkpoint_format": "gptq_v2"},
        {**stored, "layer.g_idx": layer.g_idx},
        {"layer.weight": layer.dequantize_weight().mT},
    )


def awq_examples(checkout: Path) -> None:
    for name, path in (("awq", "awq"), ("awq.modules", "awq/modules"), ("awq.modules.linear", "awq/modules/linear")):
        module = types.ModuleType(name)
        module.__path__ = [str(checkout / path)]
        sys.modules[name] = module
    module = types.ModuleType("awq.utils")
    module.__path__ = [str(checkout / "awq/utils")]
    sys.modules["awq.utils"] = module
    from awq.modules.linear.gemm import WQLinear_GEMM  # type: ignore[import-not-found]
    from awq.modules.linear.gemv import WQLinear_GEMV  # type: ignore[import-not-found]
    from awq.utils.packing_utils import dequantize_gemm  # type: ignore[import-not-found]

    linear = torch.nn.Linear(128, 64, bias=False)
    linear.weight.data = weights(60, 64, 128)
    groups = linear.weight.data.reshape(64, -1, 32)
    low, high = groups.amin(-1), groups.amax(-1)
    scales = ((high - low) / 15).half().float()
    zeros = (-low / scales).round().clamp(0, 15)
    # A code past 15 would run into its neighbour.
    low, high = (0 - zeros) * scales, (15 - zeros) * scales
    linear.weight.data = groups.clamp(low[..., None], high[..., None]).reshape(64, 128)
    settings = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
    layer = WQLinear_GEMM.from_linear(linear, 4, 32, scales=scales.mT.contiguous(), zeros=zeros.mT.contiguous())
    expected = dequantize_gemm(layer.qweight, layer.qzeros, layer.scales.float(), 4, 32).mT
    stored = {f"layer.{name}": value for name, value in layer.state_dict().items()}
    keep("awq_gemm", "AutoAWQ's dequantize_gemm", settings, stored, {"layer.weight": expected})
    layer = WQLinear_GEMV.from_linear(linear, 4, 32, scales=scales, zeros=zeros)
    stored = {f"layer.{name}": value for name, value in layer.state_dict().items()}
    # Its kernel needs a GPU; the same layer in the other layout has the same values.
    keep("awq_gemv", "AutoAWQ's dequantize_gemm", {**settings, "version": "gemv"}, stored, {"layer.weight": expected})


if __name__ == "__main__":
    bitsandbytes_examples()
    fp8_examples()
    mxfp4_examples()
    compressed_tensors_examples()
    gptq_examples(Path(sys.argv[2]))
    awq_examples(Path(sys.argv[1]))
