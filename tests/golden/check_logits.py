"""Compares `troupe logits` and `troupe generate` with the golden.json of a checkpoint directory.

    python3 tests/golden/check_logits.py build/release/troupe DIRECTORY [DIRECTORY...]

Needs nothing but Python itself. The error of a prompt is the largest difference of its logits over
their largest magnitude; the limit is 2e-4. Ends with status 1 if anything is outside.
"""

import json
import struct
import subprocess
import sys
from pathlib import Path

LIMIT = 2e-4


def troupe(binary, command, directory, tokens, *more):
    ids = ",".join(map(str, tokens))
    arguments = [binary, command, "--model", directory, "--tokens", ids, *more]
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, arguments))[:200]}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def check_prompt(binary, directory, prompt, blob, vocab):
    rows = troupe(binary, "logits", directory, prompt["tokens"])["logits"]
    if len(rows) != len(prompt["tokens"]):
        return float("inf")
    error = scale = 0.0
    for number, position in enumerate(prompt["positions"]):
        want = struct.unpack_from(f"<{vocab}f", blob, prompt["offset"] + 4 * vocab * number)
        if len(rows[position]) != vocab:
            return float("inf")
        error = max(error, *(abs(a - b) for a, b in zip(rows[position], want)))
        scale = max(scale, *map(abs, want))
    return error / scale


def check(binary, directory):
    golden = json.loads((directory / "golden.json").read_text())
    blob = (directory / golden["logits_file"]).read_bytes()
    good = True
    for prompt in golden["prompts"]:
        error = check_prompt(binary, directory, prompt, blob, golden["vocab_size"])
        good &= error <= LIMIT
        print(f"{directory.name}: {len(prompt['tokens'])} tokens, relative error {error:.1e}")
    for case in golden["greedy"]:
        want = case["continuation"]
        more = ["--max-tokens", str(len(want)), "--temperature", "0", "--json"]
        same = troupe(binary, "generate", directory, case["prompt"], *more)["tokens"] == want
        good &= same
        print(f"{directory.name}: {len(want)} greedy tokens {'agree' if same else 'DIFFER'}")
    return good


def main():
    results = [check(sys.argv[1], Path(directory)) for directory in sys.argv[2:]]
    sys.exit(0 if results and all(results) else 1)


if __name__ == "__main__":
    main()
