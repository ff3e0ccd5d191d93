"""Published weights by name, from caches as the libraries keep them: nothing here reaches for a network."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from jstc.errors import InputError, ModelError, UnknownNameError
from jstc.models import ModelSpec, build, load_weights, pretrained, published, spec
from jstc.models.weights import fit

SHUFFLENET = "shufflenetv2_x0.5-f707e7126e.pth"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr("torch.hub.urlopen", refuse)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of torch.hub's files."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts files of a repository into a cache as huggingface_hub keeps it."""
    constants = pytest.importorskip("huggingface_hub.constants", reason="the hub's library is not installed")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(repository: str) -> Path:
        folder = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("abc")
        (folder / "snapshots" / "abc").mkdir(parents=True)
        return folder / "snapshots" / "abc"

    return put


def named(name: str, classes: int = 1000, side: int = 64, channels: int = 3) -> ModelSpec:
    return spec(name, num_classes=classes, in_channels=channels, height=side, width=side)


def torchvisions(name: str, seed: int = 3) -> nn.Module:
    return build(named(name), seed=seed)


# torchvision


def test_default_weights_come_from_the_hubs_folder_and_bring_their_preprocessing(hub: Path) -> None:
    theirs, asked = torchvisions("shufflenet_v2_x0_5"), named("shufflenet_v2_x0_5")
    before = pretrained.find(asked, "default")
    torch.save(theirs.state_dict(), hub / SHUFFLENET)
    found = pretrained.find(asked, "default")
    assert (before.here, found.here, len(found.classes)) == (False, True, 1000)
    assert found.origin == "torchvision's ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1"
    ours = build(asked, seed=4)
    assert fit(ours, found.tensors(), found.origin, asked).new_head == ()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    known = published(asked.name, "default")
    assert known is not None
    assert (known.of_weights, known.preprocessing.height) == (True, 224)


def test_other_weights_have_torchvisions_name_short_or_whole(hub: Path) -> None:
    origin = "torchvision's ResNet50_Weights.IMAGENET1K_V1"
    for name in ("IMAGENET1K_V1", "ResNet50_Weights.IMAGENET1K_V1"):
        assert pretrained.find(named("resnet50"), name).origin == origin
        known = published("resnet50", name)
        assert known is not None
        assert known.origin == origin
    assert pretrained.find(named("resnet50"), "default").origin.endswith("IMAGENET1K_V2")
    assert pretrained.find(named("vgg16_bn", side=224), "default").origin.endswith("IMAGENET1K_V1")


def test_weights_of_no_such_name_are_refused_with_those_that_there_are() -> None:
    for name in ("IMAGENET1K_V3", "ResNet18_Weights.IMAGENET1K_V1"):
        with pytest.raises(
            UnknownNameError, match="torchvision has IMAGENET1K_V1, IMAGENET1K_V2 for 'resnet50'"
        ):
            pretrained.find(named("resnet50"), name)


@pytest.mark.parametrize("name", ["resnet20", "net.py:make", "fcn_resnet50"])
def test_networks_without_published_weights_say_so(name: str) -> None:
    with pytest.raises(ModelError, match="nobody publishes weights"):
        pretrained.find(named(name, side=32), "default")
    assert pretrained.offer(named(name, side=32)) is None


def test_without_network_and_cache_the_message_names_the_way_out(hub: Path) -> None:
    with pytest.raises(ModelError) as caught:
        pretrained.find(named("resnet18"), "default").tensors()
    assert caught.value.exit_code == 2
    assert "torchvision's ResNet18_Weights.IMAGENET1K_V1 cannot be fetched" in caught.value.problem
    assert str(hub) in caught.value.advice
    assert "--weights FILE" in caught.value.advice


def test_a_damaged_file_in_the_cache_is_to_be_deleted(hub: Path) -> None:
    (hub / SHUFFLENET).write_bytes(b"half of a file")
    with pytest.raises(ModelError, match=f"{SHUFFLENET} is damaged .*; delete it"):
        pretrained.find(named("shufflenet_v2_x0_5"), "default").tensors()


def test_a_cached_file_with_code_in_it_is_not_unpickled(hub: Path) -> None:
    class Code:
        def __reduce__(self) -> Any:
            return pytest.fail, ("unpickled",)

    torch.save({"a": Code()}, hub / SHUFFLENET)
    with pytest.raises(ModelError, match="is damaged"):
        pretrained.find(named("shufflenet_v2_x0_5"), "default").tensors()


# timm

TINY = "timm:test_resnet.r160_in1k"


def test_timms_weights_come_from_the_hubs_cache(cached: Callable[..., Path]) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    theirs = timm.create_model("test_resnet")
    save_file(theirs.state_dict(), cached("timm/test_resnet.r160_in1k") / "model.safetensors")
    asked = named(TINY)
    found = pretrained.find(asked, "default")
    assert (found.origin, found.here) == ("timm's test_resnet.r160_in1k", True)
    state = torch.get_rng_state()
    tensors = found.tensors()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensors[key], value) for key, value in theirs.state_dict().items())
    grey = named(TINY, classes=3, channels=1)
    assert fit(build(grey), pretrained.find(grey, "default").tensors(), "t", grey).new_head == ("fc",)


def test_timms_weights_that_are_not_cached_are_asked_for_once(cached: Callable[..., Path]) -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    found = pretrained.find(named(TINY), "default")
    assert not found.here
    with pytest.raises(ModelError, match=r"hub does not answer .*HF_HOME"):
        found.tensors()


def test_timms_networks_without_weights_name_those_with_a_tag(cached: Callable[..., Path]) -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    with pytest.raises(UnknownNameError, match="has --weights default alone"):
        pretrained.find(named(TINY), "IMAGENET1K_V1")
    with pytest.raises(ModelError, match="timm publishes no weights for 'timm:davit_huge'"):
        pretrained.find(named("timm:davit_huge", side=224), "default")
    with pytest.raises(ModelError, match=r"for 'timm:resnet18\.nosuch'; there are some for timm:resnet18\."):
        pretrained.find(named("timm:resnet18.nosuch"), "default")


# Hugging Face


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """Folders as `save_pretrained` leaves them, of a small ResNet for seven classes with names."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")

    def save(folder: Path, *, headless: bool = False) -> Path:
        names = dict(enumerate(["ant", "bee", "cat", "dog", "elk", "fox", "gnu"]))
        config = transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", id2label=names
        )
        with _quiet(transformers):
            network = transformers.ResNetForImageClassification(config)
            (network.resnet if headless else network).save_pretrained(folder)
        size = {"height": 48, "width": 48}
        document = {"size": size, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "resample": 3}
        (folder / "preprocessor_config.json").write_text(json.dumps(document))
        return folder

    return save


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    said = transformers.utils.logging
    level = said.get_verbosity()
    said.set_verbosity_error()
    said.disable_progress_bar()
    try:
        yield
    finally:
        said.set_verbosity(level)
        said.enable_progress_bar()


def test_a_folder_of_hugging_face_without_weights_is_not_one_to_fetch_from(
    saved: Callable[..., Path], tmp_path: Path
) -> None:
    asked = named(f"hf:{saved(tmp_path / 'net')}", classes=7)
    (tmp_path / "net" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"there are no weights in .*--weights FILE"):
        pretrained.find(asked, "default")
    assert pretrained.offer(asked) is None


def test_a_network_of_hugging_face_has_weights_and_preprocessing_of_its_own(
    saved: Callable[..., Path], tmp_path: Path
) -> None:
    asked = named(f"hf:{saved(tmp_path / 'net')}", classes=7)
    found = pretrained.find(asked, "default")
    assert (found.here, found.classes[:2]) == (True, ("ant", "bee"))
    network = build(asked)
    assert fit(network, found.tensors(), found.origin, asked).new_head == ()
    file = tmp_path / "net" / "model.safetensors"
    again = build(asked, seed=5)
    load_weights(again, file)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network.eval()(images), again.eval()(images))
    known = published(asked.name, "default")
    assert known is not None
    to = known.preprocessing
    assert (known.of_weights, to.height, to.mean, to.interpolation) == (True, 48, (0.1, 0.2, 0.3), "bicubic")


def test_classes_of_other_names_are_told_where_there_are_as_many(hub: Path) -> None:
    found = pretrained.Pretrained("theirs", True, dict, ("ant", "Bee", "sea_cow"))
    assert found.other_names(["ant", "bee", "sea cow"]) == found.other_names(["a", "b"]) == ()
    [sentence] = found.other_names(["ant", "wasp", "sea cow"])
    assert sentence == "weights theirs call class 1 'Bee', the data 'wasp': class i is taken for class i"


@pytest.mark.parametrize("headless", [False, True])
def test_its_classifier_starts_anew_for_other_classes(
    saved: Callable[..., Path], tmp_path: Path, headless: bool
) -> None:
    asked = named(f"hf:{saved(tmp_path / 'net', headless=headless)}", classes=3)
    found = pretrained.find(asked, "default")
    fitted = fit(build(asked), found.tensors(), found.origin, asked)
    assert fitted.new_head == ("network.classifier.1",)
    assert ("7 classes" in fitted.notes[0]) is not headless


def test_a_repository_in_the_cache_needs_no_network(
    saved: Callable[..., Path], cached: Callable[..., Path]
) -> None:
    saved(cached("me/net"))
    asked = named("hf:me/net", classes=7)
    assert pretrained.find(asked, "default").here
    assert pretrained.find(asked, "default").tensors()
    assert pretrained.offer(asked) == "the weights of hf:me/net"


def test_a_repository_that_is_not_there_is_told_once_and_at_once(cached: Callable[..., Path]) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    with pytest.raises(InputError, match=r"its config.json: not in the cache, .* HF_HOME"):
        named("hf:me/other")


def test_its_spec_builds_it_again_where_there_is_no_hub(saved: Callable[..., Path], tmp_path: Path) -> None:
    asked = named(f"hf:{saved(tmp_path / 'net')}", classes=3)
    document = json.loads(json.dumps(asked.to_dict()))
    (tmp_path / "net").rename(tmp_path / "gone")
    again = ModelSpec.from_dict(document)
    assert again == asked
    theirs, ours = (build(one).state_dict() for one in (asked, again))
    assert all(torch.equal(theirs[key], ours[key]) for key in theirs)
    assert {p.device.type for p in build(again, device="meta").parameters()} == {"meta"}


ODD = {
    "hf:": "expected 'hf:ORG/NAME'",
    "hf:a/b/c": "expected 'hf:ORG/NAME'",
    "hf:./nowhere": "no config.json in nowhere",
}


@pytest.mark.parametrize("name", ODD)
def test_names_of_nothing_are_refused_without_looking(name: str) -> None:
    from jstc.models import check

    with pytest.raises(ModelError, match=ODD[name]):
        check(name)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architecture": "resnet18"}, "it is one of timm's: take timm:net"),
        ({"model_type": "gpt2"}, "no image classifiers of the kind 'gpt2'"),
        (
            {"model_type": "timm_wrapper", "architecture": "hf-hub:a/b"},
            "has a name of its own here; timm:NAME",
        ),
        ({"model_type": "nonesuch"}, "no image classifiers of the kind 'nonesuch'"),
        ({"model_type": "resnet", "depths": "many"}, "cannot be built"),
        ([], "names no network of transformers"),
    ],
)
def test_a_config_of_something_else_is_refused(tmp_path: Path, config: Any, message: str) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=message):
        build(named(f"hf:{tmp_path / 'net'}", classes=3))
