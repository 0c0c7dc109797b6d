"""The shortest way through the whole computation, on any device."""

from __future__ import annotations

import torch

import assigners
from assigners import Grid, HeadInfo, Step, Targets
from detector import FCOS

SIDE = 64  # px
BOXES = ([6.0, 8.0, 40.0, 52.0], [20.0, 4.0, 62.0, 30.0])


def positives(device: torch.device) -> set[tuple[int, int, float, float]]:
    """What atss assigns of two boxes: (box, level, column, row). It sees no predictions, so devices must agree."""
    head = HeadInfo(num_classes=2, channels=8)
    grid = Grid.build([(side, side) for side in (8, 4, 2, 1, 1)], head.strides, device=device)
    targets = Targets.collate([torch.tensor(BOXES)], [torch.arange(2)], grid, sizes=[(SIDE, SIDE)])
    samples = assigners.create("atss", head).to(device)(grid, targets.to(device), None, Step()).samples
    table = torch.cat((samples.gt[:, None], samples.level[:, None], samples.uv), dim=1)[samples.positive]
    return {(int(gt), int(level), x, y) for gt, level, x, y in table.cpu().tolist()}


def one_step(device: torch.device) -> list[str]:
    """Train a tiny network with iqdet for a step and let it detect.

    Returns:
        What of it was not finite: names of losses, parameters with such a gradient, outputs.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = FCOS(2, backbone="test_resnet", channels=8, head_depth=1)
        model.attach(assigners.create("iqdet", model.head_info))
        image = torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8)
    model.to(device)
    images = [image.to(device)]
    target = {"boxes": torch.tensor(BOXES), "labels": torch.arange(2)}
    numbers = dict(model(images, [target]))
    torch.stack(list(numbers.values())).sum().backward()
    numbers |= {f"gradient of {n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    with torch.no_grad():
        numbers |= model.eval()(images)[0]
    return [name for name, value in numbers.items() if not bool(torch.isfinite(value).all())]
