"""What convoy makes one node of: convolutions and linear layers with bias and ReLU."""

import itertools

import torch.nn.functional as F

from fixture import node


def biased(make):
    def case(name, op, inputs, product, relu, **options):
        def function(x, w, b):
            y = product(x.double(), w.double(), b.double())
            return F.relu(y) if relu else y

        op = f"{op}_bias_relu" if relu else f"{op}_bias"
        inputs = [x.float() for x in inputs]  # after the gradients are there
        make.graph("biased", name, [node(op, ["input.0", "input.1", "input.2"], **options)], inputs, function)

    for groups, relu in itertools.product([1, 2], [False, True]):
        stride, padding, dilation = (make.size(1, 2), make.size(1, 3)), (make.size(0, 1), make.size(0, 2)), (1, make.size(1, 2))
        options = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
        x, out = (make.size(1, 3), 3 * groups, make.size(7, 12), make.size(7, 12)), make.size(2, 20) * groups
        inputs = [make.normal(*x), make.normal(out, 3, 3, 2, sigma=0.3), make.normal(out)]
        product = lambda x, w, b, options=options: F.conv2d(x, w, b, **options)
        case(f"conv2d, groups {groups}, ReLU {relu}", "conv2d", inputs, product, relu, **options)
    for n, relu in itertools.product([2, 35], [False, True]):
        i, o = make.size(5, 70), make.size(3, 90)
        inputs = [make.normal(n, i), make.normal(o, i, sigma=0.3), make.normal(o)]
        case(f"linear, {n} rows, ReLU {relu}", "linear", inputs, F.linear, relu)


ALL = [biased]
