"""Data-side defenses, and every defense in a whole run."""

import dataclasses

import pytest
import torch
from tiny_faces import model_of, tiny_config

from attacker.capture.store import CaptureStore
from clients.defenses import apply, augment, batch_size, load_all, local_steps, mixup, names
from clients.defenses import prepare as defended
from clients.local_training import local_gradient, local_update
from clients.training import Private, Training, training_of
from clients.user import Faces
from experiments.plan.setup import prepare
from experiments.run.federation import run_federation
from fl_sim import seeds
from fl_sim.runs import RunFolder
from fl_sim.threads import one_thread
from fl_sim.updates import flatten

DATASET = {"users": 2, "photos": 4}
EACH = [
    {"name": "mixup", "alpha": 1.0},
    {"name": "augment"},
    {"name": "batch_size", "photos": 2},
    {"name": "local_steps", "epochs": 2, "batch_size": 2},
    {"name": "clip", "max_norm": 0.1, "per_layer": True},
    {"name": "gaussian_noise", "std": 0.1, "relative": "percentile95"},
    {"name": "laplace_noise", "scale": 0.1},
    {"name": "local_dp", "epsilon": 8.0, "delta": 1e-5, "max_norm": 0.1},
    {"name": "prune", "keep": 0.1},
    {"name": "random_sparsify", "keep": 0.1},
    {"name": "sign"},
    {"name": "quantize", "bits": 4},
    {"name": "dropout_update", "rate": 0.5},
    {"name": "representation_perturbation", "prune": 0.5, "probes": 1},
]


@pytest.fixture
def training():
    photos = torch.rand(8, 3, 32, 32, generator=seeds.generator(0))
    return Training(photos, torch.tensor([0, 1, 2, 0, 1, 2, 0, 1]), 3, 1, 0)


def test_mixup_blends_photos_and_labels_alike(training):
    # Each photo tells its label: what the pixels say after mixing must be what the labels say.
    photos = (torch.arange(8.0) / 10)[:, None, None, None].expand(8, 3, 4, 4)
    labelled = dataclasses.replace(training, photos=photos, labels=torch.arange(8), num_classes=8)
    mixed = mixup.prepare(labelled, mixup.Settings(1.0), seeds.generator(4))
    assert mixed.labels.shape == (8, 8)
    torch.testing.assert_close(mixed.photos[:, 0, 0, 0], mixed.labels @ (torch.arange(8.0) / 10))
    assert not torch.equal(mixed.photos, photos)


def test_the_gradient_of_mixed_labels_is_the_blend_of_the_gradients(training):
    model = model_of(tiny_config(), 3)
    share, other = 0.3, training.labels.flip(0)
    one_hot = torch.eye(3)
    soft = share * one_hot[training.labels] + (1 - share) * one_hot[other]
    mixed = local_gradient(model, Faces(training.photos, soft, {}))
    ends = [local_gradient(model, Faces(training.photos, labels, {})) for labels in (training.labels, other)]
    torch.testing.assert_close(flatten(mixed), share * flatten(ends[0]) + (1 - share) * flatten(ends[1]))


def test_augment_mirrors_turns_shifts_and_relights(training):
    def only(**settings):
        off = {"flip": 0.0, "rotate": 0.0, "shift": 0.0, "brightness": 0.0}
        return augment.prepare(training, augment.Settings(**{**off, **settings}), seeds.generator(1)).photos

    torch.testing.assert_close(only(flip=1.0), training.photos.flip(-1), rtol=0, atol=0)
    light = only(brightness=0.3) - training.photos
    assert 0.05 < float(light.abs().max()) <= 0.3
    centre = torch.zeros_like(training.photos)
    centre[:, :, 12:20, 12:20] = 1
    spots = dataclasses.replace(training, photos=centre)
    shifted = augment.prepare(spots, augment.Settings(0.0, 0.0, 0.25, 0.0), seeds.generator(1)).photos
    torch.testing.assert_close(shifted.sum((1, 2, 3)), centre.sum((1, 2, 3)), rtol=1e-3, atol=0)  # a spot moves whole
    rows = torch.arange(32.0)
    where = (shifted.sum((1, 3)) * rows).sum(1) / shifted.sum((1, 2, 3)) - 15.5  # pixels down
    assert float(where.abs().max()) <= 8 + 1e-3
    assert len(set(where.round(decimals=2).tolist())) == 8  # each photo by a draw of its own
    turned = augment.prepare(spots, augment.Settings(0.0, 90.0, 0.0, 0.0), seeds.generator(1)).photos
    assert float((turned - centre).abs().max()) > 0.3
    assert bool((turned[:, :, 15:17, 15:17] > 0.99).all())  # about the centre


def test_batch_size_takes_photos_with_their_labels_anew_every_round(training):
    labelled = dataclasses.replace(training, labels=torch.arange(8))
    chosen = [
        batch_size.prepare(labelled, batch_size.Settings(3), seeds.generator(server_round)) for server_round in range(6)
    ]
    for one in chosen:
        assert len(set(one.labels.tolist())) == 3
        assert torch.equal(one.photos, training.photos[one.labels])
    assert len({tuple(one.labels.tolist()) for one in chosen}) > 1
    more = batch_size.prepare(labelled, batch_size.Settings(9), seeds.generator(0))
    assert torch.equal(more.labels, labelled.labels)


def test_local_steps_take_the_place_of_those_of_the_federation(training):
    prepared = local_steps.prepare(training, local_steps.Settings(3, 2), seeds.generator(0))
    assert (prepared.local_epochs, prepared.batch_size) == (3, 2)
    assert prepared.photos is training.photos


def test_data_side_defenses_compose_in_their_order(training):
    mix, few = {"name": "mixup", "alpha": 1.0}, {"name": "batch_size", "photos": 1}
    assert len(defended(load_all([mix, few]), training, 0, 1, 0).photos) == 1
    # Of one photo there is nothing to mix; of one that was mixed before, there is.
    alone = defended(load_all([few, mix]), training, 0, 1, 0)
    assert float((training.photos - alone.photos).abs().amax((1, 2, 3)).min()) < 1e-6
    mixed = defended(load_all([mix, few]), training, 0, 1, 0)
    assert float((training.photos - mixed.photos).abs().amax((1, 2, 3)).min()) > 1e-3


def federated(config, folder):
    """The gradients captured in round 1 of a run, by user."""
    run = RunFolder(folder)
    run_federation(prepare(config), run)
    store = CaptureStore(run)
    assert store.rejected() == []
    return {user: store.observation(1, user) for user in store.users(1)}


def by_hand(config, user):
    """What the user must have sent."""
    from clients.datasets import open_dataset

    dataset = open_dataset(config.dataset, config.seed)
    person, model = (
        dataset.user(user),
        model_of(config, dataset.num_classes),
    )
    loaded = load_all(config.defenses)
    training = defended(
        loaded, training_of(person.private, dataset.num_classes, config.federation), config.seed, 1, user
    )
    section = config.federation.model_copy(
        update={"local_epochs": training.local_epochs, "batch_size": training.batch_size}
    )
    shuffle = seeds.generator(config.seed, "local", 1, user)
    with one_thread():
        update = local_update(model, Faces(training.photos, training.labels, {}), section, shuffle)
        return training, apply(loaded, update, config.seed, 1, user, Private(model, training))


@pytest.fixture(scope="module")
def undefended(tmp_path_factory):
    config = tiny_config(dataset=DATASET, model={"name": "lenet"}, federation={"rounds": 1})
    return federated(config, tmp_path_factory.mktemp("undefended"))


@pytest.mark.parametrize("table", EACH, ids=[table["name"] for table in EACH])
def test_in_a_run_the_server_gets_what_the_defense_leaves(table, tmp_path, undefended):
    config = tiny_config(
        dataset=DATASET,
        model={"name": "lenet"},
        federation={"rounds": 1},
        defenses=[table],
        threat_model={"labels": "known"},
    )
    seen = federated(config, tmp_path)
    assert set(seen) == {0, 1}
    for user, observation in seen.items():
        training, expected = by_hand(config, user)
        assert list(observation.gradient) == list(expected)
        assert all(torch.equal(observation.gradient[name], value) for name, value in expected.items())
        assert not torch.equal(flatten(observation.gradient), flatten(undefended[user].gradient))
        assert observation.num_examples == len(training.photos)
        torch.testing.assert_close(
            observation.label_proportions, training.probabilities().double().mean(0), check_dtype=False
        )


def test_every_defense_was_in_a_run():
    assert {table["name"] for table in EACH} == set(names())


def test_data_first_then_the_update_in_one_run(tmp_path):
    tables = [{"name": "batch_size", "photos": 3}, {"name": "mixup", "alpha": 1.0}, {"name": "clip", "max_norm": 0.01}]
    tables += [{"name": "gaussian_noise", "noise_multiplier": 0.1}]
    config = tiny_config(dataset=DATASET, federation={"rounds": 1}, defenses=tables)
    for user, observation in federated(config, tmp_path).items():
        expected = by_hand(config, user)[1]
        assert all(torch.equal(observation.gradient[name], value) for name, value in expected.items())
