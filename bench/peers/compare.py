#!/usr/bin/env python3
"""Measures Troupe, llama.cpp and ik_llama.cpp by turns on the same shape and prints medians, the least
and the most of all repetitions, and Troupe's ratio to the faster peer.

    compare.py --model LITE4 --gguf lite4.gguf --llama DIR_OF_BINARIES --ik DIR_OF_BINARIES

Both peers are built as they come, with `llama-bench` and `llama-batched-bench`. The GGUF file of
random weights is made by make_gguf.py, the model by `troupe make-model`. Each tool's files are read
before its turn, so that they are in the page cache even where those of one tool fit alone.
"""
import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = ("pp512", "tg32", "tg32 b16")


def run(command):
    """What it prints on standard output, and on standard error."""
    with tempfile.TemporaryDirectory() as logs:  # peers leave a llama.log where they run
        done = subprocess.run(command, capture_output=True, text=True, cwd=logs)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout, done.stderr


def read(path):
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        with file.open("rb", buffering=0) as source:
            while source.read(16 << 20):
                pass


def troupe(args, repetitions):
    entries = json.loads(run([args.troupe, "bench", "local", "-m", args.model, "--threads",
                              str(args.threads), "-p", "512", "-n", "32", "-b", "1,16", "-r",
                              str(repetitions), "-o", "json"])[0])
    for entry in entries:
        if entry["test"] == "tg32":
            print(f"  reads {entry['bandwidth_fraction']:.0%} of "
                  f"{entry['machine_read_bytes_per_s'] / 1e9:.0f} GB/s", file=sys.stderr)
    return {entry["test"]: entry["samples_ts"] for entry in entries}


def peer(binaries, args, repetitions, extra):
    base = ["-m", args.gguf, "-t", str(args.threads)]
    entries = json.loads(run([f"{binaries}/llama-bench", *base, "-p", "512", "-n", "32", "-r",
                              str(repetitions), "-o", "json", *extra])[0])
    samples = {"pp512" if entry["n_prompt"] else "tg32": entry["samples_ts"] for entry in entries}
    together = []
    for _ in range(repetitions):
        lines = "".join(run([f"{binaries}/llama-batched-bench", *base, "-npp", "16", "-ntg", "32",
                             "-npl", "16", "-c", "2048", *extra[:2]]))
        # | PP | TG | B | N_KV | T_PP | S_PP | T_TG | S_TG | T | S |
        rows = [line[line.index("|"):].split("|") for line in lines.splitlines() if "|" in line]
        speeds = [float(row[8]) for row in rows if len(row) > 8 and row[1].strip() == "16"]
        if not speeds:
            sys.exit(f"{binaries}/llama-batched-bench printed no row:\n{lines[-2000:]}")
        together += speeds
    samples["tg32 b16"] = together
    return samples


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--troupe", default="build/release/troupe")
    parser.add_argument("--model", required=True)
    parser.add_argument("--gguf", required=True)
    parser.add_argument("--llama", help="folder of llama.cpp's binaries")
    parser.add_argument("--ik", help="of ik_llama.cpp's; one of the two may be missing")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repetitions", type=int, default=2, help="of each test in a round")
    args = parser.parse_args()
    if args.llama is None and args.ik is None:
        parser.error("nothing to compare with: give --llama, --ik or both")
    for path in ("troupe", "model", "gguf", "llama", "ik"):
        if getattr(args, path) is not None:
            setattr(args, path, str(Path(getattr(args, path)).resolve()))

    tools = {"Troupe": lambda n: troupe(args, n)}
    if args.ik is not None:
        tools["ik_llama.cpp"] = lambda n: peer(
            args.ik, args, n, ["-ngl", "0", "-mla", "3", "-fa", "1", "-fmoe", "1"])
    if args.llama is not None:
        tools["llama.cpp"] = lambda n: peer(args.llama, args, n, [])
    samples = {tool: {test: [] for test in TESTS} for tool in tools}
    for at in range(1, args.rounds + 1):
        for tool, measure in tools.items():
            print(f"round {at} of {args.rounds}: {tool}", file=sys.stderr)
            read(Path(args.model if tool == "Troupe" else args.gguf))
            for test, values in measure(args.repetitions).items():
                print(f"  {test}: {', '.join(f'{value:.1f}' for value in values)}", file=sys.stderr)
                samples[tool][test] += values

    def shown(values):
        return f"{statistics.median(values):.1f} ({min(values):.1f}-{max(values):.1f})"

    print("| tokens/s | " + " | ".join(tools) + " | Troupe / faster peer |")
    print("|---|" + "---|" * (len(tools) + 1))
    for test in TESTS:
        medians = {tool: statistics.median(samples[tool][test]) for tool in tools}
        ratio = medians["Troupe"] / max(medians[tool] for tool in tools if tool != "Troupe")
        print(f"| {test} | " + " | ".join(shown(samples[tool][test]) for tool in tools) +
              f" | {ratio:.2f} |")


if __name__ == "__main__":
    main()
