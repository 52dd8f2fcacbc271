"""Trains the demo model of Troupe from nothing, and writes it in the Hugging Face layout.

    taskset -c 1 python train.py --minutes 75 --out /some/folder [--seed 1]

A run can be stopped and started again: it resumes from OUT/checkpoint.pt. The data depends only on
the seed, the step and the accuracy so far (weak tasks get more examples); how many steps fit into
the given minutes depends on the machine.

Optimizer: Muon (orthogonalised momentum) for matrices, AdamW for embedding, head, gate and norms;
constant rate for half of the time, then linear decay. The loss covers answer tokens only. Lookup
contexts grow from 44 to 4,096 tokens: with long lists from the start, lookup is not learned at all
in this time. During the last part the forward pass sees the weights rounded to BF16, the type in
which they are stored.
"""

import argparse
import os
import pathlib
import random
import time
from concurrent.futures import ProcessPoolExecutor

import torch
import torch.nn.functional as F

import batches
import tasks
import tokenizer as tok
from model import CONFIG, Model

MUON_RATE, MUON_DECAY, ADAM_RATE = 0.02, 0.05, 4e-3
WARMUP_STEPS, DECAY_FROM, ROUND_FROM = 60, 0.5, 0.85
EVAL_EVERY, SAVE_EVERY_S, LONGEST_STEP_S = 150, 180, 20


def orthogonalise(g):
    """Newton-Schulz iteration towards the nearest semi-orthogonal matrix; g [.., m, n], m <= n."""
    x = g / (g.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x


class Optimizer:
    def __init__(self, model):
        self.muon, self.adam = [], []
        for name, p in model.named_parameters():
            is_adam = p.dim() == 1 or name in ("embed", "head") or name.endswith(".gate")
            (self.adam if is_adam else self.muon).append(p)
            # A stack of projections (gate over up, or one block per head) is two matrices for Muon.
            p.parts = 2 if name.endswith(("q_b", "kv_b", "gate_up")) else 1
        self.momentum = [torch.zeros_like(p) for p in self.muon]
        self.adamw = torch.optim.AdamW(self.adam, betas=(0.9, 0.97), weight_decay=0.0, foreach=True)

    @torch.no_grad()
    def step(self, rate):
        for group in self.adamw.param_groups:
            group["lr"] = ADAM_RATE * rate
        self.adamw.step()
        for p, m in zip(self.muon, self.momentum):
            m.lerp_(p.grad, 0.05)
            g = p.grad.lerp(m, 0.95)
            parts = g.unflatten(-2, (p.parts, -1))
            wide = parts.shape[-2] <= parts.shape[-1]
            update = orthogonalise(parts if wide else parts.mT)
            update = (update if wide else update.mT).reshape(p.shape)
            scale = max(1.0, parts.shape[-2] / parts.shape[-1]) ** 0.5
            p.mul_(1 - MUON_RATE * rate * MUON_DECAY).sub_(update, alpha=MUON_RATE * rate * scale)


def learning_rate(step, progress):
    decay = 1.0 if progress < DECAY_FROM else (1.0 - progress) / (1.0 - DECAY_FROM)
    return min(1.0, (step + 1) / WARMUP_STEPS) * max(decay, 0.01)


class RoundedToBf16:
    """Within the block the model computes with BF16-rounded weights; the originals are kept."""

    def __init__(self, model):
        self.parameters = list(model.parameters())

    def __enter__(self):
        self.originals = [p.data for p in self.parameters]
        for p in self.parameters:
            p.data = p.data.to(torch.bfloat16).float()

    def __exit__(self, *_):
        for p, original in zip(self.parameters, self.originals):
            p.data = original


def make_step(*args):
    if not hasattr(make_step, "encoder"):
        os.sched_setaffinity(0, range(os.cpu_count()))
        torch.set_num_threads(1)
        from tokenizers import Tokenizer
        make_step.encoder = batches.Encoder(Tokenizer.from_str(os.environ["DEMO_TOKENIZER"]))
    return batches.step_batches(make_step.encoder, *args)


@torch.no_grad()
def held_out_accuracy(model, encoder, lengths, count=200):
    """Share of held-out answers whose every token is the greedy choice."""
    model.eval()
    result = {}
    for name, make in tasks.SHORT.items():
        rng = random.Random("held-out/" + name)
        examples = sorted((encoder([make(rng, True)]) for _ in range(count)),
                          key=lambda e: len(e[0]))
        result[name] = sum(correct_rows(model, encoder.batch(examples[i:i + 50]))
                           for i in range(0, count, 50)) / count
    for length in lengths:
        rng = random.Random(f"held-out/lookup/{length}")
        n, right, total = max(3, 4096 // length), 0, 0
        for _ in range(n):
            turns = tasks.lookup(rng, True, length, [1] * 8)
            ids, wanted = encoder(turns)
            tokens, flat, targets, _ = encoder.batch([(ids, wanted)])
            good = model(tokens, flat).argmax(-1) == targets
            ends = (targets == encoder.eos).nonzero().flatten().tolist()
            start = 0
            for end in ends:
                right += bool(good[start:end + 1].all())
                total += 1
                start = end + 1
        result[f"lookup_{length}"] = right / total
    model.train()
    return result


def correct_rows(model, batch):
    tokens, wanted, targets, rows = batch
    wrong = model(tokens, wanted).argmax(-1) != targets
    return tokens.shape[0] - rows[wrong].unique().numel()


def train(args):
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    tokenizer = tok.build(CONFIG["vocab_size"])
    os.environ["DEMO_TOKENIZER"] = tokenizer.to_str()
    encoder = batches.Encoder(tokenizer)
    model, step, elapsed = Model(), 0, 0.0
    weights = dict(batches.BASE_WEIGHTS)
    checkpoint = out / "checkpoint.pt"
    optimizer = Optimizer(model)
    if checkpoint.exists():
        state = torch.load(checkpoint)
        model.load_state_dict(state["model"])
        optimizer.adamw.load_state_dict(state["adamw"])
        optimizer.momentum = state["momentum"]
        step, elapsed, weights = state["step"], state["elapsed"], state["weights"]
        print("resumed at step", step)

    def save():
        state = {"model": model.state_dict(), "adamw": optimizer.adamw.state_dict(), "step": step,
                 "momentum": optimizer.momentum, "elapsed": elapsed, "weights": weights}
        torch.save(state, out / "checkpoint.tmp")
        os.replace(out / "checkpoint.tmp", checkpoint)

    limit = args.minutes * 60
    pool, pending = ProcessPoolExecutor(1), {}
    last_save, losses, seen, spent = time.time(), [], 0, [0.0, 0.0, 0.0]
    while elapsed < limit:
        began = time.time()
        progress = elapsed / limit
        for ahead in range(step, step + 4):
            if ahead not in pending:
                pending[ahead] = pool.submit(make_step, args.seed, ahead, progress, dict(weights))
        work = pending.pop(step).result()
        spent[0] += time.time() - began
        count = sum(len(targets) for _, (_, _, targets, _) in work)
        rounding = RoundedToBf16(model) if progress >= ROUND_FROM else None
        if rounding:
            rounding.__enter__()
        loss_sum = 0.0
        for weight, (tokens, wanted, targets, _) in work:
            loss = F.cross_entropy(model(tokens, wanted), targets, reduction="sum") / count
            (weight * loss).backward()
            loss_sum += loss.item()
            seen += tokens.numel()
        if rounding:
            rounding.__exit__()
        spent[1] += time.time() - began
        torch.nn.utils.clip_grad_norm_(optimizer.adam, 1.0)
        optimizer.step(learning_rate(step, progress))
        for p in model.parameters():
            p.grad = None
        model.balance(0.001 if progress < 0.8 else 0.0)
        losses.append(loss_sum)
        step += 1
        elapsed += min(time.time() - began, LONGEST_STEP_S)  # a suspended machine does not count
        spent[2] += time.time() - began
        if step % 25 == 0:
            print(f"step {step} min {elapsed / 60:.1f} loss {sum(losses) / len(losses):.4f} "
                  f"tok/s {seen / spent[2]:.0f} data/grad/all {spent[0] / 25:.2f} "
                  f"{spent[1] / 25:.2f} {spent[2] / 25:.2f}", flush=True)
            losses.clear()
            seen, spent = 0, [0.0, 0.0, 0.0]
        if step % EVAL_EVERY == 0:
            began = time.time()
            longest = next(s for until, s in batches.LOOKUP_CURRICULUM if progress <= until)
            accuracy = held_out_accuracy(model, encoder, [x for x in (128, 256, 1024, 2048, 4096)
                                                          if x <= max(256, longest)])
            for name, base in batches.BASE_WEIGHTS.items():
                weights[name] = base * (0.15 + min(1.0, 4 * (1 - accuracy[name])) ** 0.7)
            print("held-out", step, " ".join(f"{k}={v:.3f}" for k, v in accuracy.items()), flush=True)
            elapsed += min(time.time() - began, LONGEST_STEP_S)
        if time.time() - last_save > SAVE_EVERY_S:
            save()
            last_save = time.time()
    save()
    pool.shutdown(cancel_futures=True)
    return model, tokenizer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=75)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", required=True)
    train(parser.parse_args())
