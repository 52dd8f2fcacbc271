"""Writes a checkpoint with the layer shapes of DeepSeek-V2-Lite, few layers and random weights.

    python tests/golden/make_v2_lite_slice.py DIRECTORY     # 2.6 GB; needs 12 GB of memory

Tiny models alone are no proof. This one is not kept: it is made and checked where there is room,
with the golden.json and logits.bin of README.md beside the weights (greedy: 16 tokens).
"""

import sys
from pathlib import Path

import checkpoint
from make_models import OLD, old_yarn, v2
from reference import Reference, write_golden

SEED = 2000
CONFIG = v2(
    OLD,
    "bfloat16",
    hidden_size=2048,
    intermediate_size=10944,
    kv_lora_rank=512,
    max_position_embeddings=163840,
    moe_intermediate_size=1408,
    n_routed_experts=64,
    num_attention_heads=16,
    num_experts_per_tok=6,
    num_hidden_layers=3,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    vocab_size=1024,
    **old_yarn(original=4096, mscale=0.707, mscale_all_dim=0.707),
)


def main():
    directory = Path(sys.argv[1])
    weights = checkpoint.store_as(checkpoint.random_weights(CONFIG, SEED), "BF16")
    checkpoint.write_checkpoint(directory, CONFIG, weights, shards=4)
    del weights
    write_golden(directory, Reference(directory), SEED, [1, 2, 17, 300], [17], 16)


if __name__ == "__main__":
    main()
