"""Weights to start from in a local file: safetensors, or what ``torch.save`` makes of a state dict. No pickled code.

A protocol knows the file by its SHA-256, never by its place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from harness.core.errors import UserError, reading, reason, shorten
from harness.core.files import DAMAGE

if TYPE_CHECKING:
    from torch import Tensor

# RGB in [0, 1], as in `detector.images`, which needs torch.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# The backbones of the protocols and tables that ship, so that listing those need not import timm to ask it.
AS_IMAGENET = frozenset({"resnet50.tv_in1k", "resnet101.tv_in1k", "resnext101_64x4d.tv_in1k"})

_ADVICE = "; model.weights names a file on this machine"
_WRAPPERS = ("state_dict", "model")  # under which training scripts keep the state dict in a file of their own


def file_digest(path: str) -> str:
    """SHA-256 of a file of weights in hex.

    Raises:
        UserError: if it cannot be read.
    """
    with reading(f"weights {path}", _ADVICE), Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pixels_of_start(backbone: str, path: str = "") -> tuple[Any, Any]:
    """Mean and standard deviation of RGB in [0, 1] with which the weights to start from were trained.

    Args:
        backbone: timm's name.
        path: a file of weights. One of a run tells its own; of any other it is what timm says of the backbone's.

    Returns:
        ImageNet's where they are the same to three decimals. Those of a file are as they stand there, unchecked.

    Raises:
        UserError: for a backbone that timm does not know.
    """
    pixels = _pixels_of_run(path) if path else None
    if pixels is None and backbone not in AS_IMAGENET:
        from detector.backbone import BackboneError, pretrained_pixels

        try:
            mean, std = pretrained_pixels(backbone)
        except BackboneError as error:
            raise UserError(str(error)) from error
        pixels = _or_usual(mean, IMAGENET_MEAN), _or_usual(std, IMAGENET_STD)
    return pixels or (IMAGENET_MEAN, IMAGENET_STD)


def read_weights(path: str, sha256: str) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU.

    Args:
        sha256: what the protocol was read with; the bytes that are used are those that were hashed.

    Raises:
        UserError: if the file cannot be read, has changed, is damaged, or holds anything but tensors by name.
    """
    import torch
    from safetensors.torch import load

    with reading(f"weights {path}", _ADVICE):
        content = Path(path).read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"weights {path} have changed since the protocol was read; start again")
    try:
        # Safetensors begin with the length of a header in JSON, then comes the header.
        safe = content[8:9] == b"{"
        values = load(content) if safe else torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    except UnpicklingError as error:  # its text advises to trust the file
        raise UserError(
            f"weights {path} are damaged or hold more than tensors, and pickled code is not run; "
            "save the state dict alone, or as safetensors"
        ) from error
    except DAMAGE as error:
        raise UserError(
            f"weights {path} are damaged, or neither safetensors nor a state dict ({shorten(reason(error))})"
        ) from error
    return _tensors(path, values)


def _pixels_of_run(path: str) -> tuple[Any, Any] | None:
    """How a run normalised, by the protocol that its network's header holds; None if the file is not of a run."""
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {})["about"])
        model = about["protocol"]["model"]
        return model.get("pixel_mean", IMAGENET_MEAN), model.get("pixel_std", IMAGENET_STD)
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None  # no safetensors, or another program's: whether they are weights, `read_weights` tells


def _or_usual(values: tuple[float, ...], usual: tuple[float, ...]) -> tuple[float, ...]:
    return usual if [round(value, 3) for value in values] == list(usual) else values


def _tensors(path: str, values: Any) -> dict[str, Tensor]:
    from torch import Tensor

    for name in _WRAPPERS:
        if isinstance(values, Mapping) and isinstance(values.get(name), Mapping):
            values = values[name]
    if not isinstance(values, Mapping) or not values:
        raise UserError(f"weights {path} hold no tensors by name; save the state dict of a model")
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UserError(
                f"weights {path} hold {shorten(repr(name), 60)}, which is no tensor; save the state dict alone"
            )
    return dict(values)
