"""Recurrent layers: the same channels in all gates, layers and directions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from jstc.runs.stages.train import count

LAYERS = {
    "lstm": nn.LSTM(6, 8, batch_first=True),
    "lstm both ways": nn.LSTM(6, 8, batch_first=True, bidirectional=True),
    "two layers": nn.LSTM(6, 8, num_layers=2, batch_first=True, bidirectional=True, bias=False),
    "time first": nn.LSTM(6, 8),
    "gru": nn.GRU(6, 8, num_layers=2, batch_first=True),
    "tanh": nn.RNN(6, 8, batch_first=True),
    "relu": nn.RNN(6, 8, nonlinearity="relu", batch_first=True, bidirectional=True),
}


def network(toy, layer, forward, **layers):
    return toy(
        lambda net, x: net.out(forward(net, net.stem(x).flatten(2).transpose(1, 2).relu())),
        stem=nn.Conv2d(3, 6, 3, padding=1),
        layer=layer,
        out=nn.Linear(16 if layer.bidirectional else 8, 10),
        **layers,
    )


@pytest.mark.parametrize("kind", LAYERS)
def test_sequences(toy, kind):
    net = network(toy, LAYERS[kind], lambda net, x: net.layer(x)[0].mean(1))
    assert not net.channels.unknown_operations
    assert net.widths == {"stem": 6, "layer": 8}
    net.require_exact()


def test_last_state(toy):
    net = network(toy, LAYERS["lstm"], lambda net, x: net.layer(x)[1][0].mean(0))
    assert net.widths == {"stem": 6, "layer": 8}
    net.require_exact()


def test_first_state(toy):
    net = network(
        toy,
        LAYERS["gru"],
        lambda net, x: net.layer(x, net.state.expand(2, len(x), -1).contiguous())[0].mean(1),
        state=nn.Parameter(torch.randn(1, 1, 8)),
    )
    assert net.widths == {"stem": 6, "state": 8}
    net.require_exact()


def test_projection(toy):
    net = toy(
        lambda net, x: net.out(net.layer(net.stem(x).flatten(2).transpose(1, 2).relu())[0].mean(1)),
        stem=nn.Conv2d(3, 6, 3, padding=1),
        layer=nn.LSTM(6, 8, proj_size=5, batch_first=True),
        out=nn.Linear(5, 10),
    )
    assert sorted(net.widths.values()) == [5, 6, 8]
    net.require_exact()


def test_they_are_not_counted_as_with_fvcore(toy):
    net = network(toy, LAYERS["lstm"], lambda net, x: net.layer(x)[0].mean(1))
    assert net.channels.cost().flops == count(net.model, net.inputs[0][:1])[0]


def test_a_sequence_of_channels_stays(toy):
    net = toy(
        lambda net, x: net.out(net.layer(net.stem(x).flatten(2))[0].mean(1)),
        stem=nn.Conv2d(3, 6, 3, padding=1),
        layer=nn.LSTM(64, 8, batch_first=True),
        out=nn.Linear(8, 10),
    )
    assert net.reasons["stem", 0] == "a recurrent layer runs over the channels"
