"""What an accuracy experiment is: cases, methods, settings with their defaults, identity of a job."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from jstc.core import files
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


_OWN = "benchmarks.accuracy.networks:"
_FREE = ("channels.round_to=1",)
"""In networks so narrow steps of 8 would leave hardly a choice; the rivals' widths are free anyway."""

CASES: Mapping[str, Case] = {
    "resnet20-50": Case("resnet20", 0.5),
    "resnet20-35": Case("resnet20", 0.35),
    "resnet56-50": Case("resnet56", 0.5),
    "vgg16_bn-50": Case("vgg16_bn", 0.5),
    "vgg16_bn-20": Case("vgg16_bn", 0.2),
    "vgg16_bn-half-20": Case(f"{_OWN}vgg16_bn_half", 0.2, overrides=_FREE),
    "vgg16_bn-quarter-15": Case(f"{_OWN}vgg16_bn_quarter", 0.15, overrides=_FREE),
    "mobilenet_v2-50": Case(f"{_OWN}mobilenet_v2_half", 0.5, overrides=_FREE),
    "mobilenet_v2-30": Case(f"{_OWN}mobilenet_v2_half", 0.3, overrides=_FREE),
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


def _cut(text: str, *overrides: str, uses: tuple[str, ...] = (), ablation: bool = False) -> Method:
    """A method that begins at given weights, cuts them without training, and pays for its finetune alone."""
    given = ("weights=pretrained", "search.rounds=0", *overrides)
    return Method("cut", text, given, (*_GIVEN, *uses), ablation)


_GIVEN = ("given_epochs", "weights", "finetune")
_LEAN = "search.method=lean"
_AS_CUT = "search.reconstruction_images=0"
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
    "cut-jst": _cut("widths searched in given weights, reconstructed"),
    "cut-even": _cut("evenly narrow, reconstructed", _LEAN),
    "cut-tp-l2": _cut("Torch-Pruning, group L2, recalibrated", _LEAN, _AS_CUT, uses=("least_share",)),
    "cut-tp-taylor": _cut(
        "Torch-Pruning, Taylor, recalibrated", _LEAN, _AS_CUT, uses=("least_share", "taylor_images")
    ),
    "cut-jst-lean": _cut("one threshold for all groups", _LEAN, ablation=True),
    "cut-jst-common": _cut("without the policy", "search.thresholds=common", ablation=True),
    "cut-jst-steady": _cut("without perturbation", "search.perturbation=false", ablation=True),
    "cut-jst-norms": _cut("without channel weights: norms", "search.importance=magnitude", ablation=True),
    "cut-jst-fine": _cut("not from coarse to fine", "search.coarse_to_fine=false", ablation=True),
    "target": Method("target", "target network, all of the training (no rival: over the budget)"),
    "jst-lean": _ablation("one threshold for all groups, norms", _LEAN),
    "jst-steady": _ablation("without perturbation", "search.perturbation=false"),
    "jst-common": _ablation("without the policy", "search.thresholds=common"),
    "jst-norms": _ablation("without channel weights: norms", "search.importance=magnitude"),
    "jst-random": _ablation("random channel weights", "search.importance=random"),
    "jst-learned": _ablation("gates trained in turn with the weights", "search.importance=learned"),
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
    `given_epochs`: training of the network that methods of given weights begin at; `weights`: a file that has
    it, instead. `finetune`: after so many epochs each of finetune they are tested.
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
    given_epochs: float = 5.0
    weights: str = ""
    finetune: str = "0,0.25,1,5"
    taylor_images: int = 640
    least_share: float = 0.1
    channel_divisor: int = 4
    recalibration_images: int = 1024


_RANKING = 1.0  # epochs: more than importances by gradients may cost
_COMMON = ("images", "epochs", "data_seed", "test_images")
_OF_ALL = ("train.", "input.", "device=")
_OF_CUT = (*_OF_ALL, "channels.", "finetune.")
_FIXED_SECTIONS = {"model", "cifar", "flops", "seed", "device", "train", "input"}


@dataclass(frozen=True)
class Job:
    """One case, method and seed under the settings; `overrides` are recipe keys from the command line.

    Keys of `train` and `input` hold for every method, of `channels` and `finetune` for all that begin at
    given weights, others for the variants of `jst` only.
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
        return METHODS[self.method].kind in ("jst", "given", "retrain") or self.method.startswith("cut-jst")

    @property
    def cuts(self) -> bool:
        """Whether the method begins at given weights, cuts them and pays for its finetune alone."""
        return METHODS[self.method].kind == "cut"

    @property
    def lengths(self) -> list[float]:
        """Epochs of finetune, each a training of its own, after which a method that cuts is tested.

        Raises `InputError` for what are no such numbers.
        """
        try:
            found = sorted({float(part) for part in self.settings.finetune.split(",")})
        except ValueError:
            found = []
        if not found or not 0 <= found[0] <= found[-1] < float("inf"):
            raise InputError(f"--finetune '{self.settings.finetune}': expected epochs, as in 0,0.25,1")
        return found

    @property
    def _digest(self) -> str:
        """Of the file of given weights; raises `InputError` where there is none of that name."""
        weights = self.settings.weights
        if weights and not Path(weights).is_file():
            raise InputError(f"--weights {weights}: there is no such file")
        return files.sha256(Path(weights)) if weights else ""

    @property
    def allowed(self) -> float:
        """Training that the method may pay for, in epochs of the target network."""
        return sum(self.lengths) + _RANKING if self.cuts else self.settings.epochs

    @property
    def recipe(self) -> Recipe:
        """The whole recipe. Raises `RecipeError` for an override that is wrong."""
        case, s = CASES[self.case], self.settings
        base = (
            f"model={case.model}", f"dataset={case.data}", f"flops={case.flops}", f"seed={self.seed}",
            f"device={s.device}", "threads=1", f"train.batch_size={s.batch}", f"train.lr={s.lr}",
            f"train.weight_decay={s.weight_decay}", f"input.val_fraction={s.val_fraction}",
        )  # fmt: skip
        of_all = _OF_CUT if self.cuts else _OF_ALL
        given = [o for o in self.overrides if self.searches or o.startswith(of_all)]
        return loading.from_flags({}, [*base, *case.overrides, *given, *METHODS[self.method].overrides])

    @property
    def plain(self) -> Job:
        """The job with the method that this one is a variant of."""
        return replace(self, method="jst") if self.searches and not self.cuts else self

    @property
    def identity(self) -> dict[str, Any]:
        """Everything of the settings that the numbers depend on."""
        keys = None if self.searches or self.cuts else _FIXED_SECTIONS
        shared = ("search_share",) if self.searches and self.settings.search_share else ()
        names = (*_COMMON, *METHODS[self.method].uses, *shared)
        settings = {name: value for name, value in asdict(self.settings).items() if name in names}
        if self.cuts:
            del settings["epochs"]
            settings |= {"finetune": self.lengths, "weights": self._digest}
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
