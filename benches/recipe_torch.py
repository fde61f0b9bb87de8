#!/usr/bin/env python3
"""Trains alexnet-bn in PyTorch by the recipe of convoy's preset `modern`, on the same pictures: what its README compares accuracy with.

    convoy data DIR --list --seed 0 > split.csv
    python3 benches/recipe_torch.py split.csv --seed 0 [--image-size 128] [--epochs 30] [--lr 3e-4] ...

Same network, first weights, optimizer, schedule, label smoothing, size of pictures, crops and flips; other random numbers.
Prints each epoch's validation accuracy, and the best at the end. With torch, torchvision.
"""

import argparse
import csv
import math
import os
import time

import torch
from torch import nn
from torch.nn import functional
from torchvision.io import ImageReadMode, read_image
from torchvision.transforms.functional import center_crop, resize

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("split", help="what `convoy data DIR --list` prints")
arguments.add_argument("--seed", type=int, default=0)
arguments.add_argument("--image-size", type=int, default=224)
arguments.add_argument("--epochs", type=int, default=30)
arguments.add_argument("--batch-size", type=int, default=32)
arguments.add_argument("--lr", type=float, default=3e-4)
arguments.add_argument("--weight-decay", type=float, default=0.05)
arguments.add_argument("--warmup-epochs", type=float, default=2)
arguments.add_argument("--label-smoothing", type=float, default=0.1)
arguments.add_argument("--min-area", type=float, default=0.35)
arguments.add_argument("--dropout", type=float, default=0.5)
options = arguments.parse_args()
torch.manual_seed(options.seed)
torch.set_num_threads(os.cpu_count())
size, stored = options.image_size, -(-options.image_size * 256 // 224)


def load(rows):
    """Pictures u8 [N, 3, stored, stored], the shorter side resized, then the centre; and their classes."""
    pictures = torch.empty(len(rows), 3, stored, stored, dtype=torch.uint8)
    for n, row in enumerate(rows):
        pictures[n] = center_crop(resize(read_image(row["path"], ImageReadMode.RGB), stored, antialias=True), stored)
    return pictures, torch.tensor([classes.index(row["label"]) for row in rows])


rows = list(csv.DictReader(open(options.split)))
classes = sorted({row["label"] for row in rows})
train, labels = load([row for row in rows if row["split"] == "train"])
val, val_labels = load([row for row in rows if row["split"] == "val"])


def block(*convolution, pool):
    layers = [nn.Conv2d(*convolution, bias=False), nn.BatchNorm2d(convolution[1]), nn.ReLU(inplace=True)]
    return layers + [nn.MaxPool2d(3, 2)] * pool


features = nn.Sequential(
    *block(3, 96, 11, 4, 2, pool=True),
    *block(96, 256, 5, 1, 2, pool=True),
    *block(256, 384, 3, 1, 1, pool=False),
    *block(384, 384, 3, 1, 1, pool=False),
    *block(384, 256, 3, 1, 1, pool=True),
    nn.Flatten(),
)
with torch.no_grad():
    flat = features.eval()(torch.zeros(1, 3, size, size)).shape[1]
model = nn.Sequential(
    *features,
    nn.Linear(flat, 4096), nn.ReLU(inplace=True), nn.Dropout(options.dropout),
    nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout(options.dropout),
    nn.Linear(4096, len(classes)),
)  # fmt: skip
for layer in model:
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.normal_(layer.weight, std=math.sqrt(2 / layer.weight[0].numel()))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
nn.init.zeros_(model[-1].weight)
model = model.to(memory_format=torch.channels_last)

decays = [p for layer in model if isinstance(layer, nn.Conv2d | nn.Linear) for p in [layer.weight]]
others = [p for p in model.parameters() if all(p is not q for q in decays)]
groups = [{"params": decays, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}]
optimizer = torch.optim.AdamW(groups, lr=options.lr, fused=True)
steps = -(-len(train) // options.batch_size)
warmup, total = round(options.warmup_epochs * steps), options.epochs * steps


def rate(done):
    """Linear warm-up, then half a cosine to 0."""
    if done < warmup:
        return (done + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1, (done - warmup) / max(1, total - warmup))))


schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def normalised(pictures):
    return ((pictures / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def augmented(pictures):
    """A part of min_area to all of each picture, aspect 3/4 to 4/3, resampled bilinearly; half of them mirrored."""
    n = len(pictures)
    area = stored**2 * (options.min_area + torch.rand(n) * (1 - options.min_area))
    ratio = torch.exp((2 * torch.rand(n) - 1) * math.log(4 / 3))
    height, width = (area / ratio).sqrt().clamp(max=stored), (area * ratio).sqrt().clamp(max=stored)
    top, left = torch.rand(n) * (stored - height), torch.rand(n) * (stored - width)
    # affine_grid counts from -1 to 1 over the stored picture.
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = width / stored * torch.where(torch.rand(n) < 0.5, -1.0, 1.0)
    theta[:, 1, 1] = height / stored
    theta[:, 0, 2] = (2 * left + width) / stored - 1
    theta[:, 1, 2] = (2 * top + height) / stored - 1
    grid = functional.affine_grid(theta, [n, 3, size, size], align_corners=False)
    return normalised(functional.grid_sample(pictures.float(), grid, padding_mode="border", align_corners=False))


def accuracy():
    model.eval()
    margin = (stored - size) // 2
    seen = val[:, :, margin : margin + size, margin : margin + size]
    with torch.inference_mode():
        found = torch.cat([model(normalised(part)).argmax(1) for part in seen.split(64)])
    return (found == val_labels).float().mean().item()


best, start = 0.0, time.time()
for epoch in range(1, options.epochs + 1):
    model.train()
    for batch in torch.randperm(len(train)).split(options.batch_size):
        loss = functional.cross_entropy(model(augmented(train[batch])), labels[batch], label_smoothing=options.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    found = accuracy()
    best = max(best, found)
    print(f"epoch {epoch} loss {loss.item():.4f} val {100 * found:.2f} % seconds {time.time() - start:.0f}", flush=True)
print(f"best {100 * best:.2f} %")
