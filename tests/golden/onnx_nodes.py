#!/usr/bin/env python3
"""Turns the ONNX backend node tests that convoy's ops can express into fixtures, a second oracle from outside.

    /tmp/torch/bin/pip install onnx==1.23.2
    /tmp/torch/bin/python tests/golden/onnx_nodes.py --out tests/golden/onnx

The tests and their numbers come from the package onnx (PyPI, 1.23.2, Apache-2.0), which computes them with NumPy. A test stays
as it is: its inputs go in, its outputs must come out. Between them are convoy's ops, reshaping among them; this script computes
nothing but their options, and what convoy says in another way: labels to ignore, an optimizer's schedule. tests.tsv lists the
tests of these operators, and why one was left out; those that end in `_expanded`, the same numbers for an operator taken apart,
are only counted. What is in a fixture: fixture.py.
"""

import argparse
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from onnx.backend.test.case.node import collect_testcases

from fixture import IGNORE, Writer, f32, node


# Tests of means whose inputs and outputs are written down with this many decimals: one unit of the last may be lost.
DECIMALS = {"averagepool_2d_ceil_last_window_starts_on_pad": 4}


class Inapplicable(Exception):
    """Why convoy's ops cannot express a test."""


class Test:
    """A node test, and the graph of convoy's ops that it becomes."""

    def __init__(self, case):
        [operator] = case.model.graph.node
        [(self.inputs, self.outputs)] = case.data_sets
        self.name, self.operator = case.name.removeprefix("test_"), operator.op_type
        self.attributes = {a.name: onnx.helper.get_attribute_value(a) for a in operator.attribute}
        self.nodes, self.tensors, self.shapes = [], {}, {}

    def attribute(self, name, default):
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def input(self, array):
        """The array as an input; a scalar is [1]."""
        if array.dtype not in (np.float32, np.int64):
            raise Inapplicable("elements are not f32")
        if array.size == 0:
            raise Inapplicable("a tensor without elements")
        name = f"input.{sum(name.startswith('input') for name in self.tensors)}"
        self.tensors[name] = np.atleast_1d(array)
        return name

    def apply(self, op, *inputs, **options):
        name = f"value.{len(self.nodes)}"
        self.nodes.append(node(op, inputs, [name], **options))
        return name

    def reshape(self, value, shape):
        return self.apply("reshape", value, shape=[int(extent) for extent in shape])

    def output(self, value, expected):
        """Says that `value` must be `expected`."""
        name = f"output.{sum(name.startswith('output') for name in self.tensors)}"
        self.tensors[name] = np.atleast_1d(expected)
        for n in self.nodes:
            for names in (n["inputs"], n["outputs"]):
                names[:] = [name if v == value else v for v in names]

    def options(self):
        """A graph's options."""
        decimals = DECIMALS.get(self.name)
        tolerance = {} if decimals is None else dict(tolerance=[10.0**-decimals, 0.0])
        return dict(nodes=self.nodes, **tolerance)


def planar(test, array):
    """A picture or kernel as an input: with one spatial dimension, as a row."""
    value = test.input(array)
    if array.ndim == 5:
        raise Inapplicable("three spatial dimensions")
    return test.reshape(value, (*array.shape[:2], 1, array.shape[2])) if array.ndim == 3 else value


def window(test, size, kernel):
    """Stride, padding and dilation of a window in two dimensions; padding is what `auto_pad` makes it."""
    rank = len(size)
    stride, dilation = test.attribute("strides", [1] * rank), test.attribute("dilations", [1] * rank)
    pads = test.attribute("pads", [0] * 2 * rank)
    begin, end = list(pads[:rank]), list(pads[rank:])
    if test.attribute("auto_pad", "NOTSET").startswith("SAME"):
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation)]
        total = [max(0, (-(-n // s) - 1) * s + r - n) for n, s, r in zip(size, stride, reach)]
        begin, end = [t // 2 for t in total], [t - t // 2 for t in total]
    if begin != end:
        raise Inapplicable("padding differs between the two sides")
    two = lambda values, one: list(values) if rank == 2 else [one, *values]
    return dict(stride=two(stride, 1), padding=two(begin, 0), dilation=two(dilation, 1))


def add_bias(test, value, bias):
    return test.apply("bias", value, test.input(bias[0])) if bias else value


def restore(test, value, expected):
    """Compares a planar value with what may have one spatial dimension."""
    test.output(test.reshape(value, expected.shape) if expected.ndim == 3 else value, expected)


def conv(test):
    x, w, *bias = test.inputs
    planes = planar(test, x), planar(test, w)
    options = window(test, x.shape[2:], w.shape[2:])
    y = test.apply("conv2d", *planes, groups=test.attribute("group", 1), **options)
    restore(test, add_bias(test, y, bias), test.outputs[0])


def conv_transpose(test):
    """The gradient of a convolution to its input, which has the size of the test's output."""
    x, w, *bias = test.inputs
    planes = planar(test, x), planar(test, w)
    [y] = test.outputs
    if test.attribute("auto_pad", "NOTSET") != "NOTSET":
        raise Inapplicable("padding differs between the two sides")
    options = window(test, y.shape[2:], w.shape[2:])
    size = [1, *y.shape[2:]][-2:]
    value = test.apply("conv2d_backward_input", *planes, input=size, groups=test.attribute("group", 1), **options)
    restore(test, add_bias(test, value, bias), y)


def pool(op):
    def convert(test):
        [x], y = test.inputs, test.outputs[0]  # the places of the maxima, a second output, are not compared
        plane = planar(test, x)
        kernel = test.attribute("kernel_shape", x.shape[2:])  # the global ones have none
        options = window(test, x.shape[2:], kernel)
        if options.pop("dilation") != [1, 1]:
            raise Inapplicable("a dilated window")
        kernel = [1, *kernel][-2:]
        if any(2 * p > k for p, k in zip(options["padding"], kernel)):
            raise Inapplicable("padding of more than half the window")
        if op == "avg_pool2d":
            options["count_include_pad"] = bool(test.attribute("count_include_pad", 0))
        value = test.apply(op, plane, kernel=kernel, ceil_mode=bool(test.attribute("ceil_mode", 0)), **options)
        restore(test, value, y)

    return convert


def elementwise(op):
    def convert(test):
        test.output(test.apply(op, *map(test.input, test.inputs)), test.outputs[0])

    return convert


def lrn(test):
    size = test.attribute("size", None)
    options = dict(beta=test.attribute("beta", 0.75), k=test.attribute("bias", 1.0), size=size)
    alpha = test.attribute("alpha", 1e-4) / size  # convoy does not divide
    test.output(test.apply("lrn", test.input(test.inputs[0]), alpha=alpha, **options), test.outputs[0])


def softmax(op):
    def convert(test):
        [x], [y] = test.inputs, test.outputs
        if test.attribute("axis", -1) % x.ndim != x.ndim - 1:
            raise Inapplicable("classes are not the last dimension")
        rows = test.reshape(test.input(x), (x.size // x.shape[-1], x.shape[-1]))
        test.output(test.reshape(test.apply(op, rows), y.shape), y)

    return convert


def dropout(test):
    x, *rest = test.inputs
    training = len(rest) > 1 and bool(rest[1])
    if not training:
        raise Inapplicable("evaluation, where convoy runs nothing")
    rate = float(rest[0])
    if rate:
        raise Inapplicable("the mask comes from another generator")
    counter = test.input(np.array([0, 0, 0, 0], dtype=np.int64))
    test.output(test.apply("dropout", test.input(x), counter, rate=rate, stream=16, scaling="inverted"), test.outputs[0])


def product(test, a, b, transposed=(0, 0)):
    """The product of two matrices, of which convoy's linear and its two gradients may transpose one."""
    op = {(0, 0): "linear_backward_input", (0, 1): "linear", (1, 0): "linear_backward_weight"}.get(transposed)
    if op is None:
        raise Inapplicable("both matrices are transposed")
    return test.apply(op, *((b, a) if transposed == (1, 0) else (a, b)))  # x, dy give dy^T x


def gemm(test):
    a, b, *c = test.inputs
    [y] = test.outputs
    value = product(
        test, test.input(a), test.input(b), (test.attribute("transA", 0), test.attribute("transB", 0)))
    if (alpha := test.attribute("alpha", 1.0)) != 1:
        value = test.apply("scale", value, factor=alpha)
    if c:
        term = test.input(c[0])
        if (beta := test.attribute("beta", 1.0)) != 1:
            term = test.apply("scale", term, factor=beta)
        if c[0].shape == y.shape:
            value = test.apply("add", value, term)
        elif c[0].size == 1:
            value = test.apply("add", value, test.apply("broadcast", term, shape=list(y.shape)))
        else:  # [1, N]
            value = test.apply("bias", value, test.reshape(term, [y.shape[1]]))
    test.output(value, y)


def matmul(test):
    a, b = test.inputs
    [y] = test.outputs
    if b.ndim > 2:
        raise Inapplicable("a batch of matrices")
    rows = test.reshape(test.input(a), (a.size // a.shape[-1], a.shape[-1]))
    columns = test.reshape(test.input(b), (b.shape[0], b.size // b.shape[0]))
    test.output(test.reshape(product(test, rows, columns), np.atleast_1d(y).shape), y)


def reshape(test):
    test.output(test.reshape(test.input(test.inputs[0]), test.outputs[0].shape), test.outputs[0])


def add(test):
    x, b = test.inputs
    [y] = test.outputs
    if x.shape == b.shape:
        return elementwise("add")(test)
    # Of [.., C] and [C].
    rows = test.reshape(test.input(x), (x.size // b.size, b.size))
    test.output(test.reshape(test.apply("bias", rows, test.input(b)), y.shape), y)


def mul(test):
    if test.inputs[0].shape != test.inputs[1].shape:
        raise Inapplicable("shapes differ")
    elementwise("mul")(test)


def sum_(test):
    first, *others = [test.input(x) for x in test.inputs]
    if not others:
        raise Inapplicable("nothing to compute")
    for other in others:
        first = test.apply("add", first, other)
    test.output(first, test.outputs[0])


def reduce(op):
    def convert(test):
        x, axes = test.inputs
        [y] = test.outputs
        if test.attribute("noop_with_empty_axes", 0):
            raise Inapplicable("nothing to compute")
        value = test.apply(op, test.input(x))
        if len(axes):
            raise Inapplicable("some of the dimensions")
        test.output(test.reshape(value, y.shape), y)

    return convert


def cross_entropy(test):
    x, labels, *weights = test.inputs
    loss, *log_probabilities = test.outputs
    reduction, ignore = test.attribute("reduction", "mean"), test.attribute("ignore_index", None)
    if x.ndim > 2:
        raise Inapplicable("classes are not the last dimension")
    if weights:
        raise Inapplicable("weights of classes")
    if reduction == "none":
        raise Inapplicable("a loss for each row")
    logits = test.input(x)
    rows = test.input(np.where(labels == ignore, IGNORE, labels))
    value = test.apply("cross_entropy", logits, rows, label_smoothing=0.0)
    if reduction == "sum":
        value = test.apply("scale", value, factor=float((labels != ignore).sum()))
    test.output(value, loss)
    for expected in log_probabilities:
        test.output(test.apply("log_softmax", logits), expected)


def leaky_relu(test):
    if f32(test.attribute("alpha", 0.01)) != f32(0.01):
        raise Inapplicable("another slope")
    elementwise("leaky_relu")(test)


def gelu(test):
    if test.attribute("approximate", "none") != "none":
        raise Inapplicable("by another formula")
    elementwise("gelu")(test)


def batch_norm(test):
    """ONNX's momentum weighs the old average, its variance is the population's."""
    epsilon = test.attribute("epsilon", 1e-5)
    x, weight, bias, mean, variance = map(test.input, test.inputs)
    if not test.attribute("training_mode", 0):
        test.output(test.apply("batch_norm_inference", x, weight, bias, mean, variance, epsilon=epsilon), test.outputs[0])
        return
    values = ["y", "batch mean", "batch variance"]
    test.nodes.append(node("batch_norm", [x, weight, bias], values, epsilon=epsilon))
    momentum = 1.0 - test.attribute("momentum", 0.9)
    averages = [
        test.apply("running_average", average, measured, momentum=momentum, factor=1.0)
        for average, measured in zip([mean, variance], values[1:])
    ]
    for value, expected in zip(["y", *averages], test.outputs):
        test.output(value, expected)


def concat(test):
    """Along any dimension: those before it are rows, those behind it a channel's elements."""
    axis = test.attribute("axis", None) % test.inputs[0].ndim
    flat = lambda array: (int(np.prod(array.shape[:axis])), array.shape[axis], int(np.prod(array.shape[axis + 1 :])))
    parts = [test.reshape(test.input(x), flat(x)) for x in test.inputs]
    channels = [x.shape[axis] for x in test.inputs]
    [y] = test.outputs
    test.output(test.reshape(test.apply("concat", *parts, channels=channels), y.shape), y)


def optimizer(test, op, states, **options):
    """Inputs: rate, step, then weights, gradients and states of one or more tensors; outputs: new weights and states."""
    rate, step, *tensors = test.inputs
    if step != 0:
        raise Inapplicable("ONNX corrects and weighs later steps in its own way")
    count = len(tensors) // (2 + states)
    schedule = test.input(np.array([rate, 1, 1, 0], dtype=np.float32))  # the moments are not corrected
    for n in range(count):
        names = [test.input(x) for x in tensors[n::count]]
        values = [f"value.{n}.{k}" for k in range(1 + states)]
        test.nodes.append(node(op, [*names, schedule], values, lr_scale=1.0, **options))
        for value, expected in zip(values, test.outputs[n::count]):
            test.output(value, expected)


def adam(test):
    if test.attribute("norm_coefficient_post", 0.0):
        raise Inapplicable("decay after the step")
    optimizer(
        test, "adam", 2, beta1=test.attribute("alpha", 0.9), beta2=test.attribute("beta", 0.999),
        epsilon=test.attribute("epsilon", 1e-6), weight_decay=test.attribute("norm_coefficient", 0.0), decoupled=False,
    )


def momentum(test):
    # `beta` weighs the gradients of all steps but the first.
    optimizer(
        test, "sgd", 1, momentum=test.attribute("alpha", None), weight_decay=test.attribute("norm_coefficient", None),
        nesterov=test.attribute("mode", None) == "nesterov", paper=False,
    )


# What networks like AlexNet and their training are made of.
NETWORKS = dict(
    Conv=conv, MaxPool=pool("max_pool2d"), AveragePool=pool("avg_pool2d"), GlobalAveragePool=pool("avg_pool2d"), LRN=lrn,
    Relu=elementwise("relu"), LeakyRelu=leaky_relu, Gelu=gelu, Sigmoid=elementwise("sigmoid"), Tanh=elementwise("tanh"), Softmax=softmax("softmax"),
    LogSoftmax=softmax("log_softmax"), Dropout=dropout, Gemm=gemm, Flatten=reshape, BatchNormalization=batch_norm,
    SoftmaxCrossEntropyLoss=cross_entropy, Adam=adam, Momentum=momentum,
)
# Others that convoy's ops, backward ones among them, compute.
OTHERS = dict(
    Concat=concat, ConvTranspose=conv_transpose, GlobalMaxPool=pool("max_pool2d"), MatMul=matmul, Add=add, Mul=mul, Sum=sum_,
    Reshape=reshape, ReduceSum=reduce("sum"), ReduceMean=reduce("mean"),
)
OPERATORS = NETWORKS | OTHERS


def table(rows):
    """Prints how many tests each operator has, how many became fixtures, and why the others did not."""
    print(f"{'operator':24} {'tests':>5} {'used':>5}  left out")
    for operators in (NETWORKS, OTHERS):
        total = Counter()
        for operator in operators:
            reasons = Counter(reason for row_operator, _, reason in rows if row_operator == operator)
            tests, used = reasons.total(), reasons.pop("", 0)
            total.update(tests=tests, used=used)
            text = "; ".join(f"{count} {reason}" for reason, count in reasons.items())
            print(f"{operator:24} {tests:5} {used:5}  {text}")
        print(f"{'together':24} {total['tests']:5} {total['used']:5}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder = Path(__file__).parent / "onnx"
    parser.add_argument("--out", type=Path, default=folder, help="folder to write (default: onnx/ here)")
    arguments = parser.parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases()
    expanded = [case for case in cases if "_expanded" in case.name]
    cases = [case for case in cases if "_expanded" not in case.name and case.model.graph.node[0].op_type in OPERATORS]
    writer = Writer(arguments.out)
    rows = []
    for case in sorted(cases, key=lambda case: list(OPERATORS).index(case.model.graph.node[0].op_type)):
        test, reason = Test(case), ""
        try:
            OPERATORS[test.operator](test)
            writer.case(test.operator, test.name, "graph", test.options(), test.tensors)
        except Inapplicable as inapplicable:
            reason = str(inapplicable)
        rows.append((test.operator, test.name, reason))
    writer.write()
    names = {case.name for case in cases}
    duplicates = sum(case.name.split("_expanded")[0] in names for case in expanded)
    lines = ["\t".join(row) for row in [("operator", "test", "left out"), *rows]]
    (arguments.out / "tests.tsv").write_text("\n".join(lines) + "\n")
    print(f"onnx {onnx.__version__}: {len(rows)} tests, and {duplicates} more that are the same expanded")
    table(rows)


if __name__ == "__main__":
    main()
