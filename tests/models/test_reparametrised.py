"""Files of networks whose weights are computed: weight norm, spectral norm, masks of pruning."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from jstc.errors import ModelError
from jstc.models import load_weights

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm:FutureWarning")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 6, 3), nn.ConvTranspose2d(6, 6, 3)
        self.fc = nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.up(self.down(images)).mean((2, 3)))


Change = Callable[[nn.Module], object]
_EACH: dict[str, Change] = {
    "weight norm, older": nn.utils.weight_norm,
    "weight norm, newer": parametrizations.weight_norm,
    "weight norm over everything, older": lambda layer: nn.utils.weight_norm(layer, dim=None),
    "weight norm over everything, newer": lambda layer: parametrizations.weight_norm(layer, dim=None),
    "weight norm of inputs": lambda layer: parametrizations.weight_norm(layer, dim=1),
    "spectral norm, older": nn.utils.spectral_norm,
    "spectral norm, newer": parametrizations.spectral_norm,
    "mask of weights": lambda layer: prune.l1_unstructured(layer, "weight", 0.4),
    "mask of channels": lambda layer: prune.ln_structured(layer, "weight", 0.3, n=2, dim=0),
    "mask of biases": lambda layer: prune.random_unstructured(layer, "bias", 2),
}
_IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def _changed(change: Change) -> Net:
    torch.manual_seed(0)
    network = Net()
    for layer in (network.down, network.up, network.fc):
        change(layer)
        for tensor in layer.parameters():  # as after a training: no part follows from another
            tensor.data += 0.1 * torch.randn_like(tensor)
    network(_IMAGES)  # spectral norm estimates its vectors in training
    return network.eval()


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}}]
)
@pytest.mark.parametrize("change", _EACH.values(), ids=_EACH.keys())
def test_a_plain_network_gets_the_weights_of_evaluation(
    tmp_path: Path, change: Change, wrap: Callable[[dict[str, Tensor]], object]
) -> None:
    source, target = _changed(change), Net().eval()
    torch.save(wrap(dict(source.state_dict())), tmp_path / "w.pt")
    notes = load_weights(target, tmp_path / "w.pt").notes
    with torch.no_grad():
        torch.testing.assert_close(target(_IMAGES), source(_IMAGES), rtol=1e-6, atol=1e-6)
    assert any("became plain weights" in note for note in notes)


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        (nn.utils.weight_norm, parametrizations.weight_norm),
        (nn.utils.spectral_norm, parametrizations.spectral_norm),
    ],
)
def test_a_network_of_the_newer_form_takes_parts_of_the_older(
    tmp_path: Path, older: Change, newer: Change
) -> None:
    source, target = _changed(older), _changed(newer)
    torch.save(source.state_dict(), tmp_path / "w.pt")
    load_weights(target, tmp_path / "w.pt")
    with torch.no_grad():
        torch.testing.assert_close(target(_IMAGES), source(_IMAGES), rtol=1e-6, atol=1e-6)
    assert parametrize.is_parametrized(target.down)


def test_a_network_of_the_newer_form_takes_its_own_files(tmp_path: Path) -> None:
    source = _changed(parametrizations.weight_norm)
    target = copy.deepcopy(source)
    for parameter in target.parameters():
        parameter.data.zero_()
    torch.save(source.state_dict(), tmp_path / "w.pt")
    assert load_weights(target, tmp_path / "w.pt").notes == ()
    assert torch.equal(target.down.weight, source.down.weight)


def _orthogonal(layer: nn.Module) -> None:
    parametrizations.orthogonal(layer)


def _pruned_spectral(layer: nn.Module) -> None:
    nn.utils.spectral_norm(layer)
    prune.l1_unstructured(layer, "weight_orig", 0.3)


@pytest.mark.parametrize(
    ("change", "way"), [(_orthogonal, "remove_parametrizations"), (_pruned_spectral, "remove_spectral_norm")]
)
def test_what_is_not_certain_is_refused_with_the_way(tmp_path: Path, change: Change, way: str) -> None:
    source = Net()
    change(source.fc)
    torch.save(source.state_dict(), tmp_path / "w.pt")
    with pytest.raises(ModelError, match=rf"missing fc\.weight; unknown fc\..*{way}"):
        load_weights(Net(), tmp_path / "w.pt")


def test_parts_whose_shapes_do_not_go_together_are_refused(tmp_path: Path) -> None:
    state = dict(_changed(nn.utils.weight_norm).state_dict())
    state["down.weight_g"] = state["down.weight_g"][:3]
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"missing down\.weight; unknown down\.weight_g, down\.weight_v"):
        load_weights(Net(), tmp_path / "w.pt")


def test_parts_that_make_no_numbers_are_refused(tmp_path: Path) -> None:
    state = dict(_changed(nn.utils.weight_norm).state_dict())
    state["down.weight_v"] = torch.zeros_like(state["down.weight_v"])
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"down\.weight: not numbers"):
        load_weights(Net(), tmp_path / "w.pt")
