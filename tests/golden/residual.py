"""What residual networks are made of: batch normalisation with its running averages, joining along channels; and one, trained.
Activations that came later than AlexNet's."""

import numpy as np
import torch
import torch.nn.functional as F

from fixture import f32, node, rounded


def batch_norm(make):
    def case(name, shape, epsilon=1e-5, momentum=0.1, offset=0.0):
        channels = shape[1]
        inputs = [(make.normal(*shape, sigma=2.0) + offset).float().double(), make.normal(channels), make.normal(channels)]
        running = [make.normal(channels), make.normal(channels).abs() + 0.5]
        averages = [x.clone() for x in running]
        options = rounded(dict(epsilon=epsilon, momentum=momentum))
        n = inputs[0].numel() // channels
        nodes = [node("batch_norm", ["input.0", "input.1", "input.2"], ["output.0", "mean", "variance"], epsilon=epsilon)]
        for k, measured, factor in [(1, "mean", 1.0), (2, "variance", n / (n - 1))]:
            inputs_of_average = [f"input.{k + 2}", measured]
            nodes.append(node("running_average", inputs_of_average, [f"output.{k}"], momentum=momentum, factor=factor))
        x, weight, bias = [x.requires_grad_() for x in inputs]
        y = F.batch_norm(x, *averages, weight, bias, True, options["momentum"], options["epsilon"])
        cotangent = make.normal(*shape)
        y.backward(cotangent)
        tensors = {f"input.{k}": x for k, x in enumerate([*inputs, *running])} | {"cotangent": cotangent}
        tensors |= {f"output.{k}": x for k, x in enumerate([y, *averages])}
        tensors |= {f"gradient.{k}": x.grad for k, x in enumerate(inputs)}
        make.case("batch_norm", name, "graph", dict(nodes=nodes), tensors)

        evaluated = [x.detach().clone() for x in inputs] + running
        y = F.batch_norm(evaluated[0], *running, *evaluated[1:3], False, 0.0, options["epsilon"])
        nodes = [node("batch_norm_inference", [f"input.{k}" for k in range(5)], epsilon=epsilon)]
        tensors = {f"input.{k}": x for k, x in enumerate(evaluated)} | {"output.0": y}
        make.case("batch_norm_inference", name, "graph", dict(nodes=nodes), tensors)

    case("pictures", (make.size(2, 4), make.size(2, 7), make.size(3, 9), make.size(3, 9)))
    case("matrix", (make.size(8, 20), make.size(2, 30)))
    case("two elements a channel", (2, make.size(2, 5), 1, 1))
    case("large epsilon", (3, 2, make.size(3, 9), 5), epsilon=0.5, momentum=0.3)
    case("far from zero", (2, 3, make.size(8, 14), make.size(8, 14)), offset=100.0)


def concat(make):
    def case(name, channels, shape):
        inputs = [make.normal(shape[0], c, *shape[1:]) for c in channels]
        make.op("concat", name, inputs, lambda *x: torch.cat(x, 1), channels=channels)

    case("pictures", [make.size(1, 4) for _ in range(3)], (make.size(2, 3), make.size(2, 6), make.size(2, 6)))
    case("matrices", [make.size(1, 9) for _ in range(2)], (make.size(2, 9),))
    case("one input", [3], (2, 4, 5))
    case("nine inputs", [1] * 9, (2, 3, 3))
    # A value that is joined with itself has the sum of two gradients.
    twice = [node("concat", ["input.0", "input.0"], channels=[2, 2])]
    make.graph("concat", "with itself", twice, [make.normal(3, 2, 4, 4)], lambda x: torch.cat([x, x], 1))


def activations(make):
    for name, function in [("leaky_relu", F.leaky_relu), ("gelu", F.gelu)]:
        x = make.normal(make.size(2, 4), make.size(20, 70), sigma=2.0)
        x[0, :6] = torch.tensor([0.0, -0.0, 30.0, -30.0, f32(1e-20), f32(-1e-5)])
        make.op(name, "matrix, the kink and the flat ends", [x], function)
        make.op(name, "picture", [make.normal(2, 3, make.size(1, 7), make.size(1, 7))], function)


class Residual(torch.nn.Module):
    """Two blocks: one adds its input, the other joins it; the names are those of MODEL."""

    def __init__(self, channels, classes):
        super().__init__()
        conv = lambda i, o, k: torch.nn.Conv2d(i, o, k, padding=k // 2, bias=False, dtype=torch.float64)
        norm = lambda c: torch.nn.BatchNorm2d(c, eps=f32(1e-5), momentum=f32(0.1), dtype=torch.float64)
        self.conv1, self.bn1 = conv(3, channels, 3), norm(channels)
        self.conv2, self.bn2 = conv(channels, channels, 3), norm(channels)
        self.conv3, self.bn3 = conv(channels, 2 * channels, 1), norm(2 * channels)
        self.fc4 = torch.nn.Linear(3 * channels, classes, dtype=torch.float64)

    def forward(self, x):
        x = F.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 2)
        x = torch.relu(self.bn2(self.conv2(x)) + x)
        x = torch.cat([torch.tanh(self.bn3(self.conv3(x))), x], 1)
        return self.fc4(x.mean((2, 3)))


MODEL = """\
name = "residual"
input = [3, {size}, {size}]

layers = [
    {{ kind = "conv2d", out = {c}, kernel = 3, padding = 1, bias = false }},
    "batch_norm",
    "relu",
    {{ kind = "max_pool2d", kernel = 2 }},
    {{ kind = "conv2d", out = {c}, kernel = 3, padding = 1, bias = false }},
    "batch_norm",
    {{ kind = "add", from = "pool1" }},
    "relu",
    {{ kind = "conv2d", out = {c2}, kernel = 1, bias = false }},
    "batch_norm",
    "tanh",
    {{ kind = "concat", from = ["tanh3", "relu2"] }},
    "global_avg_pool2d",
    "flatten",
    {{ kind = "linear", out = "classes" }},
]
"""


def training(make):
    """Ten steps of SGD; weights, and the running averages, at the end."""
    size, channels, classes, batch = 2 * make.size(4, 6), make.size(3, 6), make.size(2, 5), make.size(3, 5)
    batches, steps = 2, 10
    net = Residual(channels, classes)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(make.normal(*p.shape, sigma=(2 / p[0].numel()) ** 0.5 if p.dim() > 1 else 0.5))
    numbers = lambda: {name: x.detach().clone() for name, x in net.state_dict().items() if x.is_floating_point()}
    tensors = {f"initial.{name}": x for name, x in numbers().items()}
    options = dict(
        batch=batch, classes=classes, image_size=size, stored_size=size, batches=batches, steps=steps,
        mean=[0.5, 0.45, 0.4], std=[0.25, 0.3, 0.2], lr=0.01, momentum=0.9, weight_decay=0.0, label_smoothing=0.1,
        model=MODEL.format(size=size, c=channels, c2=2 * channels),
    )
    for b in range(batches):
        tensors[f"pictures.{b}"] = torch.from_numpy(make.random.integers(0, 256, (batch, size, size, 3), dtype=np.uint8))
        tensors[f"labels.{b}"] = make.labels(batch, classes)
    channelwise = lambda values: torch.tensor([f32(v) for v in values]).double().view(1, 3, 1, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=f32(options["lr"]), momentum=f32(options["momentum"]))
    found = []
    for t in range(steps):
        x = tensors[f"pictures.{t % batches}"].permute(0, 3, 1, 2).double()
        x = (x / 255 - channelwise(options["mean"])) / channelwise(options["std"])
        loss = F.cross_entropy(net(x), tensors[f"labels.{t % batches}"], label_smoothing=f32(options["label_smoothing"]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    print("losses of the residual training:", " ".join(f"{loss:.6f}" for loss in found))
    tensors["losses"] = torch.tensor(found, dtype=torch.float64)
    tensors |= {f"final.{name}": x for name, x in numbers().items()}
    make.case("residual", "blocks", "training", options, tensors)


ALL = [batch_norm, concat, training, activations]
