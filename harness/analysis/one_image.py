"""One image before one assigner: the detector from a run or untrained, the image, what is drawn from it and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from assigners.contract import Step
from assigners.rules.iqdet.encoder import Mixture
from detector import FCOS
from harness.core.device import computing
from harness.core.errors import UserError
from harness.data import open_data
from harness.data.base import ImageSet
from harness.inspection.counterfactuals import Explanation, explain
from harness.inspection.one_image import ImageAssignment, View, assign, find_image, look, mixtures
from harness.protocol.protocol import Protocol
from harness.records.inputs import data_spec
from harness.records.store import ResultsStore
from harness.runs.trained import load_trained
from harness.training.build import attach_assigner, build_detector, resolve_assigner


@dataclass(frozen=True)
class Source:
    """A detector with its assigner, and what to call both."""

    model: FCOS | None  # in evaluation mode; None where it is built for the classes of the images
    protocol: Protocol  # of the run, or as asked for
    data: str  # likewise
    assigner: str
    options: dict[str, Any]  # all of them
    run_id: str | None  # whose weights these are; None for an untrained detector
    detector: str  # what it is called, for people


@dataclass(frozen=True)
class Answer:
    """What the assigner makes of the image."""

    source: Source
    model: FCOS
    images: ImageSet  # the split that the image is of
    view: View
    drawn: ImageAssignment
    mixture: tuple[Mixture, torch.Tensor] | None
    explanation: Explanation | None  # of the box that was asked about, if any

    @property
    def title(self) -> str:
        """Who is asked about what."""
        return f"{self.source.assigner} on {self.view.name}, {self.source.detector}"

    @property
    def replaced(self) -> list[str]:
        """The shared losses that the assigner's own stand for."""
        assert self.model.assigner is not None
        return sorted(self.model.assigner.declares.replaces)


def untrained(protocol: Protocol, data: str, name: str, options: Mapping[str, object]) -> Source:
    """A detector that has not learnt anything.

    Raises:
        RegistryError: for an unknown assigner or option.
    """
    spec = resolve_assigner(name, options)
    return Source(None, protocol, data, spec.assigner, spec.options, None, "an untrained detector")


def of_run(
    store: ResultsStore,
    run_id: str,
    name: str | None,
    options: Mapping[str, object],
    data: str | None,
    seed: int,
    device: torch.device,
) -> Source:
    """A run's detector, with its own assigner or another one.

    Args:
        name: of the assigner; the run's own where None.
        options: that differ from the run's, or from another assigner's defaults.
        data: as ``--data`` takes it, where the run's lie in a folder.
        seed: of what another assigner learns.

    Raises:
        UserError: for a run that is unknown or has no weights at hand, or data that are not named.
    """
    record = store.find(run_id)
    data = data_spec(record, data)
    name = name or record.assigner
    kept = record.options if name == record.assigner else {}
    resolved = resolve_assigner(name, {**kept, **options}).options
    learnt = name == record.assigner and resolved == record.options
    trained = load_trained(store, record.run_id, device, with_assigner=learnt)
    detector = f"the detector of run {trained.run_id}"
    if not learnt:
        assigner = attach_assigner(trained.model, name, resolved, seed).to(device)
        if any(True for _ in assigner.parameters()):
            detector += ", the assigner's own parameters untrained"
    return Source(trained.model.eval(), trained.protocol, data, name, resolved, trained.run_id, detector)


def as_many_classes(data: str, images: ImageSet, run_id: str | None, model: FCOS) -> None:
    """Refuse images of another number of classes than the network of a run has.

    Raises:
        UserError: with both numbers.
    """
    theirs, own = len(images.classes), model.head_info.num_classes
    if theirs != own:
        raise UserError(
            f"{data} has {theirs} classes, run {run_id} was trained on {own}; give data of the same classes"
        )


def ask(source: Source, split: str | None, image: str, box: int | None, seed: int, device: torch.device) -> Answer:
    """Assign one image, and explain one of its boxes.

    Args:
        split: of the data; the one trained on where None.
        image: name or position.
        box: to be explained, by its position in the image.
        seed: of an untrained detector's weights, and of draws.

    Raises:
        UserError: for an image or a box that is not there, or data of other classes than the run's.
    """
    section = source.protocol.data.model_copy(update={"train_split": split} if split else {})
    protocol = source.protocol.model_copy(update={"data": section})
    images = open_data(source.data, section, role="train")
    index = find_image(images, image)
    if box is not None and box >= len(images.annotations(index)):
        count = len(images.annotations(index))
        known = f"its boxes are 0 to {count - 1}" if count else "it has none"
        raise UserError(f"image {images.name(index)} has no box {box}; {known}")
    model, step = source.model, Step(seed, protocol.schedule.steps, 1.0)  # after the last step: schedules have ended
    if model is None:
        model, step = build_detector(protocol, len(images.classes), seed), Step(seed)
        attach_assigner(model, source.assigner, source.options, seed)
        model.to(device).eval()
    else:
        as_many_classes(source.data, images, source.run_id, model)
    with computing(device, None):
        view = look(model, images, index, protocol)
        drawn = assign(model, view, step, range(view.targets.num_boxes))
        mixture = mixtures(model, view)
        explanation = explain(model, view, step, drawn, box) if box is not None else None
    return Answer(source, model, images, view, drawn, mixture, explanation)
