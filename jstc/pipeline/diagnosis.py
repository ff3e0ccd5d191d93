"""What this machine offers, for `jstc doctor`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

__all__ = ["facts"]


def facts() -> dict[str, Any]:
    """Versions, processor, GPUs, number formats, onnxruntime's working providers, free disk, as JSON."""
    import torch

    from jstc import bench
    from jstc.pipeline.manifest import versions
    from jstc.train import device

    known = bench.environment()
    chosen = device.device("auto")
    known["packages"] = versions()
    known["training_device"] = str(chosen)
    known["torch_cuda"] = torch.cuda.is_available()
    known["torch_threads"] = torch.get_num_threads()
    known["fast_bfloat16"] = device.has_fast_bfloat16(chosen)
    known["free_disk_gb"] = round(shutil.disk_usage(Path.cwd()).free / 1e9, 1)
    return known
