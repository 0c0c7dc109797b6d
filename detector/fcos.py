"""The network, in order: backbone, pyramid, head; then the assigner and the loss, or the detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from assigners.contract import Assigner, HeadInfo, Predictions, Step, Targets, Term
from assigners.grid import Grid, cached_grid
from assigners.ops.boxes import decode
from assigners.ops.records import map_tensors
from detector.backbone import STRIDES, PyramidBackbone
from detector.head import FCOSHead
from detector.images import MEAN, STD, ImageBatch, normalise, pad_images
from detector.loss import LossSettings, detection_losses
from detector.postprocess import Candidates, InferenceSettings, find_candidates, postprocess
from detector.settings import effective_settings


class FCOS(nn.Module):
    """FCOS on any timm backbone, trained by any assigner.

    ``model(images, targets)`` follows torchvision's convention: a dict of losses in training, a list of dicts
    ``boxes, scores, labels`` in evaluation. The assigner is training-time company: `network_state` and evaluation do
    not contain it.

    Args:
        num_classes: C.
        backbone, pretrained, frozen_stages, frozen_bn, deformable_stages, weights: see `PyramidBackbone`.
        channels: of the pyramid and the head.
        head_depth: convolutions per tower.
        point_offset: position of a location within its cell.
        pixel_mean, pixel_std: of RGB in [0, 1], to normalise images with; ImageNet's, unless the weights want others.
        loss, inference: settings.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet50",
        pretrained: bool = False,
        frozen_stages: int = 0,
        frozen_bn: bool = False,
        deformable_stages: Sequence[int] = (),
        weights: Mapping[str, Tensor] | None = None,
        channels: int = 256,
        head_depth: int = 4,
        point_offset: float = 0.5,
        pixel_mean: Sequence[float] = MEAN,
        pixel_std: Sequence[float] = STD,
        loss: LossSettings | None = None,
        inference: InferenceSettings | None = None,
    ) -> None:
        super().__init__()
        self.backbone = PyramidBackbone(
            backbone, channels, pretrained=pretrained, frozen_stages=frozen_stages, frozen_bn=frozen_bn,
            deformable_stages=deformable_stages, weights=weights,
        )  # fmt: skip
        self.head = FCOSHead(channels, num_classes, head_depth, len(STRIDES))
        self.head_info = HeadInfo(num_classes=num_classes, channels=channels, strides=STRIDES)
        self.point_offset = point_offset
        # On the device, so that no step copies them there; a setting and nothing learnt, so in no state dict.
        self.pixel_mean, self.pixel_std = (
            nn.Buffer(torch.tensor(each, dtype=torch.float32).view(3, 1, 1), persistent=False)
            for each in (pixel_mean, pixel_std)
        )
        self._shared = loss or LossSettings(), inference or InferenceSettings()
        self.loss_settings, self.inference = self._shared
        self.assigner: Assigner | None = None

    def attach(self, assigner: Assigner) -> FCOS:
        """Train with this assigner, and with the settings that it makes of the detector's own (`effective_settings`).

        Raises:
            ValueError: if what it declares does not fit together.
        """
        self.loss_settings, self.inference = effective_settings(*self._shared, assigner.declares)
        self.assigner = assigner
        return self

    def network_state(self) -> dict[str, Tensor]:
        """The evaluated network's parameters and buffers: the state dict without the assigner's."""
        return {k: v for k, v in self.state_dict().items() if not k.startswith("assigner.")}

    def forward(
        self,
        images: ImageBatch | Sequence[Tensor],
        targets: Targets | Sequence[Mapping[str, Tensor]] | None = None,
        step: Step | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training, detections in evaluation.

        Args:
            images: a padded batch, or images ``[3, h, w]``.
            targets: in training, a collated batch, or per image ``boxes`` ``[n, 4]`` xyxy pixels and ``labels``
                ``[n]``, with optional ``ignore`` ``[m, 4]`` and ``image_id``; best left on the CPU.
            step: where training stands, for schedules and noise.

        Raises:
            ValueError: in training without targets or assigner.
        """
        if self.training:
            return self.learn(images, targets, step)[0]
        batch = images if isinstance(images, ImageBatch) else pad_images(images)
        grid, maps = self.maps(batch)
        return postprocess(self.inference, grid, maps, batch.sizes)

    def learn(
        self,
        images: ImageBatch | Sequence[Tensor],
        targets: Targets | Sequence[Mapping[str, Tensor]] | None,
        step: Step | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Term]]:
        """Losses and statistics of a batch, as `detection_losses` returns them; arguments and errors as `forward`."""
        if self.assigner is None or targets is None:
            raise ValueError("training needs an assigner (FCOS.attach) and targets")
        batch = images if isinstance(images, ImageBatch) else pad_images(images)
        grid, predictions = self.maps(batch)
        if not isinstance(targets, Targets):
            targets = self.collate(targets, grid, batch.sizes)
        targets = targets.to(batch.pixels.device, non_blocking=True)
        with torch.autocast(batch.pixels.device.type, enabled=False):
            assignment = self.assigner(grid, targets, self.visible(predictions), step or Step())
            return detection_losses(
                self.loss_settings, grid, targets, predictions, assignment, self.assigner.declares.replaces
            )

    def candidates(self, batch: ImageBatch) -> Candidates:
        """What evaluation finds in a batch before NMS, so that several views of an image can be merged."""
        return find_candidates(self.inference, *self.maps(batch), batch.sizes)

    def maps(self, batch: ImageBatch) -> tuple[Grid, Predictions]:
        """The dense maps of a batch, with gradient, and the grid that they lie on."""
        features = self.backbone(normalise(batch.pixels, self.pixel_mean, self.pixel_std))
        logits, distances, quality = self.head(features, STRIDES)
        grid = self.grid(features)
        return grid, Predictions(logits, quality, distances, decode(grid.points, distances), tuple(features))

    def grid(self, features: Sequence[Tensor]) -> Grid:
        """The grid of feature maps, remembered by size and device."""
        shapes = tuple((f.shape[-2], f.shape[-1]) for f in features)
        return cached_grid(shapes, STRIDES, self.point_offset, features[0].device)

    @staticmethod
    def collate(targets: Sequence[Mapping[str, Tensor]], grid: Grid, sizes: tuple[tuple[int, int], ...]) -> Targets:
        """`Targets` of per-image dicts in torchvision's convention."""
        empty = torch.zeros(0, 4)
        return Targets.collate(
            [t["boxes"] for t in targets],
            [t["labels"] for t in targets],
            grid,
            sizes=sizes,
            image_ids=[int(t.get("image_id", index)) for index, t in enumerate(targets)],
            ignore=[t.get("ignore", empty) for t in targets],
        )

    def visible(self, predictions: Predictions) -> Predictions | None:
        """The predictions as the assigner asked to see them."""
        assert self.assigner is not None
        needs = self.assigner.needs
        if not (needs.predictions or needs.features):
            return None
        if needs.grads:
            return predictions
        maps = map_tensors(predictions, Tensor.detach)
        return replace(maps, features=predictions.features if needs.features else ())
