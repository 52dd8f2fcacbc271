"""Golden logits and greedy continuations, computed by Hugging Face transformers in float32.

A golden must not depend on how a tie falls. So prompts are chosen such that at every position the
router's last accepted and first refused choice, and for greedy continuations the two best logits,
lie clearly apart.
"""

import json
import random
import struct

import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache

ROUTER_MARGIN = 1e-4
LOGIT_MARGIN = 1e-3
MIN_DISTINCT = 6  # a continuation that repeats itself more than this tests little
ALL_UP_TO = 17  # prompts up to this length have the logits of every position stored
LONG_POSITIONS = [0, 1, 63, 64, 65, 127, 128, 200, 255, 298, 299]


def _gap(sorted_scores, kept):
    """Distance between the last kept and the first refused score of each row."""
    if kept >= sorted_scores.shape[-1]:
        return torch.full(sorted_scores.shape[:-1], float("inf"))
    return sorted_scores[:, kept - 1] - sorted_scores[:, kept]


def router_margin(config, logits, bias):
    """Smallest distance of a router's choices from a tie, per token."""
    groups, experts = config.n_group or 1, logits.shape[-1]
    if config.model_type == "deepseek_v3":
        choice, masked = logits.sigmoid() + bias, float("-inf")
        group_scores = choice.view(-1, groups, experts // groups).topk(2, dim=-1)[0].sum(-1)
        limited = True
    else:
        choice, masked = logits.softmax(-1), 0.0
        group_scores = choice.view(-1, groups, experts // groups).max(-1).values
        limited = config.topk_method == "group_limited_greedy"
    margin = torch.full((logits.shape[0],), float("inf"))
    if limited:
        order, kept = group_scores.sort(-1, descending=True), config.topk_group
        margin = torch.minimum(margin, _gap(order.values, kept))
        dropped = torch.ones_like(group_scores).scatter(1, order.indices[:, :kept], 0.0)
        choice = choice.masked_fill(dropped.bool().repeat_interleave(experts // groups, 1), masked)
    scores = choice.sort(-1, descending=True).values
    return torch.minimum(margin, _gap(scores, config.num_experts_per_tok))


class Reference:
    """A checkpoint loaded by transformers, with the router margins of its last forward pass."""

    def __init__(self, directory):
        torch.set_num_threads(1)
        self.model, loading = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=torch.float32,
            attn_implementation="eager",
            experts_implementation="eager",
            output_loading_info=True,
        )
        self.model.eval()
        self.config = self.model.config
        self._check_loading(loading)
        self._margins = []
        for name, module in self.model.named_modules():
            if name.endswith("mlp.gate"):
                module.register_forward_hook(self._note_margin)

    def _check_loading(self, loading):
        mtp_layer = f"model.layers.{self.config.num_hidden_layers}."
        unexpected = [k for k in loading["unexpected_keys"] if not k.startswith(mtp_layer)]
        if loading["missing_keys"] or unexpected or loading["mismatched_keys"]:
            raise ValueError(f"transformers does not take the checkpoint: {loading}")
        for norm in ("q_a_layernorm", "kv_a_layernorm"):
            module = getattr(self.model.model.layers[0].self_attn, norm, None)
            if module is not None and module.variance_epsilon != 1e-6:
                raise ValueError(f"{norm} has epsilon {module.variance_epsilon}, expected 1e-6")

    def _note_margin(self, router, _inputs, outputs):
        bias = getattr(router, "e_score_correction_bias", None)
        self._margins.append(router_margin(self.config, outputs[0].float(), bias))

    @torch.no_grad()
    def forward(self, tokens, cache=None):
        """Logits [len(tokens), vocab] and the smallest router margin of any token."""
        self._margins = []
        result = self.model(
            torch.tensor([tokens]), past_key_values=cache, use_cache=cache is not None
        )
        margin = min((m.min().item() for m in self._margins), default=float("inf"))
        return result.logits[0], margin

    def _extend(self, tokens, length, cache, rng):
        """Appends random tokens, passing over those that a router is nearly undecided about."""
        while len(tokens) < length:
            token = rng.randrange(self.config.vocab_size)
            logits, margin = self.forward([token], cache)
            if margin > 2 * ROUTER_MARGIN:
                tokens.append(token)
            else:
                cache.crop(-1)
        return logits

    def prompt(self, length, rng):
        tokens = []
        self._extend(tokens, length, DynamicCache(config=self.config), rng)
        return tokens

    def greedy(self, length, count, rng):
        """A random prompt, and its greedy continuation without any near-tie."""
        eos = self.config.eos_token_id
        tokens, cache = [], DynamicCache(config=self.config)
        while True:
            logits = self._extend(tokens, length, cache, rng)
            out = []
            while len(out) < count:
                best = logits[-1].topk(2)
                token = best.indices[0].item()
                if best.values[0] - best.values[1] < 2 * LOGIT_MARGIN or token == eos:
                    break
                logits, margin = self.forward([token], cache)
                if margin < 2 * ROUTER_MARGIN:
                    break
                out.append(token)
            if len(out) == count and len(set(out)) >= min(MIN_DISTINCT, count):
                self._check_greedy(tokens, out)
                return tokens, out
            tokens = tokens[: max(0, length - 4)]
            cache.crop(len(tokens) - cache.get_seq_length())

    def _check_greedy(self, prompt, continuation):
        """The continuation found with the cache is that of one pass without it."""
        logits, margin = self.forward(prompt + continuation)
        best = logits[len(prompt) - 1 : -1].topk(2, dim=-1)
        gap = (best.values[:, 0] - best.values[:, 1]).min().item()
        same = best.indices[:, 0].tolist() == continuation
        if not same or margin < ROUTER_MARGIN or gap < LOGIT_MARGIN:
            raise ValueError("cached and one-pass greedy continuations differ")


def write_golden(directory, reference, seed, lengths, greedy_lengths, greedy_count):
    """Writes golden.json and logits.bin (format: README.md)."""
    rng = random.Random(seed)
    prompts, blob = [], bytearray()
    for length in lengths:
        tokens = reference.prompt(length, rng)
        logits, margin = reference.forward(tokens)
        if margin < ROUTER_MARGIN:
            raise ValueError(f"the prompt of {length} tokens has a near-tie: {margin}")
        positions = list(range(length)) if length <= ALL_UP_TO else LONG_POSITIONS
        prompts.append({"tokens": tokens, "positions": positions, "offset": len(blob)})
        values = logits[positions].flatten().tolist()
        blob += struct.pack(f"<{len(values)}f", *values)
    greedy = []
    for length in greedy_lengths:
        prompt, continuation = reference.greedy(length, greedy_count, rng)
        greedy.append({"prompt": prompt, "continuation": continuation})
    golden = {
        "made_by": f"transformers {transformers.__version__}, torch {torch.__version__}",
        "vocab_size": reference.config.vocab_size,
        "logits_file": "logits.bin",
        "prompts": prompts,
        "greedy": greedy,
    }
    (directory / "golden.json").write_text(json.dumps(golden) + "\n")
    (directory / "logits.bin").write_bytes(blob)
