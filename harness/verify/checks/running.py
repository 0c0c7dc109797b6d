"""How an assigner runs: nothing depends on the data, nothing waits for the device, memory is bounded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from assigners.contract import Assignment
from assigners.grid import Grid
from assigners.ops.records import map_tensors, tensors
from harness.verify.answers import (
    ROUNDING,
    Factory,
    Violation,
    expect,
    expect_close,
    expect_close_losses,
    expect_close_rows,
    expect_positives,
    loss_values,
    on_host,
    rows,
    run,
)
from harness.verify.checks.form import expect_sound
from harness.verify.scenes import VerifyScene

MOST_SAMPLES = 1280  # per box, beside one per location; draws of `iqdet` and the cells that they read may be 1200
MOST_BYTES = 36 * 1024  # of one tensor per box; a float32 for every location of the crowd's image takes 85 KiB
MOST_BYTES_OF_A_PLACE = 512  # per location, and per (box, location) pair inside


def nothing_depends_on_data(factory: Factory, scene: VerifyScene) -> None:
    """With tensors that have shapes but no values, ``.item()``, ``nonzero`` and branches on values raise.

    The way back counts too: an assigner with losses is asked for their gradients.
    """
    assigner, targets, predictions = factory(scene), scene.targets(), scene.predictions()
    real = run(assigner, scene, targets=targets, maps=predictions)
    mode = FakeTensorMode(allow_non_fake_inputs=False)

    state: dict[str, Tensor] = {
        key: mode.from_tensor(value) for key, value in (*assigner.named_parameters(), *assigner.named_buffers())
    }
    grads = assigner.needs.grads
    maps = map_tensors(predictions, lambda t: mode.from_tensor(t.detach().requires_grad_(grads)))
    grid, shapes = map_tensors(scene.grid, mode.from_tensor), map_tensors(targets, mode.from_tensor)
    try:
        with mode:
            answer = functional_call(assigner, state, (grid, shapes, maps, scene.step()))
            backward(answer)
    except Exception as error:
        message = " ".join(str(error).split())[:160] or "no message"
        raise Violation(
            "expected an answer from shapes alone, without reading a value on the host (no .item(), bool(tensor), "
            f"nonzero, boolean indexing, NumPy): {type(error).__name__}: {message}"
        ) from error
    for name, value in tensors(real.samples).items():
        shaped = getattr(answer.samples, name)
        same = (shaped.shape, shaped.dtype) == (value.shape, value.dtype)
        expect(same, f"samples.{name}: expected one shape and type whatever the values")
    same = answer.negative_weight.shape == real.negative_weight.shape
    expect(same, "negative_weight: expected one shape whatever the values")


def nothing_waits_for_the_device(factory: Factory, scene: VerifyScene) -> None:
    """On a GPU: no synchronisation, and the answer of the CPU."""
    assigner = factory(scene)
    expected = run(assigner, scene)
    assigner = assigner.cuda()
    grid = Grid.build(scene.shapes, scene.strides, offset=scene.offset, device="cuda")
    targets = scene.targets().to("cuda")
    grads = assigner.needs.grads
    predictions = map_tensors(scene.predictions(), lambda t: t.detach().cuda().requires_grad_(grads))
    backward(assigner(grid, targets, predictions, scene.step()))  # the first call sets up libraries
    torch.cuda.set_sync_debug_mode("error")
    try:
        answer = assigner(grid, targets, predictions, scene.step())
        backward(answer)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    host = on_host(answer)
    expect_close_rows(rows(expected), rows(host), ROUNDING, "CPU and GPU")
    expect_close(host.negative_weight, expected.negative_weight, "CPU and GPU, negative_weight")
    expect_close_losses(loss_values(expected), loss_values(answer), "CPU and GPU")


def backward(answer: Assignment) -> None:
    """From the losses that have a gradient, as training would."""
    sums = [total for total, _ in answer.losses.values() if total.requires_grad]
    if sums:
        torch.stack(sums).sum().backward()  # type: ignore[no-untyped-call]


class _Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.size, self.shape = 0, torch.Size()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            # Storage, not elements: an expanded view costs nothing.
            if isinstance(leaf, Tensor) and leaf.untyped_storage().nbytes() > self.size:
                self.size, self.shape = leaf.untyped_storage().nbytes(), leaf.shape
        return result


def memory_grows_with_boxes_alone(factory: Factory, scene: VerifyScene) -> None:
    """Thousands of boxes in an image cost as much each as a few do: never boxes times locations."""
    assigner, targets = factory(scene), scene.targets()
    predictions = scene.predictions(grads=assigner.needs.grads)
    with _Largest() as largest:
        answer = run(assigner, scene, targets=targets, maps=predictions)
        expect_positives(assigner, answer, predictions, targets.num_boxes)
    expect_sound(answer, scene)
    places = scene.num_images * scene.grid.num_locations
    limit = MOST_SAMPLES * targets.num_boxes + places
    expect(len(answer.samples.gt) <= limit, f"expected at most {limit} samples, got {len(answer.samples.gt)}")
    most = MOST_BYTES * targets.num_boxes + MOST_BYTES_OF_A_PLACE * (places + targets.num_pairs)
    expect(
        largest.size <= most,
        f"expected no tensor above {most / 1e6:.0f} MB ({MOST_BYTES} bytes per box, {MOST_BYTES_OF_A_PLACE} per "
        f"location and per pair), got {largest.size / 1e6:.0f} MB of shape {tuple(largest.shape)}: work on candidates, "
        "never on boxes x locations",
    )
