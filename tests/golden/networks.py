"""AlexNet: a narrow one trained for some steps, and the gradients of one batch of the whole."""

import numpy as np
import torch
import torch.nn.functional as F

import philox
from fixture import f32


class AlexNet(torch.nn.Module):
    """The paper's network: overlapping pools, LRN, `groups` towers in conv2, conv4, conv5."""

    def __init__(self, channels, groups, flat, hidden, classes):
        super().__init__()
        c1, c2, c3, c4, c5 = channels
        conv = lambda *a, **k: torch.nn.Conv2d(*a, **k, dtype=torch.float64)
        full = lambda *a: torch.nn.Linear(*a, dtype=torch.float64)
        self.conv1 = conv(3, c1, 11, stride=4, padding=2)
        self.conv2 = conv(c1, c2, 5, padding=2, groups=groups)
        self.conv3 = conv(c2, c3, 3, padding=1)
        self.conv4 = conv(c3, c4, 3, padding=1, groups=groups)
        self.conv5 = conv(c4, c5, 3, padding=1, groups=groups)
        self.fc6, self.fc7, self.fc8 = full(flat, hidden), full(hidden, hidden), full(hidden, classes)
        self.near = False

    def forward(self, x, masks):
        """`masks` are what fc6's and fc7's outputs are multiplied by. `near` says what `watch` noted."""
        self.near = False
        normalised = lambda x: F.local_response_norm(x, 5, f32(1e-4) * 5, 0.75, 2.0)
        x = self.pool(normalised(self.relu(x, self.conv1)), self.conv1)
        x = self.pool(normalised(self.relu(x, self.conv2)), self.conv2)
        x = self.relu(x, self.conv3)
        x = self.relu(x, self.conv4)
        x = self.pool(self.relu(x, self.conv5), self.conv5)
        x = self.relu(x.flatten(1), self.fc6) * masks[0]
        x = self.relu(x, self.fc7) * masks[1]
        return self.fc8(x)

    def relu(self, x, layer):
        x = layer(x)
        self.watch(x, x, layer)
        return torch.relu(x)

    def pool(self, x, layer):
        largest, second = x.unfold(2, 3, 2).unfold(3, 3, 2).flatten(-2).topk(2).values.unbind(-1)
        self.watch((largest - second)[largest > 0], x, layer)  # among zeros, ReLU lets no gradient through
        return F.max_pool2d(x, 3, 2)

    def watch(self, distance, x, layer):
        """Notes a distance from a kink that is within f32's rounding of x: two deviations, by ops/tolerance.rs, of a sum over
        the inputs of the layer's outputs. Beyond a kink is another gradient, and both are right."""
        rounding = 2 * 2.0**-24 * layer.weight[0].numel() ** 0.5 * x.detach().std()
        self.near |= bool((distance.detach().abs() < rounding).any())


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
    """Ten steps of SGD on a narrow AlexNet, dropout left out."""
    size = 67 + 4 * make.size(0, 1)  # 16 or 17 after conv1; 7 or 8, 3, 1 after the pools
    stored = size + 5  # the centre is cropped
    channels = [2 * make.size(2, 4) for _ in range(5)]
    hidden, classes, batch, batches, steps = make.size(10, 20), make.size(2, 5), make.size(2, 4), 2, 10
    net = AlexNet(channels, 2, channels[4], hidden, classes)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(make.normal(*p.shape, sigma=(2 / p[0].numel()) ** 0.5 if p.dim() > 1 else 0.1))
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
    channelwise = lambda values: torch.tensor([f32(v) for v in values]).double().view(1, 3, 1, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=f32(options["lr"]), momentum=f32(options["momentum"]))
    found = []
    for t in range(steps):
        edge = (stored - size) // 2
        x = tensors[f"pictures.{t % batches}"].permute(0, 3, 1, 2).double()
        x = x[:, :, edge : edge + size, edge : edge + size]
        x = (x / 255 - channelwise(options["mean"])) / channelwise(options["std"])
        labels = tensors[f"labels.{t % batches}"]
        loss = F.cross_entropy(net(x, [1, 1]), labels, label_smoothing=f32(options["label_smoothing"]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    print("losses of the training:", " ".join(f"{loss:.6f}" for loss in found))
    tensors["losses"] = torch.tensor(found, dtype=torch.float64)
    tensors |= {f"final.{name}": p.detach().clone() for name, p in net.named_parameters()}
    make.case("training", "narrow alexnet", "training", options, tensors)


PLACES = 64  # elements of each gradient that are stored


def batch(make):
    """Loss, logits and gradients of one batch of AlexNet with its own sizes and 1000 classes; dropout as in training."""
    batch, classes, step, seed = make.size(2, 4), 1000, make.size(0, 1000), make.size(0, 2**48)
    net = AlexNet((96, 256, 384, 384, 256), 1, 9216, 4096, classes)
    with torch.no_grad():
        for number, p in enumerate(net.parameters()):
            # Uniform in +-1 / sqrt(fan-in): a bias has the bound of the weight before it.
            bound = np.float32(p[0].numel() ** -0.5) if p.dim() > 1 else bound
            unit = philox.unit(philox.words(seed, philox.INIT, number, p.numel()))
            p.copy_(torch.from_numpy((2 * unit - 1).astype(np.float32) * bound).reshape(p.shape))
    counter = [seed & 0xFFFFFFFF, seed >> 32, step]
    masks = torch.from_numpy(
        np.stack([2 * philox.dropout_mask((batch, 4096), 0.5, philox.DROPOUT + n, counter) for n in range(2)]))

    def picture(number):
        pixels = (philox.words(seed, philox.TEST, number, 224 * 224 * 3) & np.uint64(255)).reshape(224, 224, 3)
        return torch.from_numpy((pixels / 255 - 0.5) / 0.5).permute(2, 0, 1)

    # Pictures with an activation so near a kink that f32 may take the other side are passed over. In 2 of 6 batches of any four
    # pictures a window of pool1 had two maxima as good as equal, and a channel of conv1's gradient was off by 2 %.
    pictures, number = [], 0
    with torch.no_grad():
        while len(pictures) < batch:
            net(picture(number)[None], masks[:, len(pictures)])
            if not net.near:
                pictures.append(number)
            number += 1
    print(f"AlexNet: pictures {pictures}")
    labels = make.labels(batch, classes)
    logits = net(torch.stack([picture(number) for number in pictures]), masks)
    loss = F.cross_entropy(logits, labels).reshape(1)
    loss.backward()
    tensors = dict(labels=labels, loss=loss, logits=logits)
    for name, p in net.named_parameters():
        gradient = p.grad.flatten()
        # Half of the places anywhere, half where the gradient is not 0: dropout and ReLU leave much of it empty.
        taken = gradient.nonzero().flatten()
        anywhere = make.random.integers(0, len(gradient), PLACES // 2)
        places = np.concatenate([anywhere, taken[make.random.integers(0, len(taken), PLACES // 2)]])
        tensors |= {
            f"places.{name}": places, f"gradient.{name}": gradient[places], f"norm.{name}": gradient.norm().reshape(1)}
    options = dict(model="alexnet", batch=batch, classes=classes, seed=seed, step=step, pictures=pictures)
    make.case("step", "alexnet", "step", options, tensors)


ALL = [training, batch]
