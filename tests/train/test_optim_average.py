from __future__ import annotations

import pytest
import torch
from torch import nn

from jstc.train.optim import Average


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("index", torch.tensor([5, 1023, 7]))

    def put(self, value: float) -> None:
        with torch.no_grad():
            self.weight.fill_(value)
            self.mean.fill_(10 * value)


def averaged(values: list[float]) -> tuple[Net, Average]:
    net = Net()
    average = Average(net, 0.9)
    for value in values:
        net.put(value)
        average.update()
    return net, average


def test_it_is_the_moving_average_of_weights_and_statistics() -> None:
    net, average = averaged([1.0, 2.0, 4.0])
    first, second = 2 / 11, 3 / 12  # the decay of the beginning
    expected = second * (first * 1.0 + (1 - first) * 2.0) + (1 - second) * 4.0
    assert net.weight.tolist() == [4.0, 4.0]
    average.hand_over()
    assert net.weight.tolist() == pytest.approx([expected] * 2)
    assert net.mean.tolist() == pytest.approx([10 * expected] * 2)


def test_its_decay_is_the_one_asked_for_once_enough_steps_are_done() -> None:
    net, average = averaged([0.0] * 200)
    net.put(1.0)
    average.update()
    average.hand_over()
    assert net.weight.tolist() == pytest.approx([0.1] * 2)


def test_what_a_network_started_from_is_soon_forgotten() -> None:
    """With 0.99 and no warm-up the start would be two thirds of the average after forty steps."""
    net = Net()
    average = Average(net, 0.99)
    for value in [100.0] + [1.0] * 40:
        net.put(value)
        average.update()
    average.hand_over()
    assert net.weight.tolist() == pytest.approx([1.0] * 2, abs=0.01)


def test_whole_numbers_are_those_of_the_network() -> None:
    net, average = averaged([1.0] * 50)
    average.hand_over()
    assert net.index.tolist() == [5, 1023, 7]


def test_it_goes_on_from_what_was_saved() -> None:
    _, whole = averaged([1.0, 2.0, 4.0, 8.0])
    _, first = averaged([1.0, 2.0])
    net = Net()
    second = Average(net, 0.9)
    second.restore({name: tensor.clone() for name, tensor in first.tensors().items()})
    for value in (4.0, 8.0):
        net.put(value)
        second.update()
    assert all(torch.equal(tensor, second.tensors()[name]) for name, tensor in whole.tensors().items())
