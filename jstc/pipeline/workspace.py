"""What the stages of one run share, each thing made when it is first needed and then kept."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from jstc.recipe import Recipe

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from jstc.channels import ChannelMap
    from jstc.data import DataInfo, Dataset
    from jstc.models import ModelSpec
    from jstc.search.space import Budget

__all__ = ["Workspace"]


class Workspace:
    """Device, data, target network and channel groups of a recipe. Making one costs nothing."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    @cached_property
    def device(self) -> torch.device:
        """Where training happens."""
        from jstc.train import device

        device.set_threads(self.recipe.threads)
        return device.device(self.recipe.device)

    @cached_property
    def info(self) -> DataInfo:
        """Classes and image shape; raises `DataError` when the data set cannot be used."""
        from jstc import data

        return data.check(self.recipe.dataset, root=self.recipe.data, settings=self.recipe.input)

    @cached_property
    def dataset(self) -> Dataset:
        """The four splits, on the device or read as they are needed."""
        from jstc import data

        recipe = self.recipe
        return data.load(
            recipe.dataset, root=recipe.data, settings=recipe.input, seed=recipe.seed, device=self.device
        )

    @cached_property
    def spec(self) -> ModelSpec:
        """What is needed to build the target network again."""
        from jstc import models

        info = self.info
        return models.spec(
            self.recipe.model,
            num_classes=len(info.labels),
            in_channels=info.channels,
            height=info.height,
            width=info.width,
            cifar=self.recipe.cifar,
        )

    @cached_property
    def channels(self) -> ChannelMap:
        """Groups, frozen channels and costs of the target network, found without its weights."""
        from jstc import channels, models

        skeleton = models.build(self.spec, device="meta")
        return channels.analyse(skeleton, self.example_input("meta"), ignore=self.recipe.channels.ignore)

    @cached_property
    def budget(self) -> Budget:
        """The budget as a count; raises `BudgetError` when no sub-network can meet it."""
        from jstc.search import space

        return space.limit(self.channels, self.recipe)

    def example_input(self, device: str = "cpu") -> Tensor:
        """One image of zeros, [1, C, H, W]."""
        import torch

        return torch.zeros(1, *self.spec.input_shape, device=device)

    def new_target(self) -> nn.Module:
        """A target network with its initial weights: the recipe's, or random ones by the seed; on the CPU."""
        from jstc import models
        from jstc.train import seeds

        model = models.build(self.spec, seed=seeds.derive(self.recipe.seed, "init"))
        if self.recipe.weights is not None:
            models.load_weights(model, self.recipe.weights)
        return model
