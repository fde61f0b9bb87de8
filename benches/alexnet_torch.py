#!/usr/bin/env python3
"""Pictures per second of AlexNet in PyTorch on the CPU: what convoy's README compares itself with.

    python3 benches/alexnet_torch.py --batch 32 [--mode infer] [--best] [--no-lrn]

Training is forward, backward and Adam. Random data in memory, f32, eager, a thread per processor; the median step after two of
warm-up. `--best` is what makes PyTorch fastest there: channels_last and the fused Adam; glibc should keep freed memory too
(MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=17179869184).
"""

import argparse
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
options = arguments.parse_args()
torch.set_num_threads(os.cpu_count())
torch.manual_seed(1)


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
pictures = torch.randn(options.batch, 3, 224, 224)
if options.best:
    model, pictures = model.to(memory_format=torch.channels_last), pictures.to(memory_format=torch.channels_last)
labels = torch.randint(2, (options.batch,))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=options.best or None)


def train():
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(pictures), labels).backward()
    optimizer.step()


@torch.inference_mode()
def infer():
    model(pictures)


step = train if options.mode == "train" else infer
model.train(options.mode == "train")
seconds = []
for _ in range(options.steps + 2):
    start = time.perf_counter()
    step()
    seconds.append(time.perf_counter() - start)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(f"{options.batch / statistics.median(seconds[2:]):.2f} pictures/s, peak memory {peak:.0f} MiB")
