import numpy as np
import pytest
import torch
from PIL import Image

from clients.datasets import open_dataset
from clients.datasets.synthetic import SyntheticFaces, draw_person, open_synthetic, take_photos, training_photos
from fl_sim.config import ConfigError, Dataset


def open_small(**settings: object) -> SyntheticFaces:
    given = {"users": 4, "photos": 3, "image_size": 32, **settings}
    return open_synthetic(Dataset.model_validate(given), 0)


@pytest.mark.parametrize("image_size", [32, 64, 128])
def test_photos_have_the_shape_and_range_of_a_camera(image_size: int) -> None:
    user = open_small(image_size=image_size).user(1)
    assert user.partition == 1
    assert user.private.photos.shape == (3, 3, image_size, image_size)
    assert user.held_out.photos.shape == (10, 3, image_size, image_size)
    for part in (user.private, user.held_out):
        assert part.photos.dtype == torch.float32
        assert float(part.photos.min()) >= 0
        assert float(part.photos.max()) <= 1
        assert part.labels.dtype == torch.int64
        assert len(part.labels) == len(part.photos)
    pixels = (user.private.photos[0] * 255).round().byte().permute(1, 2, 0).numpy()
    again = torch.from_numpy(np.array(Image.fromarray(pixels))).permute(2, 0, 1).float() / 255
    assert torch.equal(again, user.private.photos[0])  # eight bits: storing a photo loses nothing


def test_a_user_is_the_same_whoever_asks_first_and_however_many_there_are() -> None:
    late = open_small(users=3)
    for index in (2, 0, 1):
        late.user(index)
        late.public(index)
    direct = open_small(users=9_000).user(1)
    assert torch.equal(late.user(1).private.photos, direct.private.photos)
    assert torch.equal(late.user(1).held_out.photos, direct.held_out.photos)
    assert torch.equal(late.public(9_999).photos, open_small().public(9_999).photos)


def test_thread_count_and_global_generator_do_not_matter() -> None:
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    try:
        pictures = []
        for count in (1, 3):
            torch.set_num_threads(count)
            torch.manual_seed(count)
            before = torch.random.get_rng_state()
            pictures.append(open_small(photos=8, image_size=64).user(0).private.photos)
            assert torch.equal(before, torch.random.get_rng_state())
        assert torch.equal(*pictures)
    finally:
        torch.set_num_threads(threads)
        torch.random.set_rng_state(state)


def test_nobody_appears_twice() -> None:
    streams = [("user", i) for i in range(20)] + [("public", i) for i in range(20)]
    streams += [("training", split, i) for split in ("prior", "identity") for i in range(20)]
    people = torch.cat([draw_person(seed, *stream).identity for seed in (0, 1) for stream in streams])
    distance = torch.cdist(people, people) + 9 * torch.eye(len(people))
    assert float(distance.min()) > 0.5


def test_held_out_photos_are_other_photos_of_the_same_person() -> None:
    user = open_small(photos=10).user(0)
    assert not torch.equal(user.private.photos, user.held_out.photos)
    gap = (user.private.photos[:, None] - user.held_out.photos[None]).abs().mean(dim=(2, 3, 4))
    assert float(gap.min()) > 0.01
    assert user.private.attributes == user.held_out.attributes


def test_people_smile_at_rates_of_their_own() -> None:
    people = [draw_person(0, "user", index) for index in range(300)]
    rates = torch.tensor([person.smile_rate for person in people])
    assert 0.2 <= float(rates.min()) < 0.25
    assert 0.75 < float(rates.max()) <= 0.8
    for index in range(3):
        _, smiles = take_photos(people[index], 200, 32, 0, "user", index, "private")
        assert abs(float(smiles.float().mean()) - people[index].smile_rate) < 0.12  # 3.4 sigma


@pytest.mark.parametrize("task", ["glasses", "beard", "long_hair"])
def test_labels_of_an_attribute_are_the_attribute(task: str) -> None:
    faces = open_small(task=task, users=6)
    assert faces.num_classes == 2
    for person in (*(faces.user(index).private for index in range(6)), faces.public(0)):
        assert person.labels.unique().tolist() == [person.attributes[task]]


def test_identity_labels_are_the_partition() -> None:
    faces = open_small(task="identity", users=5)
    assert faces.num_classes == 5
    assert faces.user(3).held_out.labels.unique().tolist() == [3]
    assert faces.public(3).labels.unique().tolist() == [-1]


def test_changing_a_returned_user_changes_nothing() -> None:
    faces = open_small()
    user = faces.user(0)
    photos, labels = user.private.photos.clone(), user.private.labels.clone()
    user.private.photos.zero_()
    user.private.labels.zero_()
    assert torch.equal(faces.user(0).private.photos, photos)
    assert torch.equal(faces.user(0).private.labels, labels)


def test_training_streams_are_long_reproducible_and_apart() -> None:
    prior = training_photos("prior", 50, 32, 3, seed=0)
    assert prior.photos.dtype == torch.uint8
    assert prior.photos.shape == (50, 3, 32, 32)
    assert prior.identity.tolist() == [index // 3 for index in range(50)]
    assert set(prior.attributes) == set(open_small().user(0).private.attributes)
    assert all(values.shape == (50,) for values in prior.attributes.values())
    more = training_photos("prior", 290, 32, 3, seed=0)  # more than a chunk
    assert torch.equal(more.photos[:50], prior.photos)
    person = draw_person(0, "training", "prior", 90)
    assert torch.equal(more.photos[270:273], take_photos(person, 3, 32, 0, "training", "prior", 90)[0])
    assert {name: int(values[270]) for name, values in more.attributes.items()} == person.attributes()
    other = training_photos("identity", 50, 32, 3, seed=0)
    assert not any(torch.equal(one, two) for one, two in zip(prior.photos, other.photos, strict=True))
    assert len(training_photos("prior", 0, 32, 3, seed=0).photos) == 0


def test_open_dataset_names_the_mistake() -> None:
    with pytest.raises(ConfigError, match="did you mean 'synthetic'"):
        open_dataset(Dataset(name="sythetic"), 0)
    with pytest.raises(ConfigError, match="choose smile, identity, glasses"):
        open_dataset(Dataset(task="hair_color"), 0)
    with pytest.raises(ConfigError, match=r"dataset\.root is not set"):
        open_dataset(Dataset(name="folder"), 0)
    with pytest.raises(ConfigError, match="is not a folder"):
        open_dataset(Dataset.model_validate({"name": "lfw", "root": "/nowhere/at/all"}), 0)
    with pytest.raises(ConfigError, match="cannot be imported"):
        open_dataset(Dataset(name="no_such_package:faces"), 0)
    for ask in (lambda: open_small().user(4), lambda: open_small().public(-1)):
        with pytest.raises(ValueError, match="does not exist"):
            ask()


def test_open_dataset_takes_a_factory_of_ones_own_and_opens_once() -> None:
    config = Dataset(name="clients.datasets.synthetic:open_synthetic", users=2)
    assert open_dataset(config, 5) is open_dataset(config, 5)
    assert open_dataset(config, 5) is not open_dataset(config, 6)
    assert open_dataset(config, 5).num_users == 2
