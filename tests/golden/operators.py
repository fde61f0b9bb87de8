"""Cases of every op: each option alone and together, gradients by a random cotangent."""

import itertools

import numpy as np
import torch
import torch.nn.functional as F

import philox
from fixture import IGNORE, f32, node


def convolutions(make):
    def case(name, x, out, kernel, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1, bias=True):
        inputs = [make.normal(*x), make.normal(out, x[1] // groups, *kernel, sigma=0.3)]
        if bias:
            inputs.append(make.normal(out))
        options = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
        make.biased("conv2d", name, inputs, lambda x, w, b=None: F.conv2d(x, w, b, **options), **options)

    choices = itertools.product([(1, 1), (2, 3)], [(0, 0), (2, 1)], [(1, 1), (2, 3)], [1, 2])
    for n, (stride, padding, dilation, groups) in enumerate(choices):
        x, out = (2, 2 * groups, make.size(6, 10), make.size(6, 10)), make.size(1, 3) * groups
        name = f"stride {stride}, padding {padding}, dilation {dilation}, groups {groups}"
        case(name, x, out, (3, 2), stride, padding, dilation, groups, bias=n % 3 > 0)
    case("one of everything", (1, 1, 1, 1), 1, (1, 1))
    case("alexnet conv1", (1, 3, make.size(20, 24), make.size(20, 28)), make.size(4, 8), (11, 11), (4, 4), (2, 2))
    case("alexnet conv2", (2, 4, make.size(5, 9), make.size(5, 9)), 6, (5, 5), padding=(2, 2), groups=2)
    case("alexnet conv3", (2, make.size(3, 9), make.size(7, 12), make.size(7, 12)), make.size(3, 9), (3, 3), padding=(1, 1))
    case("padding wider than the picture", (1, 2, 3, 2), 3, (5, 5), padding=(4, 4))
    case("depthwise", (2, 4, make.size(7, 12), make.size(7, 12)), 4, (3, 3), (2, 2), (1, 1), groups=4, bias=False)
    case("pointwise", (1, make.size(5, 18), 3, 4), make.size(5, 18), (1, 1), bias=False)
    case("more than a tile", (3, make.size(17, 20), 5, 7), make.size(65, 68), (2, 2))


def pools(make):
    def picture(*size):
        return make.normal(2, 3, *size)

    def maximum(name, x, kernel, stride, padding=(0, 0), ceil_mode=False):
        make.op(
            "max_pool2d", name, [x], lambda x: F.max_pool2d(x, kernel, stride, padding, ceil_mode=ceil_mode),
            kernel=kernel, stride=stride, padding=padding, ceil_mode=ceil_mode,
        )

    def average(name, x, kernel, stride, padding=(0, 0), ceil_mode=False, count_include_pad=True):
        make.op(
            "avg_pool2d", name, [x],
            lambda x: F.avg_pool2d(x, kernel, stride, padding, ceil_mode, count_include_pad),
            kernel=kernel, stride=stride, padding=padding, ceil_mode=ceil_mode, count_include_pad=count_include_pad,
        )

    # Windows that overlap, touch, and leave gaps.
    for stride, padding, ceil_mode in itertools.product([(2, 1), (3, 4), (5, 6)], [(0, 0), (1, 2)], [False, True]):
        size = make.size(6, 12), make.size(6, 12)
        name = f"stride {stride}, padding {padding}, ceil {ceil_mode}"
        maximum(name, picture(*size), (3, 4), stride, padding, ceil_mode)
        for counts in [True, False]:
            average(f"{name}, counted {counts}", picture(*size), (3, 4), stride, padding, ceil_mode, counts)
    h, w = make.size(8, 13), make.size(8, 13)
    maximum("alexnet", picture(h, w), (3, 3), (2, 2))
    maximum("ties", torch.round(picture(h, w)), (3, 3), (2, 2), (1, 1))
    infinite = picture(h, w)
    infinite[0, 0, :5], infinite[0, 1, 2, 1::3] = -torch.inf, torch.inf
    maximum("infinite", infinite, (3, 3), (2, 2), (1, 1))
    for pool in [maximum, average]:
        pool("the last window is dropped", picture(4, 5), (2, 2), (3, 3), (1, 1), True)
        pool("whole picture", picture(h, w), (h, w), (1, 1))
        pool("one of everything", make.normal(1, 1, 1, 1), (1, 1), (1, 1))


def activations(make):
    for name, function in [("relu", torch.relu), ("sigmoid", torch.sigmoid), ("tanh", torch.tanh)]:
        x = make.normal(make.size(2, 4), make.size(20, 70), sigma=2.0)
        x[0, :8] = torch.tensor([0.0, -0.0, 30.0, -30.0, f32(1e-20), f32(-1e-5), torch.inf, -torch.inf])
        make.op(name, "matrix, the kink and the flat ends", [x], function)
        make.op(name, "picture", [make.normal(2, 3, make.size(1, 7), make.size(1, 7))], function)


def lrn(make):
    def case(name, channels, size, alpha, beta, k):
        x = make.normal(2, channels, make.size(2, 5), make.size(2, 5), sigma=3.0)
        # PyTorch divides alpha by the window, the paper (and convoy) does not.
        function = lambda x: F.local_response_norm(x, size, f32(alpha) * size, f32(beta), f32(k))
        make.op("lrn", name, [x], function, size=size, alpha=alpha, beta=beta, k=k)

    case("paper", make.size(6, 12), 5, 1e-4, 0.75, 2.0)
    case("fewer channels than the window", 2, 5, 0.05, 0.75, 2.0)
    for size, beta, k in itertools.product([1, 3, 7], [0.5, 0.6, 1.0], [1.0, 0.5]):
        case(f"size {size}, beta {beta}, k {k}", make.size(6, 10), size, 0.3, beta, k)


def dropout(make):
    for rate, scaling in itertools.product([0.0, 0.1, 0.5, 0.9], ["inverted", "paper"]):
        x, stream, counter = make.normal(make.size(2, 4), make.size(30, 60)), 16 + make.size(0, 3), make.counter()
        keep = torch.from_numpy(philox.dropout_mask(x.shape, f32(rate), stream, counter.tolist()))
        scale = 1 / (1 - f32(rate)) if scaling == "inverted" else 1.0
        function = lambda x, _: x * keep * scale
        make.op("dropout", f"{scaling}, rate {rate}", [x, counter], function, rate=rate, stream=stream, scaling=scaling)


def linear(make):
    sizes = dict(
        one=(1, 1, 1), odd=(make.size(2, 9), make.size(5, 40), make.size(3, 30)),
        tiles=(make.size(33, 35), 37, make.size(33, 35)),
    )
    for (name, (n, i, o)), bias in itertools.product(sizes.items(), [False, True]):
        inputs = [make.normal(n, i), make.normal(o, i, sigma=0.3)] + ([make.normal(o)] if bias else [])
        make.biased("linear", name, inputs, lambda x, w, b=None: F.linear(x, w, b))
    for name, shape in [("matrix", (make.size(2, 9), make.size(2, 40))), ("picture", (2, make.size(2, 9), 3, 5))]:
        add = lambda x, b: x + b.reshape(1, -1, *[1] * (x.dim() - 2))
        make.op("bias", name, [make.normal(*shape), make.normal(shape[1])], add)


def elementwise(make):
    def shape():
        return [make.size(1, 7) for _ in range(make.size(1, 4))]

    for name, function in [("add", torch.add), ("mul", torch.mul)]:
        extents = shape()
        make.op(name, "two tensors", [make.normal(*extents), make.normal(*extents)], function)
        # A value that is used twice has the sum of two gradients.
        twice = [node(name, ["input.0", "input.0"])]
        make.graph(name, "with itself", twice, [make.normal(*shape())], lambda x: function(x, x))
    for factor in [0.5, -1.7]:
        make.op("scale", f"{factor}", [make.normal(*shape())], lambda x: x * f32(factor), factor=factor)
    extents = shape()
    for value in [1.0, -0.3]:
        make.op("fill", f"{value}", [], lambda: torch.full(extents, f32(value)), shape=extents, value=value)
    make.op("broadcast", "one number", [make.normal(1)], lambda x: x.expand(extents), shape=extents)
    make.op("sum", "all", [make.normal(*shape())], lambda x: x.sum().reshape(1))
    make.op("mean", "all", [make.normal(*shape())], lambda x: x.mean().reshape(1))
    n, c, h, w = [make.size(2, 5) for _ in range(4)]
    make.op("reshape", "flatten", [make.normal(n, c, h, w)], lambda x: x.flatten(1), shape=[n, c * h * w])


def softmax(make):
    for op, function in [("softmax", F.softmax), ("log_softmax", F.log_softmax)]:
        n, classes = make.size(3, 9), make.size(2, 12)
        masked = make.normal(n, classes, sigma=3.0)
        masked[:, 0] = -torch.inf
        far = make.normal(n, classes) + 1e4 * torch.eye(n, classes, dtype=torch.float64)
        for name, x in [
            ("normal", make.normal(n, classes, sigma=3.0)),
            ("one class", make.normal(n, 1)),
            ("many classes", make.normal(2, make.size(900, 1000), sigma=3.0)),
            ("equal", make.normal(n, 1).repeat(1, classes)),
            ("large", far.float().double()),
            ("one class at -infinity", masked),
        ]:
            make.op(op, name, [x], lambda x: function(x, 1))


def cross_entropy(make):
    def case(n, classes, label_smoothing, ignore):
        loss = lambda x, labels: F.cross_entropy(
            x, labels, label_smoothing=f32(label_smoothing), ignore_index=IGNORE).reshape(1)
        name = f"{n} rows, {classes} classes, smoothing {label_smoothing}, ignore {ignore}"
        inputs = [make.normal(n, classes, sigma=2.0), make.labels(n, classes, ignore)]
        make.op("cross_entropy", name, inputs, loss, label_smoothing=label_smoothing)

    def weighted(n, classes, label_smoothing):
        def loss(x, labels, weights):
            rows = F.cross_entropy(
                x, labels, label_smoothing=f32(label_smoothing), ignore_index=IGNORE, reduction="none")
            return ((rows * weights).sum() / (labels != IGNORE).sum()).reshape(1)

        inputs = [make.normal(n, classes, sigma=2.0), make.labels(n, classes, True), make.normal(n).abs().float()]
        name = f"{n} rows of weights, {classes} classes, smoothing {label_smoothing}"
        make.op("cross_entropy", name, inputs, loss, label_smoothing=label_smoothing, weighted=True)

    n, classes = make.size(3, 9), make.size(3, 12)
    for label_smoothing, ignore in itertools.product([0.0, 0.1, 0.6], [False, True]):
        case(n, classes, label_smoothing, ignore)
        case(2, 1, label_smoothing, ignore)
    case(make.size(2, 5), 1000, 0.1, True)
    case(make.size(65, 70), 2, 0.0, False)
    for label_smoothing in [0.0, 0.1]:
        weighted(make.size(5, 9), make.size(3, 12), label_smoothing)


def crops(pictures, output, crop, flip, counter, min_area=1.0):
    """Augment's sampling by its formulas in real numbers, PyTorch's bilinear interpolation: f64 [N, 3, h, w], 0 to 255."""
    n_end, height, width, _ = pictures.shape
    h, w = output
    x = pictures.permute(0, 3, 1, 2).double()
    sampled = []
    for n in range(n_end):
        random = philox.blocks(counter[0] | counter[1] << 32, philox.AUGMENT, counter[2], 2 * n, 2 * n + 2)
        u_flip, u_top, u_left, u_area = philox.unit(random[0])
        down, right = 1.0, 1.0
        if crop == "center":
            top, left = (height - h) // 2, (width - w) // 2
        elif crop == "random":
            top, left = [((int(r) >> 16) * (room + 1)) >> 16 for r, room in zip(random[0, 1:], (height - h, width - w))]
        else:
            area = height * width * (min_area + u_area * (1 - min_area))
            ratio = np.exp((2 * philox.unit(random[1, 0]) - 1) * np.log(4 / 3))
            crop_height, crop_width = min(np.sqrt(area / ratio), height), min(np.sqrt(area * ratio), width)
            down, right = crop_height / h, crop_width / w
            top, left = u_top * (height - crop_height) + down / 2 - 0.5, u_left * (width - crop_width) + right / 2 - 0.5
        rows, columns = top + np.arange(h) * down, left + np.arange(w) * right
        if flip and u_flip < 0.5:
            columns = columns[::-1]
        # PyTorch's places are -1 and 1 at the picture's edges.
        grid = np.stack(np.broadcast_arrays((2 * columns + 1) / width - 1, ((2 * rows + 1) / height - 1)[:, None]), -1)
        grid = torch.from_numpy(grid)[None]
        sampled.append(F.grid_sample(x[n : n + 1], grid, padding_mode="border", align_corners=False))
    return torch.cat(sampled)


def colours(x, counter, mean, color, pca, erase):
    """Augment's colours and erased parts by their formulas in real numbers: f64 [N, 3, h, w], 0 to 1, and which pixels are erased."""
    n_end, _, h, w = x.shape
    luma = torch.tensor([f32(v) for v in (0.299, 0.587, 0.114)], dtype=torch.float64).reshape(3, 1, 1)
    out, gone = torch.empty_like(x), torch.zeros(n_end, 1, h, w, dtype=torch.bool)
    for n in range(n_end):
        random = philox.blocks(counter[0] | counter[1] << 32, philox.COLOR, counter[2], 8 * n, 8 * n + 5)
        brightness, contrast, saturation = [1 + (2 * u - 1) * f32(s) for u, s in zip(philox.unit(random[0]), color)]
        v = (x[n] * brightness - mean) * contrast + mean
        grey = (v * luma).sum(0, keepdim=True)
        v = grey + (v - grey) * saturation
        halves = np.concatenate([random[1:4] >> np.uint64(16), random[1:4] & np.uint64(0xFFFF)], 1).astype(np.float64)
        a = (halves.sum(1) - 8 * 32767.5) / np.sqrt(8 * (65536.0**2 - 1) / 12)
        out[n] = v + (torch.tensor(pca, dtype=torch.float64) @ torch.from_numpy(a)).reshape(3, 1, 1)
        whether, area, ratio, place = [int(word) for word in random[4]]
        if whether / 2**32 < erase:
            area = h * w * (0.02 + area / 2**32 * (0.33 - 0.02))
            ratio = (4 / 3) ** (4 * (2 * ratio / 2**32 - 1))
            height, width = [int(np.clip(np.floor(side), 1, most)) for side, most in (
                ((area * ratio) ** 0.5, h), ((area / ratio) ** 0.5, w))]
            top, left = ((place >> 16) * (h - height + 1)) >> 16, ((place & 0xFFFF) * (w - width + 1)) >> 16
            gone[n, :, top:top + height, left:left + width] = True
    return out, gone


def augment(make):
    mean, std = [f32(v) for v in (0.485, 0.456, 0.406)], [f32(v) for v in (0.229, 0.224, 0.225)]
    channelwise = lambda values: torch.tensor(values, dtype=torch.float64).reshape(-1, 1, 1)

    def case(name, pictures, size, crop, flip, tolerance={}, color=[0.0] * 3, pca=[[0.0] * 3] * 3, erase=0.0, **options):
        def function(pictures, counter):
            x = crops(pictures, size, crop, flip, counter.tolist(), **options) / 255
            x, gone = colours(x, counter.tolist(), channelwise(mean), color, pca, erase)
            return torch.where(gone, 0.0, (x - channelwise(mean)) / channelwise(std))

        inputs = [torch.from_numpy(pictures.astype(np.uint8)), make.counter()]
        op = node("augment", ["input.0", "input.1"], output=size, crop=crop, flip=flip, mean=mean, std=std,
                  color=color, pca=pca, erase=erase, **options)
        make.graph("augment", name, [op], inputs, function, **tolerance)

    for flip in [False, True]:
        n, height, width = make.size(3, 6), make.size(11, 24), make.size(11, 24)
        noise = make.random.integers(0, 256, (n, height, width, 3))
        smaller, larger = [make.size(3, 11), make.size(3, 11)], [make.size(25, 30), make.size(25, 30)]
        case(f"whole picture, flip {flip}", noise, [height, width], "center", flip)
        case(f"center, flip {flip}", noise, smaller, "center", flip)
        case(f"random, flip {flip}", noise, smaller, "random", flip)
        color, pca = [0.4, f32(0.3), 0.5], [[f32(v) for v in row] for row in make.random.normal(0, 0.05, (3, 3))]
        case(f"colour jitter, flip {flip}", noise, smaller, "random", flip, color=color)
        case(f"PCA jitter, flip {flip}", noise, smaller, "random", flip, pca=pca)
        case(f"erasing, flip {flip}", noise, [height, width], "center", flip, erase=0.5)
        case(f"all of it, flip {flip}", noise, [height, width], "center", flip, color=color, pca=pca, erase=1.0)
        # On a slope a value tells the place it was taken at. Convoy's integers may be 0.02 pixels off (ops/augment.rs).
        down, right = make.random.integers(1, 6, (2, n, 1, 1, 3))
        slope = down * np.arange(height)[:, None, None] + right * np.arange(width)[:, None]
        tolerance = dict(tolerance=[0.02 * 10 / 255 / min(std), 0.0])
        for size, min_area in itertools.product([smaller, larger], [f32(0.08), 0.5]):
            case(f"resized to {size} from {min_area:.2}, flip {flip}", slope, size, "resized", flip, tolerance, min_area=min_area)


def mean_image(make):
    """Taken off where the crop is taken, mirrored with it: as Caffe does."""
    std = [f32(v) for v in (0.229, 0.224, 0.225)]
    n, height, width = make.size(3, 6), make.size(11, 24), make.size(11, 24)
    size = [make.size(3, 11), make.size(3, 11)]
    for crop, flip in [("center", False), ("random", True)]:
        def function(pictures, counter, image):
            less = pictures.double() / 255 - image.double().permute(1, 2, 0)
            scale = torch.tensor(std, dtype=torch.float64).reshape(-1, 1, 1)
            return crops(less, size, crop, flip, counter.tolist()) / scale

        noise = make.random.integers(0, 256, (n, height, width, 3))
        image = torch.from_numpy(make.random.uniform(0, 1, (3, height, width))).float()
        op = node("augment", ["input.0", "input.1", "input.2"], output=size, crop=crop, flip=flip, mean=[0.5] * 3,
                  mean_image=True, std=std)
        inputs = [torch.from_numpy(noise.astype(np.uint8)), make.counter(), image]
        make.graph("augment", f"mean image, {crop}", [op], inputs, function)


ALL = [convolutions, pools, activations, lrn, dropout, linear, elementwise, softmax, cross_entropy, augment]
LATER = [mean_image]
