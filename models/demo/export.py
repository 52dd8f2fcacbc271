"""Writes a trained checkpoint as a Hugging Face directory, with held-out examples.

    python export.py CHECKPOINT FOLDER
"""

import argparse
import json
import pathlib
import random

import torch
from safetensors.torch import save_file

import tasks
import tokenizer as tok
from model import CONFIG, Model

CHAT_TEMPLATE = (
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
    "{{ bos_token }}"
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] }}"
    "{% endif %}{% endfor %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '" + tok.USER + "' + message['content'] }}{% endif %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '" + tok.ASSISTANT + "' + message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '" + tok.ASSISTANT + "' }}{% endif %}")

LOOKUP_EXAMPLES = ((256, 40), (1024, 30), (2048, 20), (4096, 20))  # (tokens of context, examples)
SHORT_EXAMPLES = 120
QUESTIONS = ("What is Troupe?", "What is 347 + 285?", "Sort these words: tiger kite gate lobster",
             "用中文写出数字 4096。", "节点死了会怎样？")


def held_out_examples():
    """The examples of eval.jsonl, without repeats."""
    for name in tasks.TASKS:
        rng = random.Random("eval/" + name)
        prompts = set()
        plan = LOOKUP_EXAMPLES if name == "lookup" else ((None, SHORT_EXAMPLES),)
        for length, count in plan:
            wanted = len(prompts) + count
            while len(prompts) < wanted:
                prompt, answer = (tasks.lookup(rng, True, length)[0] if length
                                  else tasks.SHORT[name](rng, True))
                if prompt in prompts:
                    continue
                prompts.add(prompt)
                task = f"lookup_{length}" if length else name
                yield {"task": task, "prompt": prompt, "answer": answer}


def write_static_files(folder, tokenizer):
    """Everything but the weights and golden.json (verify.py writes that)."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "config.json", CONFIG)
    write_json(folder / "generation_config.json", {
        "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "do_sample": False})
    write_json(folder / "tokenizer_config.json", {
        "add_bos_token": True, "add_eos_token": False, "bos_token": tok.BOS, "eos_token": tok.EOS,
        "pad_token": tok.PAD, "unk_token": None, "clean_up_tokenization_spaces": False,
        "model_max_length": CONFIG["max_position_embeddings"],
        "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHAT_TEMPLATE})
    with open(folder / "eval.jsonl", "w") as file:
        for example in held_out_examples():
            file.write(json.dumps(example, ensure_ascii=False) + "\n")
    (folder / "questions.txt").write_text("\n".join(QUESTIONS) + "\n")


def write_weights(folder, model):
    save_file(model.hugging_face_tensors(), str(pathlib.Path(folder) / "model.safetensors"),
              metadata={"format": "pt"})


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    args = parser.parse_args()
    write_static_files(args.folder, tok.build(CONFIG["vocab_size"]))
    model = Model()
    model.load_state_dict(torch.load(args.checkpoint)["model"])
    write_weights(args.folder, model)
