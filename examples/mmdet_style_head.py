"""Any grid assigner of the zoo in a dense head of mmdet's style, by name.

    python examples/mmdet_style_head.py                      # atss, and the loss goes down
    python examples/mmdet_style_head.py --assigner center --steps 100

mmdet itself is not needed. What carries over to a head there is `ZooHead.get_targets`: it has the shapes and the
conventions of mmdet's heads (lists with one map per level, flattened to ``[B, R, ...]``; the background is class C;
weights beside the targets), and the assignment in its middle is one call.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from assigners import assign

STRIDES = (8, 16, 32)


@dataclass
class InstanceData:
    """The ground truth of one image: ``bboxes`` ``[n, 4]`` xyxy pixels and ``labels`` ``[n]`` in 0..C-1."""

    bboxes: Tensor
    labels: Tensor


@dataclass
class HeadTargets:
    """Per image and location; C is the background in `labels`.

    Attributes:
        labels: ``[B, R]``; scores: ``[B, R]`` target of that class, 1 for hard assigners (quality focal loss takes
            the pair); label_weights: ``[B, R]``, 0 where ignored.
        bboxes: ``[B, R, 4]`` xyxy pixels; bbox_weights: ``[B, R]``, 0 where there is no box.
    """

    labels: Tensor
    scores: Tensor
    label_weights: Tensor
    bboxes: Tensor
    bbox_weights: Tensor


class ZooHead(nn.Module):
    """An anchor-free head: per level class scores ``[B, C, H, W]`` and distances ``[B, 4, H, W]`` in strides.

    Args:
        num_classes: C.
        channels: of the feature maps.
        assigner: a registered name of a grid assigner.
        offset: of a location within its cell; mmdet's ``MlvlPointGenerator`` has 0.5.
    """

    def __init__(self, num_classes: int, channels: int, assigner: str, offset: float = 0.5) -> None:
        super().__init__()
        self.num_classes, self.assigner, self.offset = num_classes, assigner, offset
        self.tower = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.GroupNorm(4, channels), nn.ReLU())
        self.conv_cls = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.conv_reg = nn.Conv2d(channels, 4, 3, padding=1)
        nn.init.constant_(self.conv_cls.bias, -4.0)  # a score of 0.02 to begin with, as focal loss wants it

    def forward(self, feats: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Class scores and distances, one map per level."""
        towers = [self.tower(feat) for feat in feats]
        return [self.conv_cls(t) for t in towers], [F.softplus(self.conv_reg(t)) for t in towers]

    def grid_priors(self, cls_scores: list[Tensor]) -> list[Tensor]:
        """Points ``[H * W, 2]`` of every level, row by row, in pixels."""
        points = []
        for score, stride in zip(cls_scores, STRIDES, strict=True):
            y, x = torch.meshgrid(*((torch.arange(n) + self.offset) * stride for n in score.shape[-2:]), indexing="ij")
            points.append(torch.stack((x.flatten(), y.flatten()), dim=1).to(score))
        return points

    def get_targets(
        self, points: list[Tensor], gt_instances: list[InstanceData], scores: Tensor, boxes: Tensor
    ) -> HeadTargets:
        """What every location learns: one call to the zoo, then mmdet's conventions."""
        dense = assign(
            self.assigner, points, STRIDES,
            [gt.bboxes for gt in gt_instances], [gt.labels for gt in gt_instances],
            logits=scores, predicted_boxes=boxes,  # read by assigners that look at the predictions, such as paa
        ).dense()  # fmt: skip
        positive = dense.assigned >= 0
        bboxes = torch.zeros_like(boxes)
        for image, gt in enumerate(gt_instances):
            bboxes[image, positive[image]] = gt.bboxes[dense.assigned[image, positive[image]]]
        labels = torch.where(positive, dense.class_id, self.num_classes)
        return HeadTargets(labels, dense.label, dense.class_weight, bboxes, dense.box_weight)

    def loss_by_feat(
        self, cls_scores: list[Tensor], bbox_preds: list[Tensor], gt_instances: list[InstanceData]
    ) -> dict[str, Tensor]:
        """Focal and GIoU loss of a batch, from one map per level."""
        points = self.grid_priors(cls_scores)
        scores = torch.cat([s.flatten(2).transpose(1, 2) for s in cls_scores], dim=1)  # [B, R, C]
        reach = [d.flatten(2).transpose(1, 2) * s for d, s in zip(bbox_preds, STRIDES, strict=True)]
        distances, place = torch.cat(reach, dim=1), torch.cat(points)
        boxes = torch.cat((place - distances[..., :2], place + distances[..., 2:]), dim=-1)

        targets = self.get_targets(points, gt_instances, scores, boxes)
        positive = targets.bbox_weights > 0
        wanted = F.one_hot(targets.labels, self.num_classes + 1)[..., : self.num_classes]
        focal = sigmoid_focal_loss(scores, wanted * targets.scores.unsqueeze(-1)) * targets.label_weights.unsqueeze(-1)
        overlap = generalized_box_iou_loss(boxes[positive], targets.bboxes[positive]) * targets.bbox_weights[positive]
        return {
            "loss_cls": focal.sum() / positive.sum().clamp(min=1),
            "loss_bbox": overlap.sum() / targets.bbox_weights.sum().clamp(min=1),
        }


class Detector(nn.Module):
    """Three convolutional levels and the head."""

    def __init__(self, num_classes: int, assigner: str, channels: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels, 4, stride=4), nn.ReLU(), nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        )
        self.down = nn.ModuleList(nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in STRIDES[1:])
        self.head = ZooHead(num_classes, channels, assigner)

    def forward(self, images: Tensor, gt_instances: list[InstanceData]) -> dict[str, Tensor]:
        """Losses of images ``[B, 3, H, W]``."""
        feats = [self.stem(images)]
        for layer in self.down:
            feats.append(layer(feats[-1].relu()))
        return self.head.loss_by_feat(*self.head(feats), gt_instances)


def rectangles(generator: torch.Generator, batch: int = 4, side: int = 128) -> tuple[Tensor, list[InstanceData]]:
    """Noise with bright rectangles; the class is the colour channel. Every fourth image has none."""
    images = 0.2 * torch.rand(batch, 3, side, side, generator=generator)
    truths = []
    for index, image in enumerate(images):
        count = 0 if index % 4 == 3 else 3
        corner = torch.randint(0, side // 2, (count, 2), generator=generator)
        sizes = torch.randint(side // 8, side // 2, (count, 2), generator=generator)
        boxes = torch.cat((corner, corner + sizes), dim=1)
        labels = torch.randint(0, 3, (count,), generator=generator)
        for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels.tolist(), strict=True):
            image[label, y1:y2, x1:x2] = 1.0
        truths.append(InstanceData(boxes.float(), labels))
    return images, truths


def train(assigner: str, steps: int, seed: int = 0) -> list[float]:
    """The summed loss of each step."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = Detector(num_classes=3, assigner=assigner)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = []
    for step in range(steps):
        losses = model(*rectangles(generator))
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        history.append(total.item())
        if step % 10 == 0 or step == steps - 1:
            print(f"step {step:4d}  " + "  ".join(f"{name} {value.item():.3f}" for name, value in losses.items()))
    return history


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description="Train a small mmdet-style head with an assigner of the zoo.")
    parser.add_argument("--assigner", default="atss", help="a registered grid assigner")
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    history = train(arguments.assigner, arguments.steps)
    tenth = max(len(history) // 10, 1)
    print(f"mean loss of the first {tenth} steps {sum(history[:tenth]) / tenth:.3f}, "
          f"of the last {sum(history[-tenth:]) / tenth:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
