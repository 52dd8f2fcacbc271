"""Random DeepSeek checkpoints in the Hugging Face directory format.

Norm weights, biases and gate biases are random too: their usual start values (1 and 0) hide errors.
"""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
FP8_BLOCK = 128
FP8_MAX = 448.0


def _normal(shape, std, generator):
    return torch.randn(shape, generator=generator) * std


def _linear(out, inner, generator, gain=1.0):
    return _normal((out, inner), gain / math.sqrt(inner), generator)


def _norm(size, generator):
    return 0.8 + 0.4 * torch.rand(size, generator=generator)


def _mlp(prefix, hidden, inner, generator):
    return {
        f"{prefix}.gate_proj.weight": _linear(inner, hidden, generator),
        f"{prefix}.up_proj.weight": _linear(inner, hidden, generator),
        f"{prefix}.down_proj.weight": _linear(hidden, inner, generator),
    }


def _attention(prefix, config, generator, latent_gain):
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    query_dim = config["qk_nope_head_dim"] + config["qk_rope_head_dim"]
    latent, q_rank = config["kv_lora_rank"], config["q_lora_rank"]
    latent_and_rope = latent + config["qk_rope_head_dim"]
    weights = {}
    if q_rank is None:
        weights["q_proj.weight"] = _linear(heads * query_dim, hidden, generator)
    else:
        weights["q_a_proj.weight"] = _linear(q_rank, hidden, generator, latent_gain)
        weights["q_a_layernorm.weight"] = _norm(q_rank, generator)
        weights["q_b_proj.weight"] = _linear(heads * query_dim, q_rank, generator)
    weights["kv_a_proj_with_mqa.weight"] = _linear(latent_and_rope, hidden, generator, latent_gain)
    weights["kv_a_layernorm.weight"] = _norm(latent, generator)
    weights["kv_b_proj.weight"] = _linear(
        heads * (config["qk_nope_head_dim"] + config["v_head_dim"]), latent, generator
    )
    weights["o_proj.weight"] = _linear(hidden, heads * config["v_head_dim"], generator)
    if config["attention_bias"]:
        if q_rank is not None:
            weights["q_a_proj.bias"] = _normal(q_rank, 0.1, generator)
        weights["kv_a_proj_with_mqa.bias"] = _normal(latent_and_rope, 0.1, generator)
        weights["o_proj.bias"] = _normal(hidden, 0.1, generator)
    return {f"{prefix}.{name}": value for name, value in weights.items()}


def _moe(prefix, config, generator, gate_bias):
    hidden, inner = config["hidden_size"], config["moe_intermediate_size"]
    experts = config["n_routed_experts"]
    weights = {f"{prefix}.gate.weight": _linear(experts, hidden, generator)}
    if config["model_type"] == "deepseek_v3":
        bias = _normal(experts, 0.4, generator) + gate_bias
        bias[torch.randint(experts, (1,), generator=generator)] = -1.25
        weights[f"{prefix}.gate.e_score_correction_bias"] = bias
    for expert in range(experts):
        weights |= _mlp(f"{prefix}.experts.{expert}", hidden, inner, generator)
    shared = inner * config["n_shared_experts"]
    return weights | _mlp(f"{prefix}.shared_experts", hidden, shared, generator)


def _layer(index, config, generator, latent_gain, gate_bias):
    prefix, hidden = f"model.layers.{index}", config["hidden_size"]
    weights = {
        f"{prefix}.input_layernorm.weight": _norm(hidden, generator),
        f"{prefix}.post_attention_layernorm.weight": _norm(hidden, generator),
    }
    weights |= _attention(f"{prefix}.self_attn", config, generator, latent_gain)
    if index < config["first_k_dense_replace"]:
        return weights | _mlp(f"{prefix}.mlp", hidden, config["intermediate_size"], generator)
    return weights | _moe(f"{prefix}.mlp", config, generator, gate_bias)


def random_weights(config, seed, embed_std=1.0, latent_gain=1.0, gate_bias=0.0):
    """Float32 tensors of the main model by Hugging Face name.

    A small `latent_gain` or `embed_std` makes the epsilon of the norms behind them count.
    """
    generator = torch.Generator().manual_seed(seed)
    vocab, hidden = config["vocab_size"], config["hidden_size"]
    weights = {"model.embed_tokens.weight": _normal((vocab, hidden), embed_std, generator)}
    for index in range(config["num_hidden_layers"]):
        weights |= _layer(index, config, generator, latent_gain, gate_bias)
    weights["model.norm.weight"] = _norm(hidden, generator)
    weights["lm_head.weight"] = _linear(vocab, hidden, generator)
    return weights


def mtp_weights(config, seed):
    """The multi-token-prediction layer that a loader of the main model ignores."""
    generator = torch.Generator().manual_seed(seed)
    index, hidden, vocab = config["num_hidden_layers"], config["hidden_size"], config["vocab_size"]
    prefix = f"model.layers.{index}"
    weights = {
        f"{prefix}.enorm.weight": _norm(hidden, generator),
        f"{prefix}.hnorm.weight": _norm(hidden, generator),
        f"{prefix}.eh_proj.weight": _linear(hidden, 2 * hidden, generator),
        f"{prefix}.shared_head.norm.weight": _norm(hidden, generator),
        f"{prefix}.shared_head.head.weight": _linear(vocab, hidden, generator),
        f"{prefix}.embed_tokens.weight": _normal((vocab, hidden), 1.0, generator),
    }
    return weights | _layer(index, config, generator, 1.0, 0.0)


def store_as(weights, dtype, bias_dtype="F32"):
    """Rounds to the stored dtype; the gate's bias has its own."""
    return {
        name: value.to(DTYPES[bias_dtype if name.endswith("correction_bias") else dtype])
        for name, value in weights.items()
    }


def fuse_experts(weights, config):
    """Replaces per-expert tensors by the fused ones that some checkpoints ship."""
    fused = {name: value for name, value in weights.items() if ".mlp.experts." not in name}
    for index in range(config["first_k_dense_replace"], config["num_hidden_layers"]):
        prefix = f"model.layers.{index}.mlp.experts"
        parts = [
            [weights[f"{prefix}.{e}.{p}_proj.weight"] for e in range(config["n_routed_experts"])]
            for p in ("gate", "up", "down")
        ]
        gate, up, down = (torch.stack(part) for part in parts)
        fused[f"{prefix}.gate_up_proj"] = torch.cat([gate, up], dim=1)
        fused[f"{prefix}.down_proj"] = down
    return fused


def _per_element(scales, shape):
    """Spreads one scale per 128x128 block, partial blocks included, over the elements."""
    spread = scales.repeat_interleave(FP8_BLOCK, 0).repeat_interleave(FP8_BLOCK, 1)
    return spread[: shape[0], : shape[1]]


def quantise_fp8(weights, power_of_two):
    """FP8 tensors with `weight_scale_inv`, and the float32 values that they stand for.

    Empties `weights` on the way, so that a large model is not held twice in float32.
    """
    stored, exact = {}, {}
    for name in list(weights):
        value = weights.pop(name)
        is_linear = ".layers." in name and name.endswith("_proj.weight")
        if not is_linear and not name.endswith("kv_a_proj_with_mqa.weight"):
            stored[name] = value if name.endswith("correction_bias") else value.bfloat16()
            exact[name] = stored[name].float()
            continue
        blocks = [math.ceil(size / FP8_BLOCK) for size in value.shape]
        scales = torch.empty(blocks)
        for row in range(blocks[0]):
            for column in range(blocks[1]):
                block = value[
                    row * FP8_BLOCK : (row + 1) * FP8_BLOCK,
                    column * FP8_BLOCK : (column + 1) * FP8_BLOCK,
                ]
                scale = block.abs().max() / FP8_MAX
                scales[row, column] = 2 ** math.ceil(math.log2(scale)) if power_of_two else scale
        quantised = (value / _per_element(scales, value.shape)).to(torch.float8_e4m3fn)
        stored[name] = quantised
        stored[name + "_scale_inv"] = scales
        exact[name] = quantised.float() * _per_element(scales, value.shape)
    return stored, exact


def write_checkpoint(directory, config, weights, shards=1):
    """Writes config.json and the safetensors files, with an index if there is more than one."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    names = list(weights)
    if shards == 1:
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = names[shard * len(names) // shards : (shard + 1) * len(names) // shards]
        save_file({n: weights[n] for n in part}, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    total = sum(value.numel() * value.element_size() for value in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
