from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jstc.errors import StageError
from jstc.recipe.schema import TrainSettings
from jstc.train import loop, optim
from jstc.train.device import Numerics
from jstc.train.loop import stream
from jstc.train.one_step import Criterion, Mixing, StepOptions, Teacher, distillation, step_options
from jstc.train.schedule import Schedule

CPU = torch.device("cpu")
SETTINGS = TrainSettings(lr=0.05, batch_size=16)
SCHEDULE = Schedule(base=0.05, total=20)


def train(
    network: nn.Module, split: Any, count: int = 6, first: int = 0, **options: Any
) -> loop.TrainFigures:
    return loop.train_steps(
        network,
        stream(split, 16, seed=0, start=first, count=count),
        optimizer=optim.make(dict(network.named_parameters()), SETTINGS),
        schedule=SCHEDULE,
        first_step=first,
        options=StepOptions(**({"seed": 0} | options)),
    )


def state(network: nn.Module) -> Tensor:
    return torch.cat([tensor.detach().flatten().double() for tensor in network.state_dict().values()])


def test_training_learns_and_counts(network: nn.Module, split: Any) -> None:
    first = train(network, split, count=3)
    assert (first.steps, first.images) == (3, 48)
    last = train(network, split, count=12, first=3)
    assert last.loss < first.loss
    assert last.accuracy > 0.9


def test_figures_are_means_over_images_before_each_step(split: Any) -> None:
    layer = nn.Sequential(nn.Flatten(), nn.Linear(128, 3))
    batches = [(split.images[:32], split.labels[:32]), (split.images[32:], split.labels[32:])]
    scores = layer(split.images)
    figures = loop.train_steps(
        layer,
        batches,
        optimizer=torch.optim.SGD(layer.parameters(), lr=1.0),
        schedule=Schedule(base=0.0, total=2),
        first_step=0,
        options=StepOptions(seed=0),
    )
    assert figures.loss == pytest.approx(F.cross_entropy(scores, split.labels).item(), rel=1e-6)
    assert figures.accuracy == pytest.approx((scores.argmax(1) == split.labels).float().mean().item())


def test_steps_are_a_pure_function_of_seed_and_index(
    make_network: Callable[[], nn.Module], split: Any
) -> None:
    runs = []
    for noise, seed in ((1, 0), (2, 0), (1, 5)):
        network = make_network()
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        train(network, split, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        runs.append(state(network))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])  # dropout drew something else


def test_the_schedule_sets_the_rate_of_every_step(network: nn.Module, split: Any) -> None:
    rates: list[float] = []
    optimizer = optim.make(dict(network.named_parameters()), SETTINGS)
    optimizer.register_step_post_hook(lambda o, *_: rates.append(o.param_groups[1]["lr"]))
    loop.train_steps(
        network,
        stream(split, 16, seed=0, start=0, count=3),
        optimizer=optimizer,
        schedule=SCHEDULE,
        first_step=7,
        options=StepOptions(seed=0),
    )
    assert rates == [SCHEDULE.at(step) for step in (7, 8, 9)]


@pytest.mark.parametrize(
    "options",
    [
        {"criterion": Criterion(label_smoothing=0.3)},
        {"clip_norm": 0.1},
        {"criterion": Criterion(teacher=Teacher(nn.Sequential(nn.Flatten(), nn.Linear(128, 3)), 0.5, 4.0))},
        {"criterion": Criterion(Numerics(torch.bfloat16))},
    ],
    ids=["label_smoothing", "clip_norm", "teacher", "bfloat16"],
)
def test_every_option_has_an_effect(
    options: dict[str, Any], make_network: Callable[[], nn.Module], split: Any
) -> None:
    plain, changed = make_network(), make_network()
    train(plain, split)
    train(changed, split, **options)
    assert not torch.equal(state(plain), state(changed))


def test_the_teacher_is_not_trained_and_pulls_the_student_towards_it(split: Any) -> None:
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(128, 3)).eval()
    student = nn.Sequential(nn.Flatten(), nn.Linear(128, 3))
    before = state(teacher)

    def gap() -> float:
        return distillation(student(split.images), teacher(split.images), 1.0).item()

    first = gap()
    train(student, split, count=20, criterion=Criterion(teacher=Teacher(teacher, 1.0, 1.0)))
    assert gap() < 0.2 * first
    assert torch.equal(state(teacher), before)


def test_distillation_is_zero_for_equal_scores_and_keeps_its_gradient_size() -> None:
    scores, soft = torch.randn(2, 5, 10, generator=torch.Generator().manual_seed(0))
    assert distillation(soft, soft, 3.0).item() == pytest.approx(0.0, abs=1e-6)
    sizes = []
    for temperature in (20.0, 40.0):
        student = scores.clone().requires_grad_()
        distillation(student, soft, temperature).backward()
        sizes.append(student.grad.norm().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)


def test_a_diverged_training_says_what_to_try(network: nn.Module, split: Any) -> None:
    with torch.no_grad():
        network.fc.weight[0, 0] = float("nan")
    with pytest.raises(StageError, match=r"diverged before step 9 of 20.*lower train\.lr \(now 0\.05\)"):
        train(network, split, first=3)


def test_evaluation_covers_the_whole_split_and_leaves_the_network_alone(
    network: nn.Module, split: Any
) -> None:
    network.train()
    network.bn.eval()
    before = state(network)
    modes = [module.training for module in network.modules()]
    figures = loop.evaluate(network, split.ordered(20), Numerics(channels_last=True))
    assert torch.equal(state(network), before)
    assert [module.training for module in network.modules()] == modes
    scores = network.eval()(split.images)
    assert figures.images == 48
    assert figures.accuracy == pytest.approx((scores.argmax(1) == split.labels).float().mean().item())
    assert figures.loss == pytest.approx(F.cross_entropy(scores, split.labels).item(), rel=1e-5)


def test_an_empty_split_is_an_error(network: nn.Module) -> None:
    with pytest.raises(StageError, match="no images"):
        loop.evaluate(network, [])


def test_options_follow_the_settings() -> None:
    settings = TrainSettings(label_smoothing=0.1, clip_norm=2.0, channels_last=False, precision="bfloat16")
    options = step_options(settings, CPU, seed=7, images=5000)
    criterion = Criterion(Numerics(torch.bfloat16, channels_last=False), label_smoothing=0.1)
    assert options == StepOptions(seed=7, criterion=criterion, images=128, clip_norm=2.0)
    mixed = TrainSettings(mixup=0.2, accumulate=4, precision="float16")
    options = step_options(mixed, CPU, seed=7, images=64, num_classes=10)
    assert (options.images, options.accumulate, options.criterion.numerics.dtype) == (64, 4, torch.float16)
    assert options.mixing == Mixing(0.2, 0.0, 10)
