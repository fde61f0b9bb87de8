"""mixup and CutMix, as their papers' programs write them: with the batch in another order, and a box pasted."""

import torch

from fixture import node


def mix(make):
    def case(name, shape, share, boxes):
        """`share` and `boxes` (top, left, bottom, right) of each picture."""
        n = shape[0]
        plan = torch.cat([share, torch.tensor(boxes, dtype=torch.float64)], 1)

        def function(x, _):
            x = x.double()
            other = x.flip(0)
            mixed = share.reshape(n, 1, 1, 1) * x + (1 - share).reshape(n, 1, 1, 1) * other
            for k, (top, left, bottom, right) in enumerate(boxes):
                mixed[k, :, top:bottom, left:right] = other[k, :, top:bottom, left:right]
            return mixed

        make.graph("mix", name, [node("mix", ["input.0", "input.1"])], [make.normal(*shape).float(), plan.float()], function)

    n, height, width = make.size(3, 7), make.size(5, 20), make.size(5, 20)
    shape, whole, none = [n, 3, height, width], torch.ones(n, 1, dtype=torch.float64), [[0] * 4] * n
    shares = torch.from_numpy(make.random.integers(0, 65537, (n, 1)) / 65536)

    def box(extent):
        return sorted(make.random.integers(0, extent + 1, 2).tolist())

    boxes = [[top, left, bottom, right] for (top, bottom), (left, right) in [(box(height), box(width)) for _ in range(n)]]
    case("mixup", shape, shares, none)
    case("CutMix", shape, whole, boxes)
    case("both", shape, shares, boxes)


ALL = [mix]
