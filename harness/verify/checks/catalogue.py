"""The catalogue of questions that every assigner must answer the same way, whatever its rule."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.errors import HypothesisException

from assigners.contract import Needs
from harness.verify.answers import Factory, Violation
from harness.verify.checks import form, gradients, running, symmetry
from harness.verify.scenes import VerifyScene, crowd, odd_pyramids, scenes

MOST_SEARCH = 25  # scenes in the search for a smaller failing one
EXAMPLES = 20  # scenes that most checks look at; `run_check` scales all counts by the same factor


@dataclass(frozen=True)
class Check:
    """One question.

    Attributes:
        name: for tables and tests; title: what is expected, in a few words.
        run: asks it of one scene; raises `Violation` where the answer is wrong.
        scenes: where it is asked.
        examples: how many scenes; 0: there is one scene only.
        needs_cuda: it can only be asked on a GPU.
        of_gradients: it is asked only of assigners with losses over predictions (`needs.grads`).
    """

    name: str
    title: str
    run: Callable[[Factory, VerifyScene], None]
    scenes: st.SearchStrategy[VerifyScene]
    examples: int = EXAMPLES
    needs_cuda: bool = False
    of_gradients: bool = False

    def unasked(self, needs: Needs) -> str | None:
        """Why an assigner with these needs is not asked here; None where it is."""
        if self.needs_cuda and not torch.cuda.is_available():
            return "needs a CUDA device"
        if self.of_gradients and not needs.grads:
            return "asked only of losses over predictions"
        return None


SMALL = ("tiny", "flat", "border")

CHECKS = (
    Check("form", "shapes, types, ranges, all finite", form.shapes_types_and_ranges, scenes()),
    Check("inside", "positives strictly inside their box", form.positives_lie_inside, scenes()),
    Check("deterministic", "same input, same bits, nothing touched", symmetry.same_bits_and_nothing_touched, scenes()),
    Check("batching", "images do not see each other", symmetry.images_do_not_see_each_other, scenes(min_images=2), 15),
    Check("no-pixel", "boxes without a pixel change nothing", symmetry.boxes_without_a_pixel_change_nothing,
          scenes(), 15),
    Check("order", "the order of boxes does not matter", symmetry.order_of_boxes_does_not_matter, scenes(max_boxes=8)),
    Check("names", "classes are only names", symmetry.classes_are_only_names, scenes(min_boxes=1, max_boxes=5)),
    Check("place", "the place on the canvas does not matter", symmetry.place_on_the_canvas_does_not_matter,
          scenes(max_images=1, max_boxes=6, sides=(128,)), 5),
    Check("no-boxes", "no boxes: all negative, losses zero but connected", form.batch_without_boxes,
          scenes(max_boxes=0)),
    Check("reached", "every parameter gets a gradient", form.every_parameter_is_reached, scenes(min_boxes=1), 10),
    Check("detached", "the assignment carries no gradient", form.assignment_carries_no_gradient, scenes()),
    Check("wild", "logits of 50 and boxes without area", form.wild_predictions, scenes(kinds=SMALL, min_boxes=1), 15),
    Check("broken", "NaN and infinite predictions stay out", form.broken_predictions, scenes(max_boxes=6), 10),
    Check("one-class", "one class", form.any_number_of_classes, scenes(num_classes=1, max_boxes=6), 10),
    Check("many-classes", "a thousand classes", form.any_number_of_classes,
          scenes(num_classes=1000, max_boxes=6, max_images=2, sides=(128,)), 5),
    Check("needs", "only what `needs` declares is read", symmetry.declared_needs_are_all_that_is_read, scenes()),
    Check("ignore", "ignore regions hold no negatives", symmetry.ignore_regions_hold_no_negatives,
          scenes(min_boxes=1), 15),
    Check("precision", "float32 arithmetic under autocast", symmetry.mixed_precision_maps,
          scenes(min_boxes=1, max_boxes=6), 10),
    Check("shapes", "nothing depends on data", running.nothing_depends_on_data, scenes(), 3),
    Check("pyramids", "any levels and strides", form.any_pyramid, st.sampled_from(odd_pyramids()), 9),
    Check("crowd", "thousands of boxes, bounded memory", running.memory_grows_with_boxes_alone, st.builds(crowd), 1),
    Check("gpu", "no waiting for the GPU, the answer of the CPU", running.nothing_waits_for_the_device,
          scenes(min_boxes=1), 5, needs_cuda=True),
    Check("taught-inside", "losses teach boxes inside them alone", gradients.only_what_a_box_holds_is_taught,
          scenes(), of_gradients=True),
    Check("taught-batching", "images teach what they teach alone", gradients.images_are_taught_alone,
          scenes(min_images=2), 10, of_gradients=True),
    Check("taught-order", "the order of boxes teaches the same", gradients.order_of_boxes_teaches_the_same,
          scenes(max_boxes=8), 10, of_gradients=True),
    Check("taught-place", "the place on the canvas teaches the same", gradients.place_on_the_canvas_teaches_the_same,
          scenes(max_images=1, max_boxes=6, sides=(128,)), 5, of_gradients=True),
    Check("taught-wild", "finite gradients of wild predictions", gradients.gradients_are_finite,
          scenes(kinds=SMALL, min_boxes=1), 10, of_gradients=True),
    Check("taught-ignore", "ignore regions teach no background", gradients.ignore_regions_teach_no_background,
          scenes(min_boxes=1), 10, of_gradients=True),
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """How a check ended.

    Attributes:
        examples: scenes looked at, those of the search for a smaller failing one included.
        scene: the smallest failing one, in a line; message: what was expected there, or why the check was skipped.
    """

    check: Check
    status: Literal["passed", "failed", "skipped"]
    examples: int = 0
    scene: str | None = None
    message: str | None = None


def run_check(check: Check, factory: Factory, scale: float = 1.0) -> Outcome:
    """Ask one question of as many scenes as it wants times `scale`; the same scenes every time."""
    if (why := check.unasked(factory(odd_pyramids()[0]).needs)) is not None:
        return Outcome(check, "skipped", message=why)
    seen = searched = 0
    failure: tuple[VerifyScene, Exception] | None = None
    failed: set[tuple[object, ...]] = set()

    @settings(
        max_examples=max(1, round(check.examples * scale)),
        phases=(Phase.generate, Phase.shrink),  # explaining a failure traces every line, slowly
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,
    )
    @given(check.scenes)
    def trial(scene: VerifyScene) -> None:
        nonlocal seen, searched, failure
        searched += failure is not None
        if searched > MOST_SEARCH and scene.key not in failed:
            return
        seen += 1
        try:
            check.run(factory, scene)
        except Exception as error:
            failure = scene, error  # the search ends with the smallest one
            failed.add(scene.key)
            raise

    with tempfile.TemporaryDirectory() as folder:
        set_hypothesis_home_dir(folder)  # what it learns of the code goes nowhere near the working directory
        try:
            trial()
        except (Exception, ExceptionGroup) as error:
            if failure is None:
                raise
            scene, cause = failure
            unstable = ", but not every time" if isinstance(error, HypothesisException) else ""
            return Outcome(check, "failed", seen, scene.describe(), _message(cause) + unstable)
        finally:
            set_hypothesis_home_dir(None)
    return Outcome(check, "passed", seen)


def _message(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, Violation) else f"{type(error).__name__}: {text}"
