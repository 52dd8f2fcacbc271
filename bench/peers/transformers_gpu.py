#!/usr/bin/env python3
"""Measures decoding of Troupe and of PyTorch with transformers by turns, on one GPU and with the same
checkpoint in BF16, and writes a page and JSON for bench/results/.

    troupe make-model lite --shape v2-lite --scheme bf16
    transformers_gpu.py --model lite --troupe build/release/troupe --output results
    transformers_gpu.py --model tiny --device cpu --prompt 16 --tokens 8 --batches 1,4   # to try it

Needs torch with CUDA and transformers 5 (best with accelerate, which spares a copy in the host's
memory), and downloads nothing. A sequence has a prompt of its own of --prompt random tokens; timed
are --tokens steps behind it, a token for each sequence in each, without the prompt and after a
warm-up. Both sides compute the logits of every step; transformers also takes the highest, on the
GPU. What goes into the next step are random tokens on both sides, as always in `troupe bench local`:
greedy tokens of random weights soon repeat themselves, and then a batch chooses fewer experts than
a real one does. --feed greedy decodes greedily with transformers.

transformers runs with the fastest of its own implementations of experts and of attention: for each
batch they decode a few tokens first, and the page names all of them. Prompts are computed with
grouped_mm, as generate() does. KV is BF16 on both sides. Before anything is measured, both are given
the same prompt, and the page says how many of Troupe's greedy tokens are those of transformers.

The GPU holds the weights of both while Troupe is measured: twice 31.4 GB of DeepSeek-V2-Lite.
"""
import argparse
import datetime
import importlib.util
import json
import os
import shlex
import statistics
import struct
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

TUNING_STEPS = 16  # of each implementation, twice, each after a quarter as many that do not count


def note(text):
    print(text, file=sys.stderr, flush=True)


def check_checkpoint(directory):
    """Its config, if all matrices are plain BF16, which both sides read as they are."""
    try:
        config = json.loads((directory / "config.json").read_text())
    except (OSError, ValueError) as error:
        sys.exit(f"--model: no config.json of a checkpoint: {error}")
    method = config.get("quantization_config", {}).get("quant_method")
    if method is not None:
        sys.exit(f"--model: {directory} has quantised weights ({method}), which transformers would "
                 "compute otherwise. Write it with `troupe make-model DIR --scheme bf16`")
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        sys.exit(f"--model: {directory} has no *.safetensors")
    for file in files:
        with file.open("rb") as source:
            header = json.loads(source.read(struct.unpack("<Q", source.read(8))[0]))
        for name, tensor in header.items():
            if name != "__metadata__" and len(tensor["shape"]) > 1 and tensor["dtype"] != "BF16":
                sys.exit(f"--model: {name} is {tensor['dtype']}, not BF16, in {file.name}")
    return config


def import_peer(config, device):
    """torch, transformers and the model's class, or what is missing."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import torch
        import transformers
    except ImportError as error:
        sys.exit(f"{sys.executable} cannot import the peer ({error}): use a Python with torch and "
                 "transformers, such as that of a virtual environment")
    if device.startswith("cuda") and not torch.cuda.is_available():
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        sys.exit(f"--device {device}: torch {torch.__version__}, built {built}, finds no GPU. "
                 "`nvidia-smi` says whether a driver is there; --device cpu tries the script")
    names = config.get("architectures") or ["none"]
    model_class = getattr(transformers, names[0], None)
    if model_class is None:
        sys.exit(f"transformers {transformers.__version__} has no class {names[0]}, which config.json "
                 "names (architectures); it runs only models that it has classes for, "
                 "DeepseekV2ForCausalLM or DeepseekV3ForCausalLM")
    if not hasattr(model_class, "set_experts_implementation"):
        sys.exit(f"transformers {transformers.__version__} computes experts one by one and has no "
                 f"{names[0]}.set_experts_implementation: use version 5")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return torch, transformers, model_class


class Transformers:
    """The model in BF16 on the device."""

    def __init__(self, args, imported):
        self.torch, self.transformers, model_class = imported
        torch = self.torch
        self.args, self.device = args, torch.device(args.device)
        torch.set_grad_enabled(False)
        torch.manual_seed(0)
        if self.device.type == "cpu":
            torch.set_num_threads(args.threads)
        place = importlib.util.find_spec("accelerate") is not None
        self.model, loading = model_class.from_pretrained(
            args.model, dtype=torch.bfloat16, local_files_only=True, output_loading_info=True,
            **({"device_map": {"": args.device}} if place else {}))
        wrong = {what: sorted(loading[what])[:3] for what in
                 ("missing_keys", "unexpected_keys", "mismatched_keys") if loading.get(what)}
        if wrong:
            sys.exit(f"transformers {self.transformers.__version__} does not take the checkpoint: "
                     f"{wrong}. Its {model_class.__name__} has other tensors; try another version")
        self.model = self.model.to(self.device).eval()
        self.compiled = None
        self.static = {}  # batch -> its cache: a CUDA graph knows where it lies

    def wait(self):
        if self.device.type == "cuda":
            self.torch.cuda.synchronize(self.device)

    def implementations(self):
        """All that this version has for attention and for experts; some may be refused here."""
        from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
        attention = ["sdpa", "eager"]
        if importlib.util.find_spec("flash_attn") is not None:
            attention.append("flash_attention_2")
        experts = ["eager", *sorted(ALL_EXPERTS_FUNCTIONS.keys())]
        return self.args.attention or attention, self.args.experts or experts

    def choose(self, attention, experts):
        self.model.set_attn_implementation(attention)
        self.model.set_experts_implementation(experts)

    def cache(self, batch, compiled):
        if not compiled:
            return self.transformers.DynamicCache(config=self.model.config)
        if batch not in self.static:
            self.static[batch] = self.transformers.StaticCache(
                config=self.model.config, max_cache_len=self.args.prompt + self.args.tokens)
        self.static[batch].reset()
        return self.static[batch]

    def seconds(self, batch, how, steps, uncounted=0):
        """Of so many steps behind the prompts."""
        torch, args = self.torch, self.args
        vocabulary = self.model.config.vocab_size
        cache = self.cache(batch, how["compiled"])
        prompts = torch.randint(vocabulary, (batch, args.prompt), device=self.device)
        fed = torch.randint(vocabulary, (uncounted + steps, batch, 1), device=self.device)
        positions = torch.arange(args.prompt, args.prompt + len(fed), device=self.device)
        self.choose(how["attention"], "grouped_mm")
        chosen = self.model(prompts, past_key_values=cache, logits_to_keep=1).logits.argmax(-1)
        self.choose(how["attention"], how["experts"])
        forward = self.compile() if how["compiled"] else self.model
        start = 0.0
        for step in range(len(fed)):
            if step == uncounted:
                self.wait()
                start = time.perf_counter()
            chosen = forward(fed[step] if args.feed == "random" else chosen,
                             position_ids=positions[step : step + 1].unsqueeze(0),
                             past_key_values=cache).logits.argmax(-1)
        self.wait()
        return time.perf_counter() - start

    def compile(self):
        if self.compiled is None:
            warnings.simplefilter("ignore")
            self.torch._dynamo.config.cache_size_limit = 64
            self.compiled = self.torch.compile(self.model.forward, mode="reduce-overhead",
                                               fullgraph=True, dynamic=False)
        return self.compiled

    def try_one(self, batch, how):
        """How many tokens per second, or why not."""
        steps = min(TUNING_STEPS, max(1, self.args.tokens * 4 // 5))
        try:
            seconds = min(self.seconds(batch, how, steps, uncounted=steps // 4) for _ in range(2))
            tried = how | {"tokens_per_s": batch * steps / seconds}
        except self.torch.OutOfMemoryError:
            tried = how | {"refused": "no room on the GPU"}
        except Exception as error:  # whatever an implementation refuses with
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            tried = how | {"refused": textwrap.shorten(reason, 100, placeholder="...")}
        self.release()
        note(f"  batch {batch}: {named(how)}: " +
             (f"{tried['tokens_per_s']:.1f} tokens/s" if "tokens_per_s" in tried else
              tried["refused"]))
        return tried

    def fastest(self, batch):
        """The fastest implementation, and all that were tried."""
        attention, experts = self.implementations()
        tried = []

        def best_with(attention, experts, compiled=False):
            for a in attention:
                for e in experts:
                    tried.append(self.try_one(
                        batch, {"attention": a, "experts": e, "compiled": compiled}))
            return max(tried, key=lambda how: how.get("tokens_per_s", 0))

        best = best_with(attention[:1], experts)
        if "tokens_per_s" not in best:
            sys.exit(f"transformers decodes batch {batch} with none of its implementations: {tried}")
        best = best_with(attention[1:], [best["experts"]])
        if self.args.compile:  # what never asks the host which experts were chosen
            best = best_with([best["attention"]],
                             [e for e in experts if e in ("batched_mm", "grouped_mm")],
                             compiled=True)
        return best, tried

    def measure(self, batch, how):
        """Tokens per second of each repetition."""
        tokens = batch * self.args.tokens
        self.seconds(batch, how, min(TUNING_STEPS, self.args.tokens))
        speeds = [tokens / self.seconds(batch, how, self.args.tokens)
                  for _ in range(self.args.repetitions)]
        self.release()
        return speeds

    def release(self):
        """Leaves memory that is not in use to the other side."""
        if self.device.type == "cuda":
            self.torch.cuda.empty_cache()

    def judge(self, prompt, continuation):
        """How far each token of a continuation is below the best one behind the same tokens, as a
        part of the largest logit; 0: it is the best."""
        self.choose("sdpa", "grouped_mm")
        tokens = self.torch.tensor([prompt + continuation[:-1]], device=self.device)
        logits = self.model(tokens, use_cache=False, logits_to_keep=len(continuation)).logits[0]
        logits = logits.float()
        taken = logits.gather(1, self.torch.tensor(continuation, device=self.device)[:, None])[:, 0]
        return ((logits.max(-1).values - taken) / logits.abs().max(-1).values).tolist()

    def versions(self):
        torch = self.torch
        facts = {"torch": torch.__version__, "transformers": self.transformers.__version__}
        if self.device.type != "cuda":
            return facts | {"device": f"CPU, {self.args.threads} threads"}
        driver = "unknown"
        try:
            driver = subprocess.run(
                ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
                capture_output=True, text=True, check=True).stdout.split()[0]
        except (OSError, subprocess.CalledProcessError, IndexError):
            pass
        return facts | {"device": torch.cuda.get_device_name(self.device),
                        "cuda": torch.version.cuda, "driver": driver}


class Troupe:
    def __init__(self, args):
        self.args = args
        self.computing = ["--device", args.device, "--kv-dtype", "bf16"]
        if args.device == "cpu":
            self.computing += ["--threads", str(args.threads)]
        self.version = self.run("version").split()[1]

    def run(self, *command):
        # Beside the checkpoint, so that results name it without its folder.
        try:
            done = subprocess.run([self.args.troupe, *command], capture_output=True, text=True,
                                  cwd=self.args.model.parent)
        except OSError as error:
            sys.exit(f"--troupe: {error}")
        if done.returncode != 0:
            sys.exit(f"{shlex.join([self.args.troupe, *command])} failed:\n{done.stderr[-2000:]}")
        return done.stdout

    def bench(self):
        args = self.args
        return ["bench", "local", "--model", args.model.name, *self.computing, "-p", "0",
                "-d", str(args.prompt), "-n", str(args.tokens),
                "-b", ",".join(map(str, args.batches)), "-r", str(args.repetitions), "-o", "json"]

    def measure(self):
        """A row of `bench local` for each batch."""
        return {row["n_sequences"]: row for row in json.loads(self.run(*self.bench()))}

    def greedy(self, prompt, count):
        return json.loads(self.run("generate", "--model", self.args.model.name, *self.computing,
                                   "--tokens", ",".join(map(str, prompt)), "-n", str(count),
                                   "--temperature", "0", "--ignore-eos", "--json"))["tokens"]


def named(how):
    return (f"attention {how['attention']}, experts {how['experts']}" +
            (", torch.compile with a static cache" if how["compiled"] else ""))


def compare_tokens(peer, prompt, continuation):
    """Random weights have near-ties, so this is reported, never demanded."""
    below = peer.judge(prompt, continuation)
    count, same = len(below), sum(gap == 0 for gap in below)
    text = f"{same} of {count} greedy tokens of Troupe are those of transformers behind the same tokens"
    if same < count:
        text += f"; the others' logits are at most {max(below):.2%} of the largest below the best"
    note(text)
    if max(below) > 0.05:
        note("That is more than rounding to BF16 explains: do both compute the same model?")
    return {"tokens": count, "same": same, "largest_gap": max(below), "text": text}


def summary(batch, rows, speeds, how, tried):
    """Both sides of a batch; of Troupe one row for each round."""
    samples = [speed for row in rows for speed in row["samples_ts"]]
    middle = statistics.median
    best_rate = max(row.get("machine_copy_bytes_per_s") or row["machine_read_bytes_per_s"]
                    for row in rows)
    step_bytes = middle(row["weight_bytes_per_step"] + row["kv_bytes_per_step"] for row in rows)

    def side(values):
        return {"samples_ts": values, "median_ts": middle(values),
                "bandwidth_fraction": middle(values) / batch * step_bytes / best_rate}
    return {"batch": batch, "bytes_per_step": step_bytes, "machine_bytes_per_s": best_rate,
            "transformers": side(speeds) | {"implementation": how, "tried": tried},
            "troupe": side(samples) | {"rows": rows},
            "ratio": middle(samples) / middle(speeds)}


def page(report):
    def shown(side):
        return (f"{side['median_ts']:.1f} ({min(side['samples_ts']):.1f}-"
                f"{max(side['samples_ts']):.1f}) | {side['bandwidth_fraction']:.1%}")

    versions = report["versions"]
    on_gpu = "driver" in versions
    yield f"# {report['model']} in BF16 beside transformers"
    yield ""
    yield (f"{report['date']}; {versions['device']}" +
           (f", driver {versions['driver']}, torch's CUDA {versions['cuda']}" if on_gpu else "") +
           f"; Troupe {versions['troupe']}, transformers {versions['transformers']}, torch "
           f"{versions['torch']}. {report['prompt']} positions before, {report['tokens']} steps; "
           f"rounds by turns: {report['rounds']}, repetitions in each: {report['repetitions']}. Tokens "
           "of all sequences per second, median (least-most), and the part of the time that the bytes "
           "of a step, those that `bench local` counts, would take at the pace of "
           f"{'copies within the GPU' if on_gpu else 'reading'}, "
           f"{report['results'][0]['machine_bytes_per_s'] / 1e9:.0f} GB/s.")
    yield ""
    yield "| batch | transformers | bandwidth | Troupe | bandwidth | Troupe / transformers |"
    yield "|---|---|---|---|---|---|"
    for result in report["results"]:
        yield (f"| {result['batch']} | {shown(result['transformers'])} | {shown(result['troupe'])} | "
               f"{result['ratio']:.2f} |")
    yield ""
    yield f"{report['agreement']['text']}."
    yield ""
    yield "What transformers has, tried with a few tokens; the fastest of a batch is measured above:"
    yield ""
    yield "| batch | implementation | tokens/s |"
    yield "|---|---|---|"
    for result in report["results"]:
        peer = result["transformers"]
        for tried in peer["tried"]:
            speed = f"{tried['tokens_per_s']:.1f}" if "tokens_per_s" in tried else tried["refused"]
            if tried == peer["implementation"]:
                speed = f"**{speed}**"
            yield f"| {result['batch']} | {named(tried)} | {speed} |"
    yield ""
    yield "```sh"
    yield from report["commands"]
    yield "```"


def read_options():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)

    def numbers(text):
        values = [int(part) for part in text.split(",")]
        if min(values) < 1:
            raise argparse.ArgumentTypeError("numbers from 1 on")
        return values

    def number(text):
        return numbers(text)[0]

    def names(text):
        return text.split(",")

    parser.add_argument("--model", type=Path, required=True, help="directory of the checkpoint")
    parser.add_argument("--troupe", default="build/release/troupe")
    parser.add_argument("--batches", type=numbers, default=[1, 64], help="a list")
    parser.add_argument("--prompt", type=number, default=512)
    parser.add_argument("--tokens", type=number, default=128)
    parser.add_argument("--rounds", type=number, default=2)
    parser.add_argument("--repetitions", type=number, default=3, help="of each batch in a round")
    parser.add_argument("--device", default="cuda:0", help="cuda:N; cpu, to try it")
    parser.add_argument("--threads", type=number, default=len(os.sched_getaffinity(0)),
                        help="with --device cpu")
    parser.add_argument("--feed", choices=("random", "greedy"), default="random")
    parser.add_argument("--attention", type=names, help="only these, a list: sdpa,eager")
    parser.add_argument("--experts", type=names, help="likewise: grouped_mm,batched_mm,eager")
    parser.add_argument("--compile", action="store_true",
                        help="try torch.compile with a static cache, too, which takes minutes")
    parser.add_argument("--output", type=Path, help="folder for transformers_gpu.md and .json; "
                        "else the page goes to standard output")
    args = parser.parse_args()
    if not args.device.removeprefix("cuda:").isdigit() and args.device != "cpu":
        parser.error("--device must be cpu or cuda:N")
    if not Path(args.troupe).is_file():
        parser.error(f"--troupe: there is no {args.troupe}")
    args.model = args.model.resolve()
    args.troupe = str(Path(args.troupe).resolve())
    return args


def main():
    args = read_options()
    config = check_checkpoint(args.model)
    if args.output is not None:
        args.output.mkdir(parents=True, exist_ok=True)
    imported = import_peer(config, args.device)
    troupe = Troupe(args)
    prompt = [7919 * at % config["vocab_size"] for at in range(1, min(args.prompt, 64) + 1)]
    note("greedy tokens of Troupe")
    continuation = troupe.greedy(prompt, min(args.tokens, 32))
    note(f"loading {args.model.name} into transformers")
    peer = Transformers(args, imported)
    agreement = compare_tokens(peer, prompt, continuation)
    note("what transformers has")
    chosen = {batch: peer.fastest(batch) for batch in args.batches}
    speeds = {batch: [] for batch in args.batches}
    rows = {batch: [] for batch in args.batches}
    for at in range(1, args.rounds + 1):
        note(f"round {at} of {args.rounds}")
        for batch in args.batches:
            speeds[batch] += peer.measure(batch, chosen[batch][0])
        for batch, row in troupe.measure().items():
            rows[batch].append(row)
        for batch in args.batches:
            ours = rows[batch][-1]["samples_ts"]
            theirs = speeds[batch][-args.repetitions:]
            note(f"  batch {batch}: transformers {', '.join(f'{speed:.1f}' for speed in theirs)}; "
                 f"Troupe {', '.join(f'{speed:.1f}' for speed in ours)}")

    options = list(sys.argv[1:])
    for at, option in enumerate(options):  # commands without this machine's folders
        if option in ("--model", "--troupe", "--output") and at + 1 < len(options):
            options[at + 1] = Path(options[at + 1]).name
    report = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "model": args.model.name,
        "versions": peer.versions() | {"troupe": troupe.version,
                                       "python": sys.version.split()[0]},
        "prompt": args.prompt, "tokens": args.tokens, "feed": args.feed,
        "rounds": args.rounds, "repetitions": args.repetitions,
        "commands": [shlex.join(["transformers_gpu.py", *options]),
                     shlex.join(["troupe", *troupe.bench()])],
        "agreement": agreement,
        "results": [summary(batch, rows[batch], speeds[batch], *chosen[batch])
                    for batch in args.batches],
    }
    text = "\n".join(page(report)) + "\n"
    if args.output is None:
        print(text, end="")
    else:
        (args.output / "transformers_gpu.md").write_text(text)
        (args.output / "transformers_gpu.json").write_text(json.dumps(report, indent=1) + "\n")
        note(f"wrote {args.output}/transformers_gpu.md and .json")


if __name__ == "__main__":
    main()
