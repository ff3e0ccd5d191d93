"""Which networks the zoo has, and how one is built: by name, for its own image size, with telling weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jstc.models.catalogue import torchvision_names

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

__all__ = ["NUM_CLASSES", "SETS", "build", "image_size", "names_of", "randomise"]

NUM_CLASSES = 1000
SETS = ("torchvision", "timm")
_TIMM_LIST = Path(__file__).with_name("timm.txt")
_SIZES = {"inception_v3": 299}
_SIZE = 224


def names_of(name_of_set: str) -> list[str]:
    """Names of all networks of a set: all classifiers of torchvision, or the hundred of `zoo_timm.txt`."""
    if name_of_set == "torchvision":
        return list(torchvision_names())
    lines = (line.strip() for line in _TIMM_LIST.read_text(encoding="utf-8").splitlines())
    return [f"timm:{line}" for line in lines if line and not line.startswith("#")]


def image_size(name: str) -> tuple[int, int]:
    """Height and width of the images that a network is made for."""
    if not name.startswith("timm:"):
        return (_SIZES.get(name, _SIZE),) * 2
    import timm

    config = timm.get_pretrained_cfg(name.removeprefix("timm:"), allow_unregistered=True)
    height, width = (config.input_size if config else (3, _SIZE, _SIZE))[1:]
    return height, width


def build(name: str) -> tuple[nn.Module, Tensor]:
    """The network in evaluation mode on the CPU, and one random image [1, 3, H, W] for it."""
    import torch

    from jstc import models

    height, width = image_size(name)
    spec = models.spec(name, num_classes=NUM_CLASSES, in_channels=3, height=height, width=width)
    network = models.build(spec, seed=0).eval()
    return network, torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(1))


def randomise(network: nn.Module) -> None:
    """Weights that tell channels apart, from a fixed seed.

    A fresh network has statistics, norms, biases and layer scales that are the same in all channels, or zero,
    or so small that whole branches count for nothing: what is cut there would not show.
    """
    import torch

    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.2, generator=generator)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2, generator=generator)
        for name, parameter in network.named_parameters():
            _tell_apart(name, parameter, generator)


def _tell_apart(name: str, parameter: Tensor, generator: Generator) -> None:
    vector = parameter.numel() == max(parameter.shape, default=1)  # also [C, 1, 1] and the like
    value = parameter.flatten()[0]
    if vector and name.endswith("bias"):
        parameter.normal_(0.1, 0.2, generator=generator)
    elif parameter.numel() == 1:
        parameter.fill_(0.5 if value == 0 else float(value))
    elif bool((parameter == value).all()):
        if vector:  # a norm's weight, a layer scale
            parameter.uniform_(0.5, 1.5, generator=generator)
        else:  # an embedding, a table, a layer that begins as zero
            parameter.normal_(0, 0.2, generator=generator)
