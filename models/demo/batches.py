"""Turns examples into padded micro-batches; pure functions of (seed, step, progress, task weights)."""

import random

import torch

import tasks
import tokenizer as tok

BASE_WEIGHTS = {"arithmetic": 3.0, "sort": 2.4, "reverse": 1.0, "english_numbers": 0.8,
                "chinese_numbers": 0.8, "english_facts": 1.5, "chinese_facts": 1.5}
# (share of the training time, longest lookup context until then)
LOOKUP_CURRICULUM = ((0.30, 44), (0.40, 160), (0.48, 320), (0.56, 640), (0.66, 1300),
                     (0.76, 2300), (1.0, 4096))  # lists of 2 to 6 codes start the learning
SHORT_TOKENS = 2400  # per step, in micro-batches of about a half each
LOOKUP_TOKENS = 1800
LOOKUP_LOSS = 1.5  # weight of its few answer tokens


class Encoder:
    """Encodes conversations in the V3 chat format and marks the answer tokens."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.bos, self.eos, self.pad, self.user, self.assistant = (
            tokenizer.token_to_id(t) for t in (tok.BOS, tok.EOS, tok.PAD, tok.USER, tok.ASSISTANT))

    def __call__(self, turns, system=""):
        """-> (token ids, positions whose next token is part of an answer)."""
        ids, wanted = [self.bos] + self.text(system), []
        for question, answer in turns:
            ids += [self.user] + self.text(question) + [self.assistant]
            start = len(ids)
            ids += self.text(answer) + [self.eos]
            wanted += range(start - 1, len(ids) - 1)
        return ids, wanted

    def text(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids if text else []

    def batch(self, encoded):
        """-> tokens [B, T], flat wanted positions, their targets, and the row of each of them."""
        width = max(len(ids) for ids, _ in encoded)
        tokens = torch.tensor([ids + [self.pad] * (width - len(ids)) for ids, _ in encoded])
        wanted = torch.tensor([row * width + p for row, (_, ps) in enumerate(encoded) for p in ps])
        rows = torch.tensor([row for row, (_, ps) in enumerate(encoded) for _ in ps])
        return tokens, wanted, tokens.flatten()[wanted + 1], rows


def short_examples(rng, encoder, weights, num_tokens, num_turns):
    """Encoded conversations of `num_turns` examples each, about `num_tokens` in all."""
    names, shares = zip(*weights.items())
    encoded, total = [], 0
    while total < num_tokens:
        chosen = rng.choices(names, shares, k=num_turns)
        turns = [tasks.SHORT[name](rng, False) for name in chosen]
        system = rng.choice(tasks.SYSTEM_PROMPTS) if rng.random() < 0.03 else ""
        encoded.append(encoder(turns, system))
        total += len(encoded[-1][0])
    return sorted(encoded, key=lambda e: len(e[0]))


def step_batches(encoder, seed, step, progress, weights):
    """The micro-batches of one optimizer step: (weight of the loss, batch)."""
    rng = random.Random(f"{seed}/{step}")
    multi = progress > 0.3 and rng.random() < 0.2
    encoded = short_examples(rng, encoder, weights, SHORT_TOKENS, rng.randint(2, 6) if multi else 1)
    batches, start, total = [], 0, 0
    for i, (ids, _) in enumerate(encoded):
        total += len(ids)
        if total >= SHORT_TOKENS / 2 or i == len(encoded) - 1:
            batches.append((1.0, encoder.batch(encoded[start:i + 1])))
            start, total = i + 1, 0
    longest = next(size for until, size in LOOKUP_CURRICULUM if progress <= until)
    length = int(30 * (longest / 30) ** rng.random())
    if longest == 4096 and rng.random() < 0.1:
        length = 4096 + 360
    lookups, total = [], 0
    while total < LOOKUP_TOKENS * 0.75:
        num_questions = 1 if length < 60 else 3 if length < 400 else 6
        asked = [rng.choice((1, 1, 4, 8, 16)) for _ in range(num_questions)]
        overhead = sum(12 + 5 * n for n in asked) if longest == 4096 else 0
        lookups.append(encoder(tasks.lookup(rng, False, max(30, length - overhead), asked)))
        total += len(lookups[-1][0])
    batches.append((LOOKUP_LOSS, encoder.batch(lookups)))
    return batches
