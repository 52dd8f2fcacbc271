#!/usr/bin/env python3
"""Writes a GGUF file of DeepSeek-V2-Lite's shape with random weights, for llama.cpp and ik_llama.cpp
to be measured beside Troupe (bench/results/cpu.md). Needs numpy.

    make_gguf.py OUT --experts q4_0 --rest q8_0             # 4-bit experts
    make_gguf.py OUT --experts q8_0 --rest q8_0             # all in 8 bits
    make_gguf.py OUT --layers 3 --vocab 3072 --experts bf16 --rest bf16

Norms and the router's gate are float32, as the peers' own converters write them. The format is
described in https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""
import argparse
import struct

import numpy as np

HIDDEN, HEADS, NOPE, ROPE, VALUE, LATENT = 2048, 16, 128, 64, 128, 512
DENSE, EXPERT, EXPERTS, USED, SHARED = 10944, 1408, 64, 6, 2
ALIGNMENT = 32
# type -> number in GGUF, values of a block, bytes of a block, deviation of a value with scale 1
TYPES = {
    "f32": (0, 1, 4, None),
    "bf16": (30, 1, 2, None),
    "q4_0": (2, 32, 18, 4.6),
    "q8_0": (8, 32, 34, 73.9),
}


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def field(key, value):
    """One entry of the header; numbers are u32 or f32."""
    if isinstance(value, str):
        return text(key) + struct.pack("<I", 8) + text(value)
    if isinstance(value, float):
        return text(key) + struct.pack("<If", 6, value)
    if isinstance(value, list):
        if value and isinstance(value[0], int):
            body = struct.pack(f"<IQ{len(value)}i", 5, len(value), *value)
        else:
            body = struct.pack("<IQ", 8, len(value)) + b"".join(map(text, value))
        return text(key) + struct.pack("<I", 9) + body
    return text(key) + struct.pack("<II", 4, value)


def tensors(args):
    """Names, shapes (contiguous dimension first) and types."""
    yield "token_embd.weight", (HIDDEN, args.vocab), args.rest
    yield "output.weight", (HIDDEN, args.vocab), args.rest
    yield "output_norm.weight", (HIDDEN,), "f32"
    for layer in range(args.layers):
        def name(part):
            return f"blk.{layer}.{part}.weight"
        yield name("attn_norm"), (HIDDEN,), "f32"
        yield name("attn_kv_a_norm"), (LATENT,), "f32"
        yield name("attn_q"), (HIDDEN, HEADS * (NOPE + ROPE)), args.rest
        yield name("attn_kv_a_mqa"), (HIDDEN, LATENT + ROPE), args.rest
        yield name("attn_k_b"), (NOPE, LATENT, HEADS), args.rest
        yield name("attn_v_b"), (LATENT, VALUE, HEADS), args.rest
        yield name("attn_output"), (HEADS * VALUE, HIDDEN), args.rest
        yield name("ffn_norm"), (HIDDEN,), "f32"
        if layer == 0:
            yield name("ffn_gate"), (HIDDEN, DENSE), args.rest
            yield name("ffn_up"), (HIDDEN, DENSE), args.rest
            yield name("ffn_down"), (DENSE, HIDDEN), args.rest
            continue
        yield name("ffn_gate_inp"), (HIDDEN, EXPERTS), "f32"
        yield name("ffn_gate_exps"), (HIDDEN, EXPERT, EXPERTS), args.experts
        yield name("ffn_up_exps"), (HIDDEN, EXPERT, EXPERTS), args.experts
        yield name("ffn_down_exps"), (EXPERT, HIDDEN, EXPERTS), args.experts
        yield name("ffn_gate_shexp"), (HIDDEN, SHARED * EXPERT), args.rest
        yield name("ffn_up_shexp"), (HIDDEN, SHARED * EXPERT), args.rest
        yield name("ffn_down_shexp"), (SHARED * EXPERT, HIDDEN), args.rest


def num_bytes(shape, kind):
    _, block, size, _ = TYPES[kind]
    count = int(np.prod(shape))
    assert shape[0] % block == 0
    return count // block * size


def random_data(random, shape, kind):
    """About a standard normal output for a standard normal input."""
    count = int(np.prod(shape))
    if len(shape) == 1:
        return np.ones(count, np.float32).tobytes()
    scale = shape[0] ** -0.5
    if kind in ("f32", "bf16"):
        values = (random.random(count, np.float32) - 0.5) * np.float32(scale * 12**0.5)
        if kind == "f32":
            return values.tobytes()
        return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    _, block, size, deviation = TYPES[kind]
    blocks = np.frombuffer(random.bytes(count // block * size), np.uint8).reshape(-1, size).copy()
    blocks[:, :2] = np.frombuffer(np.float16(scale / deviation).tobytes(), np.uint8)
    return blocks.tobytes()


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--layers", type=int, default=27)
    parser.add_argument("--vocab", type=int, default=102400)
    parser.add_argument("--experts", choices=TYPES, default="q4_0")
    parser.add_argument("--rest", choices=TYPES, default="q8_0")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    arch = "deepseek2"
    fields = [
        ("general.architecture", arch), ("general.alignment", ALIGNMENT),
        ("general.name", f"random weights of V2-Lite's shape, {args.layers} layers"),
        (f"{arch}.block_count", args.layers), (f"{arch}.context_length", 163840),
        (f"{arch}.embedding_length", HIDDEN), (f"{arch}.feed_forward_length", DENSE),
        (f"{arch}.attention.head_count", HEADS), (f"{arch}.attention.head_count_kv", 1),
        (f"{arch}.attention.layer_norm_rms_epsilon", 1e-6), (f"{arch}.rope.freq_base", 10000.0),
        (f"{arch}.rope.dimension_count", ROPE), (f"{arch}.attention.kv_lora_rank", LATENT),
        (f"{arch}.attention.key_length", LATENT + ROPE), (f"{arch}.attention.value_length", LATENT),
        (f"{arch}.attention.key_length_mla", NOPE + ROPE),
        (f"{arch}.attention.value_length_mla", VALUE), (f"{arch}.vocab_size", args.vocab),
        (f"{arch}.expert_count", EXPERTS), (f"{arch}.expert_used_count", USED),
        (f"{arch}.expert_shared_count", SHARED), (f"{arch}.expert_feed_forward_length", EXPERT),
        (f"{arch}.expert_weights_scale", 1.0), (f"{arch}.leading_dense_block_count", 1),
        ("tokenizer.ggml.model", "gpt2"), ("tokenizer.ggml.pre", "deepseek-llm"),
        ("tokenizer.ggml.tokens", [f"t{i}" for i in range(args.vocab)]),
        ("tokenizer.ggml.token_type", [1] * args.vocab), ("tokenizer.ggml.merges", ["t 0"]),
        ("tokenizer.ggml.bos_token_id", 0), ("tokenizer.ggml.eos_token_id", 1),
    ]
    if args.layers != 27:  # llama.cpp takes 27 layers for Lite, which has no such rank
        fields.append((f"{arch}.attention.q_lora_rank", 0))

    random = np.random.default_rng(args.seed)
    listed = list(tensors(args))
    with open(args.out, "wb") as out:
        out.write(b"GGUF" + struct.pack("<IQQ", 3, len(listed), len(fields)))
        out.write(b"".join(field(*entry) for entry in fields))
        offset = 0
        for name, shape, kind in listed:
            out.write(text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape,
                                               TYPES[kind][0], offset))
            offset += -(-num_bytes(shape, kind) // ALIGNMENT) * ALIGNMENT
        for name, shape, kind in listed:
            out.write(bytes(-out.tell() % ALIGNMENT))
            data = random_data(random, shape, kind)
            assert len(data) == num_bytes(shape, kind)
            out.write(data)
            print(f"\r{out.tell() / 2**30:7.2f} GiB  {name:40}", end="", flush=True)
    print()


if __name__ == "__main__":
    main()
