#!/usr/bin/env python3
"""Pictures per second of AlexNet in PyTorch: what convoy's README compares itself with.

    python3 benches/alexnet_torch.py --batch 32 [--mode infer] [--best] [--no-lrn]
    python3 benches/alexnet_torch.py --device cuda --batch 128 [--precision tf32|bf16] [--compile]

Training is forward, backward and Adam. Random data in memory, f32, eager, a thread per processor; the median step after those of
warm-up. `--best` is what makes PyTorch fastest without compiling: channels_last and the fused Adam; on the CPU glibc should keep freed memory too
(MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=17179869184). `--compile` is torch.compile with CUDA graphs ("reduce-overhead").
"""

import argparse
import contextlib
import json
import os
import resource
import statistics
import time

import torch
from torch import nn

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("--batch", type=int, default=32)
arguments.add_argument("--steps", type=int, default=8)
arguments.add_argument("--mode", choices=["train", "infer"], default="train")
arguments.add_argument("--best", action="store_true", help="channels_last, fused Adam")
arguments.add_argument("--no-lrn", action="store_true", help="without the paper's normalisation, which PyTorch is slow at")
arguments.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
arguments.add_argument("--precision", choices=["f32", "tf32", "bf16"], default="f32", help="of products; bf16 by autocast, weights stay f32")
arguments.add_argument("--compile", action="store_true", help="torch.compile, on a GPU with CUDA graphs")
arguments.add_argument("--warmup", type=int, default=2)
arguments.add_argument("--json", action="store_true")
options = arguments.parse_args()
torch.set_num_threads(os.cpu_count())
torch.manual_seed(1)
on_gpu = options.device.startswith("cuda")
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.precision == "tf32"
torch.backends.cudnn.benchmark = True


def norm():
    # The paper's alpha of 1e-4 multiplies the sum over 5 channels, PyTorch's the mean.
    return nn.Identity() if options.no_lrn else nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)


model = nn.Sequential(
    nn.Conv2d(3, 96, 11, 4, 2), nn.ReLU(inplace=options.no_lrn), norm(), nn.MaxPool2d(3, 2),
    nn.Conv2d(96, 256, 5, 1, 2), nn.ReLU(inplace=options.no_lrn), norm(), nn.MaxPool2d(3, 2),
    nn.Conv2d(256, 384, 3, 1, 1), nn.ReLU(inplace=True),
    nn.Conv2d(384, 384, 3, 1, 1), nn.ReLU(inplace=True),
    nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
    nn.Flatten(),
    nn.Dropout(), nn.Linear(9216, 4096), nn.ReLU(inplace=True),
    nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(inplace=True),
    nn.Linear(4096, 2),
)  # fmt: skip
model = model.to(options.device)
pictures = torch.randn(options.batch, 3, 224, 224, device=options.device)
if options.best:
    model, pictures = model.to(memory_format=torch.channels_last), pictures.to(memory_format=torch.channels_last)
labels = torch.randint(2, (options.batch,), device=options.device)
half = contextlib.nullcontext
if options.precision == "bf16":
    half = lambda: torch.autocast(options.device.split(":")[0], torch.bfloat16)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=options.best or None)


def loss():
    with half():
        return nn.functional.cross_entropy(model(pictures), labels)


def forward():
    with half():
        return model(pictures)


model.train(options.mode == "train")
if options.compile:
    mode = "reduce-overhead" if on_gpu else "default"
    loss, forward = torch.compile(loss, mode=mode), torch.compile(forward, mode=mode)


def train():
    optimizer.zero_grad()
    loss().backward()
    optimizer.step()


@torch.inference_mode()
def infer():
    forward()


step = train if options.mode == "train" else infer
# On a GPU each batch comes from the host's memory, as bytes, while the one before is worked on, as in convoy's own bench.
host = torch.randint(256, (options.batch, 3, 224, 224), dtype=torch.uint8)
host = host.pin_memory() if on_gpu else host
seconds = []
done = None
for _ in range(options.steps + options.warmup):
    start = time.perf_counter()
    if on_gpu:
        torch.div(host.to(options.device, non_blocking=True), 255, out=pictures)
    if options.compile:
        torch.compiler.cudagraph_mark_step_begin()
    step()
    if on_gpu:
        # One step of a training may be in flight.
        before, done = done, torch.cuda.Event()
        done.record()
        (before if before and options.mode == "train" else done).synchronize()
    seconds.append(time.perf_counter() - start)
rate = options.batch / statistics.median(seconds[options.warmup :])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
if on_gpu:
    peak = torch.cuda.max_memory_allocated() / 2**20
if options.json:
    name = torch.cuda.get_device_name(options.device) if on_gpu else "cpu"
    print(json.dumps({"torch": torch.__version__, "name": name, **vars(options), "images_per_second": rate, "memory_mib": peak}))
else:
    print(f"{rate:.2f} pictures/s, peak memory {peak:.0f} MiB")
