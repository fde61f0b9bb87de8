#!/usr/bin/env python3
"""What convoy does on a GPU, in one go: is it right, do all devices take the same course, how fast is it beside PyTorch.

    python3 benches/gpu.py ./convoy RESULTS [--minutes 9] [--adapters cuda,vulkan] [--quick]

`convoy` is built with `--features cuda`. RESULTS gets results.jsonl (every figure), table.md (what to read) and log.txt (all output), each
written as it comes: what is stopped early leaves what it had. What comes first matters most; what no time is left for is left out and said so.
PyTorch is measured where this Python has it.
"""

import argparse
import csv
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("convoy", type=Path)
arguments.add_argument("results", type=Path)
arguments.add_argument("--minutes", type=float, default=9)
arguments.add_argument("--adapters", default="cuda,vulkan")
arguments.add_argument("--quick", action="store_true", help="small batches: to try this program")
options = arguments.parse_args()
options.convoy, options.results = options.convoy.resolve(), options.results.resolve()
options.results.mkdir(parents=True, exist_ok=True)
adapters = options.adapters.split(",")
batches = [2] if options.quick else [128, 512]
end = time.monotonic() + 60 * options.minutes
log = open(options.results / "log.txt", "w", buffering=1)
rows = open(options.results / "results.jsonl", "w", buffering=1)
table = open(options.results / "table.md", "w", buffering=1)


def say(text=""):
    print(text, flush=True)
    print(text, file=table)


def run(command, limit):
    """What a command prints, or None: it failed, or there is no time."""
    left = end - time.monotonic()
    text = " ".join(map(str, command))
    if left < 5:
        print(f"no time for: {text}", file=log)
        return None
    print(f"\n$ {text}", file=log)
    start = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=min(limit, left))
    except (subprocess.TimeoutExpired, OSError) as error:
        print(f"{error}", file=log)
        return None
    print(f"{done.stdout}{done.stderr}exit code {done.returncode} after {time.monotonic() - start:.1f} s", file=log)
    # A selftest that finds something wrong says so in its code, and what in its JSON.
    return done.stdout if done.returncode == 0 or done.stdout.startswith("{") else None


def measured(kind, command, limit):
    """The JSON that a command prints, kept; None where it failed."""
    printed = run(command, limit)
    if printed is None:
        return None
    found = json.loads(printed)
    print(json.dumps({"kind": kind, "command": " ".join(map(str, command)), "found": found}), file=rows)
    return found


def convoy(*command):
    return [options.convoy, *command]


def devices():
    found = measured("adapters", convoy("adapters", "--json"), 60) or []
    for device in found if isinstance(found, list) else found.get("adapters", []):
        say(f"- {device['name']} ({device['backend']}), {device['driver']}")


def right(*more, limit=90):
    say(f"\n## Is it right? `convoy selftest {' '.join(more)}`\n\n| adapter | cases | by NVIDIA's libraries | failed | largest error, part of its tolerance |\n|---|---|---|---|---|")
    for adapter in adapters:
        report = measured("selftest", convoy("selftest", "--json", "--adapter", adapter, *more), limit)
        if report is None:
            say(f"| {adapter} | not done, or failed: see log.txt | | | |")
            continue
        worst = max(report["ops"], key=lambda op: float("inf") if op["worst_error"] is None else op["worst_error"])
        say(f"| {adapter} | {report['cases']} | {report['of_libraries']} | {report['failed']} | {worst['worst_error']}, {worst['op']}: {worst['worst_case']} |")


def right_in_full():
    """Every kernel that an op chooses between, small windows, TF32, bfloat16."""
    right("--full", limit=240)


def same_course():
    say("\n## Twenty steps of alexnet, one seed: the losses\n")
    with tempfile.TemporaryDirectory() as folder:
        pictures = f"{folder}/pictures"
        run(convoy("sample", pictures, "--count", "250"), 60)
        batch = ["--batch-size", "4", "--image-size", "67"] if options.quick else ["--batch-size", "32"]
        losses = {}
        for adapter in ["cpu", *adapters]:
            more = ["--model", "alexnet", "--max-steps", "20", "--seed", "5", "--warmup-epochs", "0", "--lr", "3e-4", "--tune", "off", "--out", folder, "--name", adapter.replace(":", "")]
            printed = run(convoy("train", pictures, *batch, "--adapter", adapter, *more), 120)
            losses[adapter] = [float(v) for v in re.findall(r"iter\d+/\d+,loss:(\S+)", printed or "")]
    print(json.dumps({"kind": "losses", "found": losses}), file=rows)
    of_cpu = losses["cpu"]
    for adapter, found in losses.items():
        apart = max((abs(a - b) / abs(b) for a, b in zip(found, of_cpu)), default=float("nan"))
        say(f"- {adapter}: {len(found)} steps, {' '.join(f'{v:.6f}' for v in found[:3])} ... {found[-1] if found else ''}; from cpu at most {apart:.1e}")


def speed():
    torch = Path(__file__).with_name("alexnet_torch.py")
    say("\n## Pictures a second, alexnet, 2 classes, Adam\n\n| mode | batch | precision | what | pictures/s | ms a step | memory, MiB |\n|---|---|---|---|---|---|---|")
    steps = ["--steps", "3"] if options.quick else ["--steps", "30", "--warmup", "5"]

    def row(mode, batch, precision, what, rate, memory):
        say(f"| {mode} | {batch} | {precision} | {what} | {rate:.0f} | {1000 * batch / rate:.2f} | {memory:.0f} |")

    def of_convoy(mode, batch, precision, adapter, *more):
        command = convoy("bench", "--json", "--mode", mode, "--batch", str(batch), "--precision", precision, "--adapter", adapter, *steps, *more)
        found = measured("bench", command, 180 if "full" in more else 120)
        if found:
            row(mode, batch, precision, f"convoy, {adapter}", found["images_per_second"], found["peak_memory_bytes"] / 2**20)
        return found

    def of_torch(mode, batch, precision, *more):
        command = [sys.executable, torch, "--json", "--device", "cuda", "--mode", mode, "--batch", str(batch), "--precision", precision, *steps, *more]
        found = measured("torch", command, 120)
        if found:
            row(mode, batch, precision, f"PyTorch {' '.join(more)}", found["images_per_second"], found["memory_mib"])

    profiles = {}
    for batch in batches:
        for precision in ["f32", "tf32", "bf16"]:
            for adapter in adapters if precision == "f32" else ["cuda"] if "cuda" in adapters else []:
                # The kernels that are the fastest are kept for what comes after.
                found = of_convoy("train", batch, precision, adapter, "--profile", "--tune", "full" if adapter == "cuda" else "quick")
                if precision == "f32":
                    profiles[adapter] = found or profiles.get(adapter)
            of_torch("train", batch, precision, "--best")
    for batch in batches:
        for precision in ["f32", "tf32", "bf16"]:
            of_torch("train", batch, precision, "--best", "--compile")
        for adapter in adapters:
            of_convoy("train", batch, "f16", adapter)
    for batch in [1, *batches]:
        for adapter in adapters:
            of_convoy("infer", batch, "f32", adapter)
        of_torch("infer", batch, "f32", "--best")
    for adapter in adapters:
        # The whole process, with what was remembered before.
        start = time.monotonic()
        if run(convoy("bench", "--adapter", adapter, "--batch", str(batches[0]), "--steps", "1", "--warmup", "0"), 60) is not None:
            say(f"\nFrom the start of the program to the end of its second step, {adapter}, batch {batches[0]}: {time.monotonic() - start:.2f} s")
    for adapter, profile in profiles.items():
        if profile:
            say(f"\n## The slowest kernels: {adapter}, batch {profile['batch']}, {profile['precision']}\n\n| kernel | ms | part | GFLOP/s | GB/s |\n|---|---|---|---|---|")
            for kernel in sorted(profile["kernels"], key=lambda kernel: -kernel["ms"])[:15]:
                say(f"| {kernel['name']} | {kernel['ms']:.3f} | {100 * kernel['share']:.1f} % | {kernel['gflops']:.0f} | {kernel['gb_per_s']:.0f} |")


def several():
    """Two GPUs against one, where there are two."""
    listed = run(convoy("adapters", "--json"), 60) or "[]"
    if "cuda" not in adapters or '"cuda:1"' not in listed:
        return
    say("\n## Two GPUs: alexnet-2gpu, pictures/s\n\n| devices | batch | pictures/s |\n|---|---|---|")
    for batch in batches:
        for devices in [["cuda:0"], ["cuda:0,cuda:1", "--parallel", "model"], ["cuda:0,cuda:1", "--parallel", "data"]]:
            command = convoy("bench", "--json", "--model", "alexnet-2gpu", "--batch", str(batch), "--steps", "20", "--adapter", *devices)
            found = measured("several", command, 90)
            if found:
                say(f"| {' '.join(devices)} | {batch} | {found['images_per_second']:.0f} |")


def peaks():
    """What the card reaches: a large copy, and large matrix products."""
    program = """
import json, torch
def best(work, n=10):
    times = []
    for _ in range(n):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record(); work(); b.record(); torch.cuda.synchronize()
        times.append(a.elapsed_time(b) / 1e3)
    return sorted(times)[n // 2]
x = torch.randn(1 << 29, device="cuda"); y = torch.empty_like(x)
found = {"copy_gb_per_s": 8 * x.numel() / best(lambda: y.copy_(x)) / 1e9}
for name, kind, tf32 in [("f32", torch.float32, False), ("tf32", torch.float32, True), ("bf16", torch.bfloat16, False)]:
    torch.backends.cuda.matmul.allow_tf32 = tf32
    a, b = (torch.randn(8192, 8192, device="cuda").to(kind) for _ in range(2))
    found[name + "_tflop_per_s"] = 2 * 8192**3 / best(lambda: a @ b) / 1e12
p = torch.cuda.get_device_properties(0)
found["properties"] = {k: str(getattr(p, k)) for k in dir(p) if not k.startswith("_")}
print(json.dumps(found))
"""
    found = measured("peaks", [sys.executable, "-c", program], 90)
    if found:
        say("\n## What the card reaches\n")
        for name, value in found.items():
            if name != "properties":
                say(f"- {name}: {value:.1f}")


def counted():
    """NVIDIA's counters of the five kernels that take the longest: what part of the card's arithmetic and memory each keeps busy."""
    if "cuda" not in adapters:
        return
    time_of, busy = "gpu__time_duration.sum", "throughput.avg.pct_of_peak_sustained_elapsed"
    metrics = [time_of, f"sm__{busy}", f"dram__{busy}"]
    ncu = ["ncu", "--csv", "--page", "raw", "--print-units", "base", "--launch-count", "500", "--metrics", ",".join(metrics)]
    bench = convoy("bench", "--adapter", "cuda", "--batch", str(batches[0]), "--steps", "1", "--warmup", "0")
    lines = (run([*ncu, *bench], 150) or "").splitlines()
    table = [line for line in lines if line.startswith('"')]
    kernels = {}
    for launch in csv.DictReader(table):
        if launch["ID"]:  # the line after the heads has the units
            kernels.setdefault(launch["Kernel Name"], []).append([float(launch[metric].replace(",", "")) for metric in metrics])
    if not kernels:
        return say("\nNVIDIA's counters (`ncu`): not done, see log.txt")
    say(f"\n## NVIDIA's counters, batch {batches[0]}, f32: the five kernels that take the longest\n\n| kernel | launches | ms in all | arithmetic busy | memory busy |\n|---|---|---|---|---|")
    for name, launches in sorted(kernels.items(), key=lambda kernel: -sum(launch[0] for launch in kernel[1]))[:5]:
        total = sum(launch[0] for launch in launches)
        arithmetic, memory = (sum(launch[0] * launch[which] for launch in launches) / total for which in [1, 2])
        say(f"| {name[:60]} | {len(launches)} | {total / 1e6:.3f} | {arithmetic:.0f} % | {memory:.0f} % |")


def sanitized():
    """NVIDIA's checker of memory accesses and races over every case."""
    if "cuda" not in adapters:
        return
    for tool in ["memcheck", "racecheck"]:
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", *convoy("selftest", "--adapter", "cuda", "--random", "2")]
        found = run(command, 300)
        say(f"\ncompute-sanitizer {tool}: {'nothing found' if found is not None else 'not done, or something found: see log.txt'}")


say(f"# {time.strftime('%Y-%m-%d')}\n")
for part in [devices, right, same_course, speed, several, peaks, counted, right_in_full, sanitized]:
    try:
        part()
    except Exception as error:  # the other parts are worth as much
        say(f"\n{part.__name__} broke off: {type(error).__name__} {error}")
print(f"{options.minutes - (end - time.monotonic()) / 60:.1f} minutes", file=log)
