"""What an accuracy experiment is: cases, methods, settings with their defaults, identity of a job."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from jstc.errors import InputError
from jstc.recipe import loading
from jstc.recipe.schema import Recipe

__all__ = ["CASES", "METHODS", "Case", "Job", "Method", "Settings"]


@dataclass(frozen=True)
class Case:
    """A network, its data, and the FLOPs budget as a share of the target network's."""

    model: str
    flops: float
    data: str = "cifar10"
    overrides: tuple[str, ...] = ()


CASES: Mapping[str, Case] = {
    "resnet20-50": Case("resnet20", 0.5),
    "resnet20-35": Case("resnet20", 0.35),
    "resnet56-50": Case("resnet56", 0.5),
    "vgg16_bn-50": Case("vgg16_bn", 0.5),
    "digits-50": Case("resnet20", 0.5, data="digits", overrides=("input.image_size=8",)),  # for tests
}


@dataclass(frozen=True)
class Method:
    """A way from nothing to a trained network at the budget.

    `kind` names the function that does it, `overrides` are recipe keys, `uses` the settings beside the common
    ones that its numbers depend on.
    """

    kind: str
    text: str
    overrides: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    ablation: bool = False


def _ablation(text: str, *overrides: str, kind: str = "jst") -> Method:
    return Method(kind, text, overrides, ablation=True)


_RANDOM = ("candidates", "candidates_share")
_TRACED = ("pretrain", "least_share")
_FASTNAS = ("pretrain", "channel_divisor", "recalibration_images")

METHODS: Mapping[str, Method] = {
    "jst": Method("jst", "joint search-and-training"),
    "jst-given": Method(
        "given",
        "joint search-and-training from the trained target network",
        uses=("pretrain",),
        overrides=("weights=pretrained",),  # stands for those of the trained target network
    ),
    "uniform": Method("uniform", "uniformly narrow network from scratch, all of the training"),
    "random": Method("random", "best of a few random plans, from scratch", uses=_RANDOM),
    "tp-l2": Method("tp", "Torch-Pruning, group L2, global", uses=_TRACED),
    "tp-taylor": Method("tp", "Torch-Pruning, Taylor, global", uses=(*_TRACED, "taylor_images")),
    "fastnas": Method("fastnas", "ModelOpt FastNAS", uses=_FASTNAS),
    "target": Method("target", "target network, all of the training (no rival: over the budget)"),
    "jst-perturbation": _ablation("perturbed (off by default)", "search.perturbation=true"),
    "jst-threshnet": _ablation("thresholds by the policy (off by default)", "search.thresholds=threshnet"),
    "jst-random": _ablation("random channel weights", "search.importance=random"),
    "jst-learned": _ablation("learned channel weights (off by default)", "search.importance=learned"),
    "jst-fine": _ablation("not from coarse to fine", "search.coarse_to_fine=false"),
    "jst-narrow": _ablation("no coarse rounds below the budget", "search.coarse_budget=1"),
    "jst-lead": _ablation(
        "residual streams in the lead (off by default)", "search.residual_threshold_offset=1.5"
    ),
    "jst-retrain": _ablation("the found plan, trained from scratch", kind="retrain"),
    "jst-teacher": _ablation("target network as teacher, paid for", "finetune.teacher=target"),
}


@dataclass(frozen=True)
class Settings:
    """The defaults of every experiment.

    `images`: training images used, both splits together (null: all). `epochs`: total training, in epochs of
    the target network over them. `pretrain`: share of it that rivals spend on the target network.
    `search_share`: share of it that the rounds of jst's search may take, which sets `search.steps_per_round`
    (0: the recipe says). `candidates`, `candidates_share`: random plans, and the share of all training for
    choosing among them.
    `taylor_images`: training images behind the importances of `tp-taylor`. `least_share`: of a group that
    Torch-Pruning keeps. `data_seed`: decides the images and the search-validation split, for all seeds.
    """

    images: int | None = 4000
    epochs: float = 20.0
    batch: int = 64
    lr: float = 0.1
    weight_decay: float = 5e-4
    val_fraction: float = 0.2
    data_seed: int = 0
    device: str = "auto"
    test_images: int | None = None
    pretrain: float = 0.5
    search_share: float = 0.0
    candidates: int = 4
    candidates_share: float = 0.1
    taylor_images: int = 640
    least_share: float = 0.1
    channel_divisor: int = 4
    recalibration_images: int = 1024


_COMMON = ("images", "epochs", "data_seed", "test_images")
_OF_ALL = ("train.", "input.", "device=")
_FIXED_SECTIONS = {"model", "cifar", "flops", "seed", "device", "train", "input"}


@dataclass(frozen=True)
class Job:
    """One case, method and seed under the settings; `overrides` are recipe keys from the command line.

    Keys of `train` and `input` hold for every method, others for the variants of `jst` only.
    """

    case: str
    method: str
    seed: int
    settings: Settings = Settings()
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, known in ((self.case, CASES), (self.method, METHODS)):
            if name not in known:
                raise InputError(f"'{name}' is not one of {', '.join(known)}")

    @property
    def searches(self) -> bool:
        """Whether the method is a variant of jst."""
        return METHODS[self.method].kind in ("jst", "given", "retrain")

    @property
    def recipe(self) -> Recipe:
        """The whole recipe. Raises `RecipeError` for an override that is wrong."""
        case, s = CASES[self.case], self.settings
        base = (
            f"model={case.model}", f"dataset={case.data}", f"flops={case.flops}", f"seed={self.seed}",
            f"device={s.device}", "threads=1", f"train.batch_size={s.batch}", f"train.lr={s.lr}",
            f"train.weight_decay={s.weight_decay}", f"input.val_fraction={s.val_fraction}",
        )  # fmt: skip
        given = [o for o in self.overrides if self.searches or o.startswith(_OF_ALL)]
        return loading.from_flags({}, [*base, *case.overrides, *given, *METHODS[self.method].overrides])

    @property
    def plain(self) -> Job:
        """The job with the method that this one is a variant of."""
        return replace(self, method="jst") if self.searches else self

    @property
    def identity(self) -> dict[str, Any]:
        """Everything of the settings that the numbers depend on."""
        keys = None if self.searches else _FIXED_SECTIONS
        shared = ("search_share",) if self.searches and self.settings.search_share else ()
        names = (*_COMMON, *METHODS[self.method].uses, *shared)
        settings = {name: value for name, value in asdict(self.settings).items() if name in names}
        case = asdict(CASES[self.case])
        recipe = self.recipe.model_dump(mode="json", include=keys)
        return {"case": case, "method": self.method, "recipe": recipe, "settings": settings}

    @property
    def hash(self) -> str:
        """A name for the identity, 10 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:10]

    @property
    def name(self) -> str:
        """Name of the result's file and the job's folder: method, seed, hash."""
        return f"{self.method}-s{self.seed}-{self.hash}"

    def to_dict(self) -> dict[str, Any]:
        """A JSON document."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Job:
        """The inverse of `to_dict`."""
        settings = Settings(**{f.name: document["settings"][f.name] for f in fields(Settings)})
        overrides = tuple(document["overrides"])
        return cls(document["case"], document["method"], document["seed"], settings, overrides)
