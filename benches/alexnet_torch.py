#!/usr/bin/env python3
"""Pictures per second that PyTorch trains AlexNet with on the CPU: what convoy's README compares itself with.

    python3 benches/alexnet_torch.py BATCH [STEPS]

Forward, backward and Adam on random data in memory, f32, eager, a thread per processor; the median step after two of warm-up.
"""

import os
import statistics
import sys
import time

import torch
from torch import nn

batch = int(sys.argv[1])
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 8
torch.set_num_threads(os.cpu_count())


def norm():
    # The paper's alpha of 1e-4 multiplies the sum over 5 channels, PyTorch's the mean.
    return nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)


model = nn.Sequential(
    nn.Conv2d(3, 96, 11, 4, 2), nn.ReLU(), norm(), nn.MaxPool2d(3, 2),
    nn.Conv2d(96, 256, 5, 1, 2), nn.ReLU(), norm(), nn.MaxPool2d(3, 2),
    nn.Conv2d(256, 384, 3, 1, 1), nn.ReLU(),
    nn.Conv2d(384, 384, 3, 1, 1), nn.ReLU(),
    nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(3, 2),
    nn.Flatten(),
    nn.Dropout(), nn.Linear(9216, 4096), nn.ReLU(),
    nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(),
    nn.Linear(4096, 2),
)  # fmt: skip
pictures = torch.randn(batch, 3, 224, 224)
labels = torch.randint(2, (batch,))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
seconds = []
for _ in range(steps + 2):
    start = time.perf_counter()
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(pictures), labels).backward()
    optimizer.step()
    seconds.append(time.perf_counter() - start)
print(f"{batch / statistics.median(seconds[2:]):.2f} pictures/s")
