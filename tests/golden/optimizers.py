"""Optimizers over 20 steps of a falling learning rate: the weight after each step, the state after the last."""

import itertools

import torch

from fixture import f32, rounded

STEPS = 20


def case(make, op, name, optimizer, options, states, prepare=None):
    """`optimizer` of PyTorch; `states`: convoy's name of a state, and its value from PyTorch's state and the last rate;
    `prepare` sees the optimizer before each step, the rate of the step before, and the step's own."""
    options = rounded(options)
    weight = torch.nn.Parameter(make.normal(make.size(3, 20)))
    rates = [f32(0.02 * 0.9**step) for step in range(STEPS)]
    optimizer = optimizer([weight], options)
    weights, gradients = [weight.detach().clone()], []
    for before, now in zip([rates[0]] + rates, rates):
        gradients.append(make.normal(*weight.shape))
        weight.grad = gradients[-1].clone()
        if prepare:
            prepare(optimizer, before, now)
        optimizer.param_groups[0]["lr"] = now * options["lr_scale"]
        optimizer.step()
        weights.append(weight.detach().clone())
    state, rate = optimizer.state[weight], rates[-1] * options["lr_scale"]
    tensors = dict(lr=torch.tensor(rates), gradient=torch.stack(gradients), weight=torch.stack(weights))
    tensors |= {f"state.{key}": value(state, rate) for key, value in states.items()}
    make.case(op, name, "optimizer", dict(op=op, options=options), tensors)


def sgd(make):
    def optimizer(weights, o):
        return torch.optim.SGD(weights, momentum=o["momentum"], weight_decay=o["weight_decay"], nesterov=o["nesterov"])

    def keep_rate(optimizer, before, now):
        """The paper's velocity holds the rates of the steps it comes from; PyTorch's is multiplied by today's."""
        for state in optimizer.state.values():
            if state["momentum_buffer"] is not None:
                state["momentum_buffer"] *= before / now

    forms = [("plain", 0.0), ("plain", 0.9), ("nesterov", 0.9), ("nesterov", 0.5), ("paper", 0.0), ("paper", 0.9)]
    for (form, momentum), weight_decay, lr_scale in itertools.product(forms, [0.0, 0.05], [1.0, 2.0]):
        paper = form == "paper"
        options = dict(
            momentum=momentum, weight_decay=weight_decay, nesterov=form == "nesterov", paper=paper, lr_scale=lr_scale)
        velocity = lambda state, rate: state["momentum_buffer"] * (-rate if paper else 1.0)
        case(
            make, "sgd", f"{form}, momentum {momentum}, decay {weight_decay}, lr_scale {lr_scale}", optimizer, options,
            states=dict(velocity=velocity) if momentum else {},  # PyTorch keeps none without momentum
            prepare=keep_rate if paper else None,
        )


def adam(make):
    def optimizer(weights, o):
        kind = torch.optim.AdamW if o["decoupled"] else torch.optim.Adam
        return kind(weights, betas=(o["beta1"], o["beta2"]), eps=o["epsilon"], weight_decay=o["weight_decay"])

    states = dict(m=lambda state, _: state["exp_avg"], v=lambda state, _: state["exp_avg_sq"])
    moments = [(0.9, 0.999, 1e-8), (0.5, 0.9999, 1e-8), (0.0, 0.9, 0.1), (0.95, 0.0, 1e-3)]
    choices = itertools.product([False, True], [0.0, 0.05], moments, [1.0, 2.0])
    for decoupled, weight_decay, (beta1, beta2, epsilon), lr_scale in choices:
        options = dict(
            beta1=beta1, beta2=beta2, epsilon=epsilon, weight_decay=weight_decay, decoupled=decoupled, lr_scale=lr_scale)
        name = f"betas {beta1} {beta2}, epsilon {epsilon}, decay {weight_decay}, lr_scale {lr_scale}"
        case(make, "adamw" if decoupled else "adam", name, optimizer, options, states)


ALL = [sgd, adam]
