"""What a fixture is, and how one is drawn and written.

A safetensors file holds cases. Its metadata `cases` is JSON: for the name of each case an object with `kind` and more; a tensor
is named CASE/TENSOR. (One entry, since the order of several would be another in each file.) Numbers are f32; pictures u8; labels and counters i64, -1 for a label to ignore. Inputs are f32 numbers; what is
expected was computed in f64 and rounded to f32 once.

`graph`: ops on inputs. `nodes`, in the order in which they run: {op, options, inputs, outputs}, by convoy's names;
    `tolerance`, [absolute, relative], where it is not the usual one. Tensors: input.N; output.N, what is compared; of a
    differentiable graph, which has one output, cotangent, and gradient.N for each float input.
`optimizer`: one weight through many steps. `op`, `options`. Tensors: lr [steps], gradient [steps, n], weight [steps + 1, n]
    from before the first step on, state.NAME after the last.
`training`: a small model through many steps; the model's text and settings. Tensors: pictures.B (u8 [N, H, W, 3]), labels.B,
    initial.NAME, final.NAME, losses [steps]; step T uses batch T mod batches.
`step`: the gradients of one batch of a large model. Weights and pictures are not stored: both sides draw them with Philox.
    Tensors: labels, loss, logits; of each parameter norm.NAME, the gradient's length, and gradient.NAME, its elements at
    places.NAME.
"""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

IGNORE = -1  # a label; convoy's u32::MAX


def f32(x):
    """The number that convoy holds."""
    return float(np.float32(x))


def rounded(options):
    """The options, floats as f32."""
    return {name: f32(value) if isinstance(value, float) else value for name, value in options.items()}


def node(op, inputs, outputs=("output.0",), **options):
    """One op of a graph."""
    return dict(op=op, options=rounded(options), inputs=list(inputs), outputs=list(outputs))


class Writer:
    """Gathers cases and writes them, a file for each subject."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.files = defaultdict(lambda: ({}, {}))

    def case(self, file, name, kind, options, tensors):
        cases, stored = self.files[file]
        assert name not in cases, f"{file}: two cases are named {name}"
        cases[name] = dict(kind=kind, **options)
        for key, tensor in tensors.items():
            tensor = torch.as_tensor(tensor).detach()
            # A view would be stored as the memory lies: make each tensor its own.
            stored[f"{name}/{key}"] = (tensor.float() if tensor.is_floating_point() else tensor).clone().contiguous()

    def write(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        size = 0
        for file, (cases, tensors) in self.files.items():
            path = self.folder / f"{file}.safetensors"
            save_file(tensors, path, metadata={"cases": json.dumps(cases)})
            path.chmod(0o644)
            size += path.stat().st_size
        count = sum(len(cases) for cases, _ in self.files.values())
        print(f"{count} cases in {len(self.files)} files, {size} bytes in {self.folder}")


class Maker(Writer):
    """Draws inputs, f32 numbers held in f64; one generator, so a seed fixes everything."""

    def __init__(self, seed, folder):
        super().__init__(folder)
        self.random = np.random.default_rng(seed)

    def size(self, low, high):
        """A whole number in low..=high: what another seed changes of the shapes."""
        return int(self.random.integers(low, high + 1))

    def normal(self, *shape, sigma=1.0):
        """N(0, sigma)."""
        x = (self.random.standard_normal(shape) * sigma).astype(np.float32)
        return torch.from_numpy(x.astype(np.float64))

    def labels(self, n, classes, ignore=False):
        labels = torch.from_numpy(self.random.integers(0, classes, n))
        if ignore:
            labels[self.size(0, n - 1)] = IGNORE
        return labels

    def counter(self):
        """A random counter as a graph's input: [seed low, seed high, step, 0]."""
        return torch.tensor([self.size(0, 2**32 - 1) for _ in range(3)] + [0])

    def graph(self, file, name, nodes, inputs, function, **options):
        """`function` of the inputs is what the nodes compute; gradients are those of its dot product with a cotangent.

        Numbers of 32 bits are given, those of 64 (kept as 32) are differentiated."""
        differentiable = [x.requires_grad_() for x in inputs if x.dtype == torch.float64]
        output = function(*inputs)
        tensors = {f"input.{n}": x for n, x in enumerate(inputs)} | {"output.0": output}
        if differentiable:
            tensors["cotangent"] = self.normal(*output.shape)
            output.backward(tensors["cotangent"])
            tensors |= {f"gradient.{n}": x.grad for n, x in enumerate(inputs) if x.dtype == torch.float64}
        self.case(file, name, "graph", dict(nodes=nodes, **options), tensors)

    def op(self, op, name, inputs, function, **options):
        """A graph of one op, which takes all inputs."""
        self.graph(op, name, [node(op, [f"input.{n}" for n in range(len(inputs))], **options)], inputs, function)

    def biased(self, op, name, inputs, function, **options):
        """A graph of an op on two inputs and, where there is a third, the bias, which convoy adds by an op of its own."""
        if len(inputs) == 2:
            return self.op(op, name, inputs, function, **options)
        first = node(op, ["input.0", "input.1"], ["sum"], **options)
        self.graph(op, f"{name}, bias", [first, node("bias", ["sum", "input.2"])], inputs, function)
