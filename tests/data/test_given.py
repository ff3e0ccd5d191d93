"""Datasets given from Python: every usual form of an item, one order for a seed, and what is refused."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from jstc.data import Epoch
from jstc.data.given import GivenData
from jstc.data.given_items import Items, look
from jstc.errors import DataError
from jstc.recipe.schema import InputSettings
from jstc.runs.preprocessing import settled

CPU = torch.device("cpu")
IMAGES = torch.arange(10.0).view(10, 1, 1, 1).expand(10, 3, 4, 4)
DATA = TensorDataset(IMAGES, torch.arange(10))
PIXELS = np.random.default_rng(0).integers(0, 256, (10, 9, 12, 3), dtype=np.uint8)


class Made:
    """A Dataset of what a function gives for a number."""

    def __init__(self, item, length=10, **attributes):
        self.item, self.length = item, length
        self.__dict__.update(attributes)

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return self.item(index)


def dataset_of(data, *, classes=10, channels=None, **settings):
    given, chosen = GivenData.of(data, data), InputSettings(**settings)
    info = given.info([str(number) for number in range(classes)], chosen, channels=channels)
    info = settled(info, chosen, None, lambda: None).info if given.pixels else info
    return given.dataset(info, chosen, CPU)


def split_of(data, **options):
    return dataset_of(data, **options).train


def labels(batches):
    return [label for _, batch in batches for label in batch.tolist()]


def test_an_epoch_is_a_pure_function_of_seed_and_epoch():
    split = split_of(DATA)
    whole = labels(split.shuffled(3, Epoch(1, 0)))
    assert whole == labels(split.shuffled(3, Epoch(1, 0)))
    assert labels(split.shuffled(3, Epoch(1, 0, start=1))) == whole[3:]
    assert whole != labels(split.shuffled(3, Epoch(1, 1)))
    assert (len(whole), split.steps(3)) == (9, 3)


def test_evaluation_sees_every_image_once():
    split = split_of(DATA)
    assert labels(split.ordered(4)) == list(range(10))
    assert labels(split.ordered(4, limit=5)) == [0, 2, 4, 6, 8]


def test_images_and_labels_stay_together():
    images, classes = next(split_of(DATA).shuffled(4, Epoch(0, 0)))
    assert images[:, 0, 0, 0].tolist() == classes.tolist()
    assert (images.dtype, classes.dtype) == (torch.float32, torch.int64)


def test_two_or_three_data_sets():
    dataset = dataset_of(DATA)
    assert dataset.info.input_shape == (3, 4, 4)
    assert dataset.test is dataset.search_val
    given = GivenData.of(DATA, Subset(DATA, range(5)), Subset(DATA, range(3)))
    dataset = given.dataset(given.info("abcdefghij", InputSettings()), InputSettings(), CPU)
    assert [s.num_images for s in (dataset.train, dataset.search_val, dataset.test)] == [10, 5, 3]
    again = GivenData.of(dataset.train, dataset.search_val)  # splits stand for themselves
    assert again.dataset(dataset.info, InputSettings(), CPU).train is dataset.train
    assert again.shape == (3, 4, 4)


# Forms of items.

FORMS = {
    "a pair": lambda i: (IMAGES[i], i),
    "a list": lambda i: [IMAGES[i], torch.tensor(i)],
    "float64": lambda i: (IMAGES[i].double().numpy(), np.int64(i)),
    "image and label": lambda i: {"image": IMAGES[i], "label": i, "id": "x"},
    "pixel_values and labels": lambda i: {"pixel_values": IMAGES[i], "labels": torch.tensor([i])},
}


@pytest.mark.parametrize("form", FORMS)
def test_tensors_reach_the_network_as_they_are(form):
    [(images, classes)] = split_of(Made(FORMS[form])).ordered(10)
    assert torch.equal(images, IMAGES)
    assert classes.tolist() == list(range(10))


def resized(image, settings):
    """What the command line makes of such an image."""
    from jstc.data.base import photographs
    from jstc.data.transforms import for_evaluation

    info = photographs("x", "ab", [(image.height, image.width)], settings)
    mean, std = (torch.tensor(figures).view(3, 1, 1) for figures in (info.mean, info.std))
    return (for_evaluation(info)(image) / 255 - mean) / std


PIXEL_FORMS = {
    "Pillow": lambda i: (Image.fromarray(PIXELS[i]), i),
    "an array": lambda i: (PIXELS[i], i),
    "a tensor": lambda i: (torch.from_numpy(PIXELS[i]).permute(2, 0, 1), i),
    "Hugging Face": lambda i: {"image": Image.fromarray(PIXELS[i]), "label": i},
}


@pytest.mark.parametrize("form", PIXEL_FORMS)
@pytest.mark.parametrize(
    "settings", [{}, {"image_size": 6}, {"image_size": 6, "mean": (0.5,), "std": (0.25,)}]
)
def test_pixels_are_prepared_as_the_command_line_does(form, settings):
    [(images, _)] = split_of(Made(PIXEL_FORMS[form]), **settings).ordered(10)
    wanted = torch.stack([resized(Image.fromarray(p), InputSettings(**settings)) for p in PIXELS])
    if "mean" in settings:
        wanted = torch.stack([resized(Image.fromarray(p), InputSettings(image_size=6)) for p in PIXELS])
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        wanted = (wanted * std.view(3, 1, 1) + mean.view(3, 1, 1) - 0.5) / 0.25
    assert torch.allclose(images, wanted, atol=1e-5)


def test_transparent_pixels_lie_on_the_recipe_s_ground():
    clear = Made(lambda i: (Image.new("RGBA", (4, 4), (9, 9, 9, 0)), i))
    for background, value in (("white", 1.0), ("black", 0.0), ("none", 9 / 255)):
        [(images, _)] = split_of(clear, background=background, mean=(0.0,), std=(1.0,)).ordered(10)
        assert images.unique().tolist() == pytest.approx([value])


def test_files_have_their_own_pixels_as_originals():
    split = split_of(Made(PIXEL_FORMS["Pillow"]), image_size=6)
    found = torch.cat([images for images, _ in split.originals(4)])
    assert torch.equal(found, torch.from_numpy(PIXELS).permute(0, 3, 1, 2))


def test_grey_images_for_a_network_of_one_or_three_channels():
    grey = Made(lambda i: (Image.fromarray(PIXELS[i, :, :, 0]), i))
    [(images, _)] = split_of(grey, channels=1).ordered(10)
    assert images.shape == (10, 1, 9, 12)
    [(images, _)] = split_of(grey, channels=3, mean=(0.0,), std=(1.0,)).ordered(10)
    assert torch.equal(images[:, 0], images[:, 2])
    assert torch.equal((images[:, 0] * 255).round().byte(), torch.from_numpy(PIXELS[..., 0]))


def test_pillow_images_are_augmented_in_training_and_others_are_not():
    for form, augmented in {"Pillow": True, "an array": False}.items():
        split = split_of(Made(PIXEL_FORMS[form]), image_size=6)
        plain = dict(zip(labels(split.ordered(10)), next(iter(split.ordered(10)))[0], strict=True))
        [(images, classes)] = split.shuffled(10, Epoch(0, 0))
        same = [torch.equal(image, plain[c]) for image, c in zip(images, classes.tolist(), strict=True)]
        assert all(same) != augmented
        [(again, _)] = split.shuffled(10, Epoch(0, 0))
        assert torch.equal(images, again)
        [(images, classes)] = split.shuffled(10, Epoch(0, 0, augment=False))
        assert all(torch.equal(image, plain[c]) for image, c in zip(images, classes.tolist(), strict=True))


def noisy(index):
    noise = torch.rand(()) + np.random.random() + random.random()
    return torch.full((3, 4, 4), float(noise)), index


def test_a_transform_s_random_numbers_are_a_function_of_seed_epoch_and_place():
    split = split_of(Made(noisy))
    before = torch.random.get_rng_state(), random.getstate()
    one, other = list(split.shuffled(2, Epoch(1, 0))), list(split.shuffled(2, Epoch(1, 0)))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(one, other, strict=True))
    [(late, _)] = split.shuffled(2, Epoch(1, 0, start=4))
    assert torch.equal(late, one[4][0])
    assert not torch.equal(one[0][0], next(split.shuffled(2, Epoch(1, 1)))[0])
    assert len({image[0, 0, 0].item() for images, _ in one for image in images}) == 10
    ordered = [list(split.ordered(4)) for _ in range(2)]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(*ordered, strict=True))
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert before[1] == random.getstate()


def test_workers_read_what_takes_long_and_change_nothing(monkeypatch):
    data = Made(noisy)
    plain = list(split_of(data).shuffled(4, Epoch(3, 0)))
    monkeypatch.setattr("jstc.data.given_items._SLOW", 0.0)
    dataset = dataset_of(data, workers=1)
    assert dataset.train.workers == 1
    found = list(dataset.train.shuffled(4, Epoch(3, 0)))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(plain, found, strict=True))
    dataset.close()


# Names of classes.


@pytest.mark.parametrize(
    "data",
    [
        Made(FORMS["a pair"], classes=["a", "b"]),
        Subset(Made(FORMS["a pair"], classes=["a", "b"]), [1, 2]),
        Made(FORMS["a pair"], datasets=[Made(FORMS["a pair"], classes=["a", "b"])]),
        Made(FORMS["a pair"], classes=[("a", "also a"), ("b",)]),
        Made(FORMS["image and label"], features={"label": Made(None, names=["a", "b"])}),
    ],
)
def test_names_of_classes_are_found(data):
    assert GivenData.of(data, DATA).classes == ("a", "b")


def test_data_without_names():
    assert GivenData.of(DATA, DATA).classes is None


def test_data_that_number_the_classes_otherwise_are_refused():
    train, val, more = (Made(FORMS["a pair"], classes=[*names]) for names in ("ab", "ac", "abc"))
    with pytest.raises(DataError, match="class 1 of train_data is 'b', that of val_data 'c'"):
        _ = GivenData.of(train, val).classes
    with pytest.raises(DataError, match="class 1 of train_data is 'b', that of test_data 'c'"):
        _ = GivenData.of(train, DATA, val).classes
    assert GivenData.of(train, more, train).classes == ("a", "b")


# What cannot be trained on.


class Stream(IterableDataset):
    def __iter__(self):
        return iter([DATA[0]])


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ([], "x is empty"),
        (3, "x is of type int, without items by number"),
        (Stream(), "x is of type Stream, without items by number"),
        ({"train": DATA, "test": DATA}, "x is a mapping with the keys 'train', 'test'"),
        (["text"], r"x\[0\] is of type str"),
        ([(IMAGES[0], 1, "path")], r"x\[0\] is of type tuple with 3 values"),
        ([{"picture": IMAGES[0], "label": 1}], r"x\[0\] is a dictionary with 'picture', 'label', and none"),
        ([(torch.zeros(3), 1)], r"x: image 0 is \[3\]; expected a tensor \[C, H, W\]"),
        ([(None, 1)], "x: image 0 is of type NoneType; give a Pillow image"),
        ([(np.zeros((4, 4, 3)), 1)], r"x: image 0 is \[4, 4, 3\]; .* transpose it"),
        ([(torch.zeros(2, 4, 4, dtype=torch.uint8), 1)], r"x: image 0 is uint8 \[2, 4, 4\]"),
        ([(IMAGES[0], "cat")], "x: image 0 has the label 'cat'; give the number of its class"),
        ([(IMAGES[0], torch.eye(4)[0])], "x: image 0 has a label of 4 values; give the class number"),
        ([(IMAGES[0], 0.5)], "x: image 0 has the label 0.5; a class number is a whole number"),
        ([(IMAGES[0], torch.tensor(1.0))], "x: image 0 has the label 1.0; a class number is a whole number"),
        ([(IMAGES[0], 1), (IMAGES[0] / 0 * 0, 1)], "x: image 1 has values that are infinite or no numbers"),
        ([(IMAGES[0], 1), (IMAGES[0, :, :3], 1)], r"x: image 1 is \[3, 3, 4\], the first \[3, 4, 4\]"),
        ([(IMAGES[0], 1), (PIXELS[0], 1)], r"x: image 1 is pixels \(uint8\), the first a tensor"),
        (Made(lambda i: (IMAGES[0], 9 // (9 - i))), r"x\[9\] failed: ZeroDivisionError"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_on_is_refused(data, problem):
    with pytest.raises(DataError, match=problem):
        look(Items.of(data, "x", say=print))


def test_an_item_that_was_not_looked_at_is_named_when_it_is_read():
    data = Made(lambda i: (IMAGES[0, :, :3] if i == 777 else IMAGES[0], i % 10), length=1000)
    with pytest.raises(DataError, match=r"train_data: image 777 is \[3, 3, 4\], the first \[3, 4, 4\]"):
        list(split_of(data).ordered(100))


def test_a_slow_data_set_is_not_looked_at_for_long(monkeypatch):
    monkeypatch.setattr("jstc.data.given_items._SECONDS", 0.0)
    asked = []
    look(Items.of(Made(lambda i: asked.append(i) or (IMAGES[0], 1), length=1000), "x", say=print))
    assert len(asked) == 16
    assert asked[0] == 0 and max(asked) > 500


@pytest.mark.parametrize(
    ("train", "val", "problem"),
    [
        (
            DATA,
            Made(PIXEL_FORMS["Pillow"]),
            "train_data gives tensors, val_data images that are prepared here",
        ),
        (DATA, [(IMAGES[0, :1], 1)], "train_data gives images of 3 channels, val_data of 1"),
    ],
)
def test_data_sets_that_do_not_go_together(train, val, problem):
    with pytest.raises(DataError, match=problem):
        GivenData.of(train, val)


@pytest.mark.parametrize("label", [-1, 10])
def test_a_label_that_is_none_of_the_classes(label):
    given = GivenData.of(DATA, [(IMAGES[0], 3), (IMAGES[0], label)])
    with pytest.raises(DataError, match=rf"val_data: image 1 has the label {label}; .* the classes 0 to 9"):
        given.require_labels(10)


def test_a_data_loader_gives_its_data_set_and_says_so():
    said = []
    given = GivenData.of(DataLoader(DATA, batch_size=2), DATA, say=said.append)
    assert given.train.data is DATA
    assert "train_data is a DataLoader: its .dataset is taken" in said[0]


# Data sets of libraries.


def test_hugging_face_data_sets(tmp_path):
    datasets = pytest.importorskip("datasets", reason="Hugging Face's data sets, an extra")
    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = {"image": [Image.fromarray(p) for p in PIXELS], "label": [i % 2 for i in range(10)]}
    data = datasets.Dataset.from_dict(rows, features=features)
    assert GivenData.of(data, data).classes == ("a", "b")
    [(plain, classes)] = split_of(data, classes=2, image_size=6).ordered(10)
    [(wanted, _)] = split_of(Made(PIXEL_FORMS["Pillow"]), image_size=6).ordered(10)
    assert torch.equal(plain, wanted) and classes.tolist() == rows["label"]

    def tensors(batch):
        return {"pixel_values": [IMAGES[i] for i in batch["label"]], "labels": batch["label"]}

    [(images, classes)] = split_of(data.with_transform(tensors), classes=2).ordered(10)
    assert images[:, 0, 0, 0].tolist() == classes.tolist() == rows["label"]
    with pytest.raises(DataError, match="train_data is a mapping with the keys 'train'"):
        GivenData.of(datasets.DatasetDict({"train": data}), data)


def test_torchvision_s_folders_of_images(tmp_path):
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import ToTensor

    for number, pixels in enumerate(PIXELS):
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "ab"[number % 2] / f"{number}.png")
    plain = ImageFolder(str(tmp_path))
    given = GivenData.of(plain, Subset(plain, [1, 2]))
    assert (given.pixels, given.classes) == (True, ("a", "b"))
    [(images, classes)] = split_of(plain, classes=2, image_size=6).ordered(10)
    assert (images.shape, classes.tolist()) == ((10, 3, 6, 6), [0] * 5 + [1] * 5)
    [(images, _)] = split_of(ImageFolder(str(tmp_path), ToTensor()), classes=2).ordered(10)
    assert torch.equal(images[0], torch.from_numpy(PIXELS[0]).permute(2, 0, 1) / 255)
