"""Makes the tiny random checkpoints and their golden outputs in tests/golden/models/.

    python tests/golden/make_models.py [NAME...]      # needs transformers >= 5.16, CPU torch

Each entry of MODELS is a config.json as the Hub has it, and how the weights are stored. README.md
tells the format of the goldens and what each model is for.
"""

import sys
import tempfile
from pathlib import Path

import checkpoint
from packaging.version import Version
from reference import Reference, write_golden

import transformers

MODELS_DIR = Path(__file__).parent / "models"
PROMPT_LENGTHS = [1, 2, 17, 300]
GREEDY_LENGTHS = [2, 17, 300]
GREEDY_COUNT = 64


def old_yarn(factor=40, original=64, mscale=1.0, mscale_all_dim=1.0, fast=32, slow=1, theta=10000):
    """YaRN as Hub files spell it."""
    return {
        "rope_theta": theta,
        "rope_scaling": {
            "beta_fast": fast,
            "beta_slow": slow,
            "factor": factor,
            "mscale": mscale,
            "mscale_all_dim": mscale_all_dim,
            "original_max_position_embeddings": original,
            "type": "yarn",
        },
    }


def new_yarn(factor=40.0, original=64, mscale=1.0, mscale_all_dim=1.0, theta=10000.0, **extra):
    """YaRN as transformers 5 saves it."""
    return {
        "rope_parameters": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": factor,
            "mscale": mscale,
            "mscale_all_dim": mscale_all_dim,
            "original_max_position_embeddings": original,
            "rope_theta": theta,
            "rope_type": "yarn",
            **extra,
        },
    }


def v2(dtype_key, dtype, **keys):
    config = {
        "architectures": ["DeepseekV2ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "first_k_dense_replace": 1,
        "hidden_act": "silu",
        "hidden_size": 64,
        "initializer_range": 0.02,
        "intermediate_size": 96,
        "kv_lora_rank": 32,
        "max_position_embeddings": 2560,
        "model_type": "deepseek_v2",
        "moe_intermediate_size": 28,
        "moe_layer_freq": 1,
        "n_group": 1,
        "n_routed_experts": 8,
        "n_shared_experts": 2,
        "norm_topk_prob": False,
        "num_attention_heads": 4,
        "num_experts_per_tok": 3,
        "num_hidden_layers": 3,
        "num_key_value_heads": keys.get("num_attention_heads", 4),
        "q_lora_rank": None,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "rms_norm_eps": 1e-06,
        "routed_scaling_factor": 1.0,
        "scoring_func": "softmax",
        "tie_word_embeddings": False,
        "topk_group": 1,
        "topk_method": "greedy",
        dtype_key: dtype,
        "use_cache": True,
        "v_head_dim": 16,
        "vocab_size": 160,
    }
    return config | keys


def v3(dtype_key, dtype, **keys):
    config = v2(dtype_key, dtype) | {
        "architectures": ["DeepseekV3ForCausalLM"],
        "ep_size": 1,
        "model_type": "deepseek_v3",
        "n_group": 4,
        "n_routed_experts": 16,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_experts_per_tok": 4,
        "num_key_value_heads": keys.get("num_attention_heads", 4),
        "num_nextn_predict_layers": 0,
        "q_lora_rank": 48,
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
        "topk_group": 2,
        "topk_method": "noaux_tc",
    }
    return config | keys


FP8 = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8"}
OLD, NEW = "torch_dtype", "dtype"

# name: (config, how it is stored)
MODELS = {
    "v2-lite": (
        v2(OLD, "bfloat16", **old_yarn(mscale=0.707, mscale_all_dim=0.707)),
        dict(dtype="BF16"),
    ),
    "v2-groups": (
        v2(
            NEW,
            "bfloat16",
            n_group=4,
            n_routed_experts=16,
            num_experts_per_tok=4,
            q_lora_rank=40,
            routed_scaling_factor=16.0,
            topk_group=2,
            topk_method="group_limited_greedy",
            **new_yarn(),
        ),
        dict(dtype="BF16"),
    ),
    "v2-no-yarn-odd": (
        v2(
            OLD,
            "float16",
            first_k_dense_replace=0,
            hidden_size=72,
            intermediate_size=100,
            kv_lora_rank=36,
            moe_intermediate_size=44,
            n_shared_experts=1,
            num_attention_heads=3,
            num_hidden_layers=2,
            qk_nope_head_dim=20,
            qk_rope_head_dim=12,
            rope_scaling=None,
            rope_theta=10000,
            v_head_dim=28,
            vocab_size=131,
        ),
        dict(dtype="F16"),
    ),
    "v2-fused-experts": (
        v2(
            NEW,
            "bfloat16",
            q_lora_rank=24,
            **new_yarn(mscale=0.707, mscale_all_dim=0.707, type="yarn"),
        ),
        dict(dtype="BF16", fused=True, shards=3),
    ),
    "v2-bias-mscale": (
        v2(
            OLD,
            "bfloat16",
            attention_bias=True,
            max_position_embeddings=1024,
            q_lora_rank=40,
            v_head_dim=24,
            **old_yarn(factor=16, mscale=1.0, mscale_all_dim=0.707),
        ),
        dict(dtype="BF16"),
    ),
    "v3-groups": (
        v3(OLD, "bfloat16", num_hidden_layers=4, first_k_dense_replace=2, **old_yarn()),
        dict(dtype="BF16", shards=2),
    ),
    "v3-negative-bias": (
        v3(NEW, "bfloat16", **new_yarn()),
        dict(dtype="BF16", gate_bias=-1.5),
    ),
    "v3-one-group": (
        v3(
            OLD,
            "bfloat16",
            max_position_embeddings=2048,
            n_group=1,
            n_routed_experts=12,
            rms_norm_eps=1e-05,
            routed_scaling_factor=2.827,
            topk_group=1,
            **old_yarn(factor=32, fast=1, theta=50000),
        ),
        dict(dtype="BF16", embed_std=0.02, latent_gain=0.01),
    ),
    "v3-no-q-lora": (
        v3(
            OLD,
            "bfloat16",
            first_k_dense_replace=0,
            n_shared_experts=2,
            norm_topk_prob=False,
            num_hidden_layers=2,
            q_lora_rank=None,
            rope_theta=10000,
            routed_scaling_factor=1.0,
        ),
        dict(dtype="BF16", bias_dtype="BF16"),
    ),
    "v3-wide-values": (
        v3(
            NEW,
            "bfloat16",
            n_group=1,
            n_routed_experts=12,
            qk_nope_head_dim=24,
            rope_parameters={"rope_theta": 1000000.0, "rope_type": "default"},
            routed_scaling_factor=1.8,
            topk_group=1,
            v_head_dim=40,
        ),
        dict(dtype="BF16"),
    ),
    "v3-odd": (
        v3(
            OLD,
            "float32",
            attention_bias=True,
            hidden_size=70,
            intermediate_size=101,
            kv_lora_rank=37,
            max_position_embeddings=512,
            moe_intermediate_size=33,
            n_group=3,
            n_routed_experts=9,
            num_attention_heads=3,
            num_experts_per_tok=3,
            q_lora_rank=22,
            qk_nope_head_dim=19,
            qk_rope_head_dim=10,
            v_head_dim=23,
            vocab_size=127,
            **old_yarn(factor=8),
        ),
        dict(dtype="F32"),
    ),
    "v3-mtp": (
        v3(OLD, "bfloat16", n_routed_experts=8, num_nextn_predict_layers=1, **old_yarn()),
        dict(dtype="BF16", mtp=True, shards=2),
    ),
    "v3-fp8": (
        v3(
            OLD,
            "bfloat16",
            hidden_size=128,
            intermediate_size=256,
            kv_lora_rank=128,
            moe_intermediate_size=128,
            n_group=1,
            n_routed_experts=4,
            num_attention_heads=2,
            num_experts_per_tok=2,
            num_hidden_layers=2,
            q_lora_rank=128,
            qk_nope_head_dim=64,
            qk_rope_head_dim=128,
            quantization_config=FP8 | {"weight_block_size": [128, 128]},
            topk_group=1,
            v_head_dim=64,
            **old_yarn(),
        ),
        dict(dtype="FP8"),
    ),
    "v3-fp8-partial": (
        v3(
            OLD,
            "bfloat16",
            hidden_size=160,
            intermediate_size=200,
            kv_lora_rank=136,
            moe_intermediate_size=136,
            n_group=2,
            n_routed_experts=6,
            num_attention_heads=3,
            num_experts_per_tok=2,
            num_hidden_layers=2,
            q_lora_rank=72,
            qk_nope_head_dim=40,
            qk_rope_head_dim=16,
            quantization_config=FP8 | {"scale_fmt": "ue8m0", "weight_block_size": [128, 128]},
            topk_group=1,
            v_head_dim=56,
            **old_yarn(),
        ),
        dict(dtype="FP8", power_of_two=True),
    ),
}


def write_with_reference(directory, config, seed, dtype, *, shards=1, fused=False, mtp=False,
                         power_of_two=False, bias_dtype="F32", **gains):
    """Writes random weights and loads them with transformers.

    `gains` go to checkpoint.random_weights. Nothing is held twice for longer than it must: slices
    of large models pass here too.
    """
    weights = checkpoint.random_weights(config, seed, **gains)
    if mtp:
        weights |= checkpoint.mtp_weights(config, seed + 100)
    if dtype != "FP8":
        weights = checkpoint.store_as(weights, dtype, bias_dtype)
        if fused:
            weights = checkpoint.fuse_experts(weights, config)
        checkpoint.write_checkpoint(directory, config, weights, shards)
        del weights
        return Reference(directory)
    stored, exact = checkpoint.quantise_fp8(weights, power_of_two)
    checkpoint.write_checkpoint(directory, config, stored, shards)
    del stored
    # transformers cannot dequantise partial blocks, so it is given the float32 values.
    plain = {key: value for key, value in config.items() if key != "quantization_config"}
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint.write_checkpoint(scratch, plain, exact, shards)
        del exact
        return Reference(scratch)


def make(name, config, storage):
    seed = 1000 + list(MODELS).index(name)
    directory = MODELS_DIR / name
    reference = write_with_reference(directory, config, seed, **storage)
    write_golden(directory, reference, seed, PROMPT_LENGTHS, GREEDY_LENGTHS, GREEDY_COUNT)
    size = sum(file.stat().st_size for file in directory.iterdir())
    print(f"{name}: {size / 1e6:.2f} MB", flush=True)


def main():
    if Version(transformers.__version__) < Version("5.16"):
        sys.exit("transformers >= 5.16 is needed: older ones forget mscale in V2's softmax scale")
    for name in sys.argv[1:] or MODELS:
        config, storage = MODELS[name]
        make(name, config, storage)


if __name__ == "__main__":
    main()
