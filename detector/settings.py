"""What an assigner's declarations make of the protocol's settings: a function, so that no assigner leaves a trace."""

from __future__ import annotations

from dataclasses import replace

from assigners.contract import Declares
from detector.loss import LossSettings
from detector.postprocess import InferenceSettings


def effective_settings(
    loss: LossSettings, inference: InferenceSettings, declares: Declares
) -> tuple[LossSettings, InferenceSettings]:
    """The settings that a detector trains and detects with.

    Args:
        loss, inference: what the protocol has for every assigner.
        declares: of the assigner; what it leaves open is the protocol's.

    Raises:
        ValueError: if the quality branch would have neither a target nor a loss of the assigner's own.
    """
    if declares.quality == "objectness" and "quality" not in declares.replaces:
        raise ValueError("the assigner declares objectness, which has no target, but does not replace its loss")
    return (
        replace(loss, quality=declares.quality or loss.quality, normaliser=declares.normaliser or loss.normaliser),
        replace(
            inference,
            nms_iou=inference.nms_iou if declares.nms else None,
            score=declares.score or inference.score,
            score_voting=declares.score_voting,
        ),
    )
