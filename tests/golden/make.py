#!/usr/bin/env python3
"""Writes the fixtures that tests/golden.rs compares convoy with: PyTorch is an oracle from outside the crate.

    python3 -m venv /tmp/torch && /tmp/torch/bin/pip install torch numpy safetensors
    /tmp/torch/bin/python tests/golden/make.py --seed 0 --out tests/golden/data

Run by hand, not in CI. `--seed` changes the values and the shapes; `CONVOY_GOLDEN=DIR cargo test --release --test golden`
checks another folder. Inputs are f32 numbers; PyTorch computes in f64, and the results are rounded to f32 once.

One safetensors file per case. Its metadata says what it is:

  kind      `op`, `optimizer` or `training`
  op        conv2d, max_pool2d, avg_pool2d, relu, sigmoid, tanh, lrn, dropout, linear, softmax, log_softmax, cross_entropy;
            sgd, adam; alexnet
  options   JSON: the op's parameters under convoy's names

Tensors of an op:         input.N, output, cotangent, gradient.N (none for labels and random counters)
Tensors of an optimizer:  weight.0, gradient.T, lr [steps], weight.T for step T = 1..steps
Tensors of a training:    pictures.B (u8 [N,H,W,3]), labels.B, initial.NAME, final.NAME, losses [steps]; step T uses batch T mod batches
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

IGNORE = -1  # as convoy's u32::MAX


class Maker:
    """Draws inputs and writes cases; one generator, so a seed fixes everything."""

    def __init__(self, seed, out):
        self.out = Path(out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.random = np.random.default_rng(seed)

    def size(self, low, high):
        """A whole number in low..=high: what another seed changes of the shapes."""
        return int(self.random.integers(low, high + 1))

    def normal(self, *shape, sigma=1.0):
        """N(0, sigma), f32 numbers held in f64."""
        x = (self.random.standard_normal(shape) * sigma).astype(np.float32)
        return torch.from_numpy(x.astype(np.float64))

    def labels(self, n, classes, ignore=False):
        labels = torch.from_numpy(self.random.integers(0, classes, n))
        if ignore:
            labels[self.size(0, n - 1)] = IGNORE
        return labels

    def save(self, name, kind, op, options, tensors):
        stored = {}
        for key, tensor in tensors.items():
            tensor = tensor.detach()
            # A reversed copy or a view would be stored as the memory lies: make each tensor its own.
            stored[key] = (tensor.float() if tensor.is_floating_point() else tensor).clone().contiguous()
        metadata = {"kind": kind, "op": op, "options": json.dumps(options)}
        path = self.out / f"{name}.safetensors"
        save_file(stored, path, metadata=metadata)
        path.chmod(0o644)

    def op(self, name, op, options, inputs, function):
        """One case of an op: `function` of the inputs, and the gradient of its dot product with a random cotangent."""
        for x in inputs:
            if x.is_floating_point():
                x.requires_grad_()
        output = function(*inputs)
        cotangent = self.normal(*output.shape)
        output.backward(cotangent)
        tensors = {"output": output, "cotangent": cotangent}
        for n, x in enumerate(inputs):
            tensors[f"input.{n}"] = x
            if x.is_floating_point():
                tensors[f"gradient.{n}"] = x.grad
        self.save(name, "op", op, options, tensors)


def convolutions(make):
    def case(name, n, c, o, size, kernel, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1, bias=True):
        inputs = [make.normal(n, c, *size), make.normal(o, c // groups, *kernel, sigma=0.3)]
        if bias:
            inputs.append(make.normal(o))
        options = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
        make.op(f"conv2d_{name}", "conv2d", options, inputs, lambda x, w, b=None: F.conv2d(x, w, b, **options))

    h, w = make.size(7, 12), make.size(7, 12)
    case("plain", make.size(1, 3), make.size(1, 5), make.size(1, 7), (h, w), (3, 3))
    case("padding_3x3", 2, make.size(3, 9), make.size(3, 9), (h, w), (3, 3), padding=(1, 1))
    case("stride_alexnet", 1, 3, make.size(4, 8), (h + 12, w + 16), (11, 11), stride=(4, 4), padding=(2, 2))
    case("uneven", 2, 2, 3, (h, w), (3, 2), stride=(2, 1), padding=(0, 1))
    case("dilation", 1, 3, 2, (h, w), (3, 3), dilation=(2, 3), padding=(1, 2))
    groups = make.size(2, 3)
    case("groups", 2, 2 * groups, 3 * groups, (h, w), (5, 5), padding=(2, 2), groups=groups)
    case("depthwise", 2, 4, 4, (h, w), (3, 3), stride=(2, 2), padding=(1, 1), groups=4, bias=False)
    case("pointwise", 1, make.size(5, 18), make.size(5, 18), (3, 4), (1, 1), bias=False)


def pools(make):
    def max_case(name, size, kernel, stride, padding=(0, 0), ceil_mode=False, ties=False):
        x = make.normal(2, 3, *size)
        x = torch.round(x) if ties else x
        options = dict(kernel=kernel, stride=stride, padding=padding, ceil_mode=ceil_mode)
        make.op(
            f"max_pool2d_{name}", "max_pool2d", options, [x],
            lambda x: F.max_pool2d(x, kernel, stride, padding, ceil_mode=ceil_mode),
        )

    def avg_case(name, size, kernel, stride, padding=(0, 0), ceil_mode=False, count_include_pad=True):
        options = dict(kernel=kernel, stride=stride, padding=padding, ceil_mode=ceil_mode,
                       count_include_pad=count_include_pad)
        make.op(
            f"avg_pool2d_{name}", "avg_pool2d", options, [make.normal(2, 3, *size)],
            lambda x: F.avg_pool2d(x, kernel, stride, padding, ceil_mode, count_include_pad),
        )

    h, w = make.size(8, 13), make.size(8, 13)
    max_case("overlapping", (h, w), (3, 3), (2, 2))
    max_case("apart", (h, w), (2, 2), (2, 2))
    max_case("padding", (h, w), (3, 3), (2, 2), padding=(1, 1))
    max_case("ceil", (h, w), (3, 2), (2, 3), padding=(1, 1), ceil_mode=True)
    max_case("ties", (h, w), (3, 3), (2, 2), ties=True)
    avg_case("plain", (h, w), (3, 3), (2, 2))
    avg_case("padding_counts", (h, w), (3, 3), (2, 2), padding=(1, 1))
    avg_case("padding_left_out", (h, w), (3, 3), (2, 2), padding=(1, 1), count_include_pad=False)
    avg_case("ceil_counts", (h, w), (3, 2), (2, 3), padding=(1, 0), ceil_mode=True)
    avg_case("ceil_left_out", (h, w), (3, 3), (2, 2), padding=(1, 1), ceil_mode=True, count_include_pad=False)


def activations(make):
    for name, function in [("relu", torch.relu), ("sigmoid", torch.sigmoid), ("tanh", torch.tanh)]:
        x = make.normal(make.size(2, 4), make.size(20, 70), sigma=2.0)
        x[0, :5] = torch.tensor([0.0, -0.0, 30.0, -30.0, 1e-20])  # the kink and the flat ends
        make.op(name, name, {}, [x], function)


def lrn(make):
    def case(name, channels, size, alpha, beta, k):
        x = make.normal(2, channels, make.size(2, 5), make.size(2, 5), sigma=3.0)
        options = dict(size=size, alpha=alpha, beta=beta, k=k)
        # PyTorch divides alpha by the window, the paper (and convoy) does not.
        make.op(f"lrn_{name}", "lrn", options, [x], lambda x: F.local_response_norm(x, size, alpha * size, beta, k))

    case("paper", make.size(6, 12), 5, 1e-4, 0.75, 2.0)
    case("strong", make.size(6, 12), 3, 0.3, 0.6, 1.0)
    case("few_channels", 2, 5, 0.05, 0.75, 2.0)


def philox4x32(counter, key):
    """Philox4x32-10 (Salmon et al., SC'11), written apart from the crate's."""
    c, k, low = list(counter), list(key), 0xFFFFFFFF
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & low, (p0 >> 32) ^ c[3] ^ k[1], p0 & low]
        k = [(k[0] + 0x9E3779B9) & low, (k[1] + 0xBB67AE85) & low]
    return c


def dropout(make):
    for scaling in ["inverted", "paper"]:
        x = make.normal(make.size(2, 4), make.size(30, 60))
        rate, stream = [0.5, 0.25, 0.75][make.size(0, 2)], 16 + make.size(0, 3)
        counter = [make.size(0, 2**31 - 1) for _ in range(3)] + [0]
        words = [w for b in range(x.numel() // 4 + 1) for w in philox4x32([b, stream, counter[2], 0], counter[:2])]
        keep = torch.tensor([w >= rate * 2**32 for w in words[: x.numel()]]).reshape(x.shape).double()
        scale = 1 / (1 - rate) if scaling == "inverted" else 1.0
        options = dict(rate=rate, stream=stream, scaling=scaling)
        inputs = [x, torch.tensor(counter)]
        make.op(f"dropout_{scaling}", "dropout", options, inputs, lambda x, _: x * keep * scale)


def linear(make):
    for name, bias in [("bias", True), ("plain", False)]:
        n, i, o = make.size(1, 9), make.size(5, 40), make.size(3, 30)
        inputs = [make.normal(n, i), make.normal(o, i, sigma=0.3)] + ([make.normal(o)] if bias else [])
        make.op(f"linear_{name}", "linear", {}, inputs, lambda x, w, b=None: F.linear(x, w, b))


def losses(make):
    n, classes = make.size(3, 9), make.size(2, 12)
    make.op("softmax", "softmax", {}, [make.normal(n, classes, sigma=3.0)], lambda x: F.softmax(x, 1))
    make.op("log_softmax", "log_softmax", {}, [make.normal(n, classes, sigma=3.0)], lambda x: F.log_softmax(x, 1))
    far = make.normal(n, classes) + 1e4 * torch.eye(n, classes, dtype=torch.float64)
    make.op("log_softmax_large", "log_softmax", {}, [far.float().double()], lambda x: F.log_softmax(x, 1))
    for name, smoothing, ignore in [("plain", 0.0, False), ("smoothing", 0.1, False), ("ignore", 0.0, True),
                                    ("smoothing_ignore", 0.2, True)]:
        def loss(x, labels, smoothing=smoothing):
            return F.cross_entropy(x, labels, label_smoothing=smoothing, ignore_index=IGNORE).reshape(1)

        inputs = [make.normal(n, classes, sigma=2.0), make.labels(n, classes, ignore)]
        make.op(f"cross_entropy_{name}", "cross_entropy", dict(label_smoothing=smoothing), inputs, loss)


def optimizers(make):
    def case(name, op, options, torch_optimizer, steps=5):
        weight = torch.nn.Parameter(make.normal(make.size(3, 40)))
        lr = torch.tensor([float(np.float32(0.02 * 0.9**t)) for t in range(steps)])
        if options.get("paper"):
            lr[:] = lr[0]  # the paper's velocity holds the rate: the two forms agree while it does not change
        optimizer = torch_optimizer([weight])
        tensors = {"weight.0": weight.detach().clone(), "lr": lr}
        for t in range(1, steps + 1):
            weight.grad = make.normal(*weight.shape)
            optimizer.param_groups[0]["lr"] = lr[t - 1].item()
            optimizer.step()
            tensors[f"gradient.{t}"], tensors[f"weight.{t}"] = weight.grad, weight.detach().clone()
        make.save(name, "optimizer", op, options, tensors)

    for name, o in [
        ("plain", dict(momentum=0.0, weight_decay=0.0, nesterov=False, paper=False)),
        ("momentum", dict(momentum=0.9, weight_decay=0.0, nesterov=False, paper=False)),
        ("nesterov", dict(momentum=0.9, weight_decay=0.01, nesterov=True, paper=False)),
        ("paper", dict(momentum=0.9, weight_decay=0.05, nesterov=False, paper=True)),
    ]:
        case(f"sgd_{name}", "sgd", o, lambda p, o=o: torch.optim.SGD(
            p, momentum=o["momentum"], weight_decay=o["weight_decay"], nesterov=o["nesterov"]))
    for name, decay, decoupled in [("adam", 0.0, False), ("adam_l2", 0.05, False), ("adamw", 0.05, True)]:
        o = dict(beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=decay, decoupled=decoupled)
        kind = torch.optim.AdamW if decoupled else torch.optim.Adam
        case(name, "adam", o, lambda p, o=o, kind=kind: kind(
            p, betas=(o["beta1"], o["beta2"]), eps=o["epsilon"], weight_decay=o["weight_decay"]))


class NarrowAlexNet(torch.nn.Module):
    """AlexNet's topology with few channels: overlapping pools, LRN, two groups; dropout is left out (rate 0)."""

    def __init__(self, channels, hidden, flat, classes):
        super().__init__()
        c1, c2, c3, c4, c5 = channels
        conv = lambda *a, **k: torch.nn.Conv2d(*a, **k, dtype=torch.float64)
        full = lambda *a: torch.nn.Linear(*a, dtype=torch.float64)
        self.conv1 = conv(3, c1, 11, stride=4, padding=2)
        self.conv2 = conv(c1, c2, 5, padding=2, groups=2)
        self.conv3 = conv(c2, c3, 3, padding=1)
        self.conv4 = conv(c3, c4, 3, padding=1, groups=2)
        self.conv5 = conv(c4, c5, 3, padding=1, groups=2)
        self.fc6, self.fc7, self.fc8 = full(flat, hidden), full(hidden, hidden), full(hidden, classes)

    def forward(self, x):
        norm = lambda x: F.local_response_norm(x, 5, 1e-4 * 5, 0.75, 2.0)
        pool = lambda x: F.max_pool2d(x, 3, 2)
        x = pool(norm(torch.relu(self.conv1(x))))
        x = pool(norm(torch.relu(self.conv2(x))))
        x = torch.relu(self.conv3(x))
        x = torch.relu(self.conv4(x))
        x = pool(torch.relu(self.conv5(x)))
        x = torch.relu(self.fc6(x.flatten(1)))
        x = torch.relu(self.fc7(x))
        return self.fc8(x)


MODEL = """\
name = "narrow-alexnet"
input = [3, {size}, {size}]

layers = [
    {{ name = "conv1", kind = "conv2d", out = {c1}, kernel = 11, stride = 4, padding = 2 }},
    {{ name = "relu1", kind = "relu" }},
    {{ name = "norm1", kind = "lrn", size = 5, alpha = 1e-4, beta = 0.75, k = 2.0 }},
    {{ name = "pool1", kind = "max_pool2d", kernel = 3, stride = 2 }},
    {{ name = "conv2", kind = "conv2d", out = {c2}, kernel = 5, padding = 2, groups = 2 }},
    {{ name = "relu2", kind = "relu" }},
    {{ name = "norm2", kind = "lrn", size = 5, alpha = 1e-4, beta = 0.75, k = 2.0 }},
    {{ name = "pool2", kind = "max_pool2d", kernel = 3, stride = 2 }},
    {{ name = "conv3", kind = "conv2d", out = {c3}, kernel = 3, padding = 1 }},
    {{ name = "relu3", kind = "relu" }},
    {{ name = "conv4", kind = "conv2d", out = {c4}, kernel = 3, padding = 1, groups = 2 }},
    {{ name = "relu4", kind = "relu" }},
    {{ name = "conv5", kind = "conv2d", out = {c5}, kernel = 3, padding = 1, groups = 2 }},
    {{ name = "relu5", kind = "relu" }},
    {{ name = "pool5", kind = "max_pool2d", kernel = 3, stride = 2 }},
    {{ name = "flatten", kind = "flatten" }},
    {{ name = "fc6", kind = "linear", out = {hidden} }},
    {{ name = "relu6", kind = "relu" }},
    {{ name = "drop6", kind = "dropout", rate = 0.0 }},
    {{ name = "fc7", kind = "linear", out = {hidden} }},
    {{ name = "relu7", kind = "relu" }},
    {{ name = "drop7", kind = "dropout", rate = 0.0 }},
    {{ name = "fc8", kind = "linear", out = "classes" }},
]
"""


def training(make):
    size = 67 + 4 * make.size(0, 1)  # 16 or 17 after conv1; 7 or 8, 3, 1 after the pools
    stored = size + 5  # the centre is cropped
    channels = [2 * make.size(2, 4) for _ in range(5)]
    hidden, classes, batch, batches, steps = make.size(10, 20), make.size(2, 5), make.size(2, 4), 2, 10
    net = NarrowAlexNet(channels, hidden, channels[4], classes)
    with torch.no_grad():
        for name, p in net.named_parameters():
            fan_in = p[0].numel() if p.dim() > 1 else 1
            p.copy_(make.normal(*p.shape, sigma=(2 / fan_in) ** 0.5 if p.dim() > 1 else 0.1))
    tensors = {f"initial.{name}": p.detach().clone() for name, p in net.named_parameters()}
    options = dict(
        batch=batch, classes=classes, image_size=size, stored_size=stored, batches=batches, steps=steps,
        mean=[0.5, 0.45, 0.4], std=[0.25, 0.3, 0.2], lr=0.01, momentum=0.9, weight_decay=0.0, label_smoothing=0.1,
    )
    options["model"] = MODEL.format(
        **dict(zip(["c1", "c2", "c3", "c4", "c5"], channels)), hidden=hidden, size=size)
    for b in range(batches):
        pixels = make.random.integers(0, 256, (batch, stored, stored, 3), dtype=np.uint8)
        tensors[f"pictures.{b}"] = torch.from_numpy(pixels)
        tensors[f"labels.{b}"] = make.labels(batch, classes)
    f32 = lambda v: torch.tensor(v).double().view(1, 3, 1, 1)  # the numbers that convoy holds
    optimizer = torch.optim.SGD(net.parameters(), lr=float(np.float32(options["lr"])), momentum=options["momentum"])
    found = []
    for t in range(steps):
        edge = (stored - size) // 2
        x = tensors[f"pictures.{t % batches}"].permute(0, 3, 1, 2).double()
        x = x[:, :, edge : edge + size, edge : edge + size]
        x = (x / 255 - f32(options["mean"])) / f32(options["std"])
        labels = tensors[f"labels.{t % batches}"]
        loss = F.cross_entropy(net(x), labels, label_smoothing=options["label_smoothing"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    print("losses of the training:", " ".join(f"{loss:.6f}" for loss in found))
    tensors["losses"] = torch.tensor(found, dtype=torch.float64)
    tensors.update({f"final.{name}": p.detach().clone() for name, p in net.named_parameters()})
    make.save("training_alexnet", "training", "alexnet", options, tensors)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="changes values and shapes (default 0)")
    parser.add_argument("--out", default=Path(__file__).parent / "data", help="folder to write (default: data/ here)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    make = Maker(arguments.seed, arguments.out)
    for part in [convolutions, pools, activations, lrn, dropout, linear, losses, optimizers, training]:
        part(make)
    files = list(make.out.glob("*.safetensors"))
    print(f"{len(files)} files, {sum(f.stat().st_size for f in files)} bytes in {make.out}")


if __name__ == "__main__":
    main()
