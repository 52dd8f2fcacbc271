"""Writes a checkpoint with the real layer shapes of a released model: few layers, random weights.

    python tests/golden/make_slice.py v2-lite DIRECTORY
    python tests/golden/make_slice.py v3 DIRECTORY

Tiny models alone are no proof. These are not kept: they are made and checked where there is room
(README.md says how much), with golden.json and logits.bin beside the weights.
"""

import sys
from pathlib import Path

from make_models import FP8, OLD, old_yarn, v2, v3, write_with_reference
from reference import write_golden

SEED = 2000
# What both have; the vocabulary is cut, which nothing but the size of the head depends on.
SHAPES = dict(
    kv_lora_rank=512,
    max_position_embeddings=163840,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    vocab_size=1024,
)
# name: (config, how it is stored)
SLICES = {
    "v2-lite": (
        v2(
            OLD,
            "bfloat16",
            **SHAPES,
            hidden_size=2048,
            intermediate_size=10944,
            moe_intermediate_size=1408,
            n_routed_experts=64,
            num_attention_heads=16,
            num_experts_per_tok=6,
            num_hidden_layers=3,
            **old_yarn(original=4096, mscale=0.707, mscale_all_dim=0.707),
        ),
        dict(dtype="BF16"),
    ),
    # A dense and a sparse layer; 16 of the 256 experts in the model's 8 groups.
    "v3": (
        v3(
            OLD,
            "bfloat16",
            **SHAPES,
            hidden_size=7168,
            intermediate_size=18432,
            moe_intermediate_size=2048,
            n_group=8,
            n_routed_experts=16,
            num_attention_heads=128,
            num_experts_per_tok=4,
            num_hidden_layers=2,
            q_lora_rank=1536,
            quantization_config=FP8 | {"weight_block_size": [128, 128]},
            topk_group=4,
            **old_yarn(original=4096),
        ),
        dict(dtype="FP8"),
    ),
}


def main():
    config, storage = SLICES[sys.argv[1]]
    directory = Path(sys.argv[2])
    reference = write_with_reference(directory, config, SEED, shards=8, **storage)
    write_golden(directory, reference, SEED, [1, 2, 17, 300], [17], 16)


if __name__ == "__main__":
    main()
