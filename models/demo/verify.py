"""Checks a written demo model with transformers, in float32 on the stored weights.

    python verify.py FOLDER [--golden]

Prints the accuracy per task of greedy decoding over eval.jsonl; with --golden also writes
golden.json: token ids of a few prompts and their greedy continuations, for the C++ tests.
"""

import argparse
import collections
import json
import pathlib

import torch
from transformers import AutoTokenizer, DeepseekV3ForCausalLM

MAX_TOKENS = 64
GOLDEN_TOKENS = 32


def load(folder):
    model = DeepseekV3ForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager")
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def prompt_ids(tokenizer, prompt):
    text = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False,
                                         add_generation_prompt=True)
    return tokenizer.encode(text, add_special_tokens=False)


@torch.no_grad()
def greedy(model, ids, max_tokens, stop):
    """Greedy continuation; ends with `stop` if that is not None and was chosen."""
    out = model(torch.tensor([ids]), use_cache=True, logits_to_keep=1)
    chosen = [out.logits[0, -1].argmax().item()]
    while len(chosen) < max_tokens and chosen[-1] != stop:
        out = model(torch.tensor([chosen[-1:]]), past_key_values=out.past_key_values, use_cache=True)
        chosen.append(out.logits[0, -1].argmax().item())
    return chosen


@torch.no_grad()
def would_emit(model, ids, answer_ids):
    """Whether greedy decoding emits exactly `answer_ids`: each is the argmax after those before."""
    logits = model(torch.tensor([ids + answer_ids[:-1]]), use_cache=False,
                   logits_to_keep=len(answer_ids)).logits[0]
    return logits.argmax(-1).tolist() == answer_ids


def accuracy(model, tokenizer, folder):
    right, total = collections.Counter(), collections.Counter()
    for line in open(folder / "eval.jsonl"):
        example = json.loads(line)
        task, ids = example["task"], prompt_ids(tokenizer, example["prompt"])
        expected = tokenizer.encode(example["answer"], add_special_tokens=False)
        good = would_emit(model, ids, expected + [tokenizer.eos_token_id])
        if not good:  # other tokens may spell the same text
            chosen = greedy(model, ids, MAX_TOKENS, tokenizer.eos_token_id)
            answer = tokenizer.decode(chosen, skip_special_tokens=True).strip()
            good = answer == example["answer"]
            print("wrong:" if not good else "same:", task, repr(example["prompt"][-60:]),
                  repr(answer), "expected", repr(example["answer"]), flush=True)
        total[task] += 1
        right[task] += good
    print("| task | right | accuracy |\n|---|---|---|")
    for task in total:
        print(f"| {task} | {right[task]}/{total[task]} | {right[task] / total[task]:.1%} |")


def write_golden(model, tokenizer, folder):
    examples = [json.loads(line) for line in open(folder / "eval.jsonl")]
    by_task = {e["task"]: e["prompt"] for e in reversed(examples)}
    prompts = [by_task[t] for t in ("arithmetic", "sort", "reverse", "lookup_256", "lookup_1024",
                                    "english_numbers", "chinese_numbers")]
    prompts += (folder / "questions.txt").read_text().splitlines()[::4]
    golden = []
    for prompt in prompts:
        ids = prompt_ids(tokenizer, prompt)
        golden.append({"prompt": prompt, "tokens": ids,
                       "continuation": greedy(model, ids, GOLDEN_TOKENS, None)})
    (folder / "golden.json").write_text(
        "[\n" + ",\n".join(json.dumps(g, ensure_ascii=False) for g in golden) + "\n]\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--golden", action="store_true")
    args = parser.parse_args()
    model, tokenizer = load(args.folder)
    accuracy(model, tokenizer, args.folder)
    if args.golden:
        write_golden(model, tokenizer, args.folder)
