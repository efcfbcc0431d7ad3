"""Attribute inference: it finds what is in the updates, nothing where nothing is, and learns from no user."""

from dataclasses import dataclass

import pytest
import torch
from external_nets import tied
from tiny_faces import TinyFaces, tiny_config
from torch.nn import functional as F

from attacker.capture.store import Capture, CaptureStore
from attacker.inversion.labels import recover_proportions
from attacker.observation import LocalTraining
from clients.local_training import local_gradient
from clients.user import Faces
from experiments.evaluate import attribute_inference
from experiments.evaluate.attribute_inference import (
    Sketcher,
    base_rate,
    check,
    features,
    per_class,
    predictions,
    regress,
)
from experiments.evaluate.gallery import Gallery
from fl_sim.config import ConfigError, Leakage
from fl_sim.initial_model import initial_model
from fl_sim.modules import state
from fl_sim.runs import RunFolder
from fl_sim.seeds import generator


def planted(people=120, size=40, noise=0.3):
    """Updates (people, size) in which a binary attribute is a direction, and the attribute."""
    draw = generator(0, "planted")
    attribute = torch.randint(2, (people,), generator=draw)
    direction = torch.randn(size, generator=draw)
    noises = noise * torch.randn(people, size, generator=draw)
    return (2.0 * attribute - 1)[:, None] * direction * 0.3 + noises, attribute


def accuracy(updates, attribute, known):
    """Of the regression learnt from the first 80 people of whom `known` is said, on the others."""
    target = F.one_hot(known[:80], 2).float()
    said = [int(regress(updates[:80], own, [target])[0].argmax()) for own in updates[80:]]
    return float((torch.tensor(said) == attribute[80:]).double().mean())


def test_a_planted_attribute_is_recovered_and_a_shuffled_one_is_not():
    updates, attribute = planted()
    assert accuracy(updates, attribute, attribute) >= 0.95
    shuffles = (torch.randperm(len(attribute), generator=generator(0, "shuffle", index)) for index in range(10))
    chance = [accuracy(updates, attribute, attribute[shuffle]) for shuffle in shuffles]
    assert 0.3 < sum(chance) / len(chance) < 0.7


def test_where_updates_say_nothing_the_mean_is_said():
    draw = generator(0, "noise")
    updates, target = torch.randn(200, 200, generator=draw), torch.rand(200, 1, generator=draw) + 3
    said = [float(regress(updates, torch.randn(200, generator=draw), [target])[0]) for _ in range(10)]
    assert (torch.tensor(said) - target.mean()).abs().mean() < 0.1  # the target's own deviation is 0.29


def test_the_ridge_is_the_textbook_one():
    updates, attribute = planted(30, 5)
    said = regress(updates, updates[0], [attribute[:, None].float()])[0]
    centred, middle = (updates - updates.mean(0)).double(), attribute.double().mean()
    ridges = torch.linalg.eigvalsh(centred @ centred.T).clamp_min(0).mean() * torch.logspace(-4, 3, 22).double()

    def fit(rows, ridge):  # primal
        x = centred[rows]
        return torch.linalg.solve(x.T @ x + ridge * torch.eye(5), x.T @ (attribute.double() - middle)[rows])

    def left_out(ridge):
        rest = [[j for j in range(30) if j != i] for i in range(30)]
        return sum(float(attribute[i] - middle - centred[i] @ fit(rest[i], ridge)) ** 2 for i in range(30))

    best = min(ridges, key=left_out)
    assert float(said) == pytest.approx(float(middle + centred[0] @ fit(range(30), best)), abs=1e-5)


def test_sketches_keep_inner_products_and_are_linear():
    draw = generator(0, "sketched")
    a, b = ({"w": torch.randn(200, 100, generator=draw), "b": torch.randn(3, generator=draw)} for _ in range(2))
    near = {name: a[name] + 0.5 * b[name] for name in a}
    sketch = Sketcher(a)
    for name, left, right in zip(a, sketch(near), zip(sketch(a), sketch(b), strict=True), strict=True):
        torch.testing.assert_close(left, right[0] + 0.5 * right[1], rtol=1e-4, atol=1e-3)
        cosine = F.cosine_similarity(near[name].flatten(), a[name].flatten(), 0)
        assert float(F.cosine_similarity(left, right[0], 0)) == pytest.approx(float(cosine), abs=0.06)
    assert [len(part) for part in sketch(a)] == [attribute_inference.SKETCH, 3]


def test_class_gradients_mix_to_the_gradient_of_all_photos():
    config = tiny_config()
    model, faces = initial_model(config, 2)[0], TinyFaces(1, 6, 0, 32).user(0).private
    faces = Faces(faces.photos, torch.tensor([0, 0, 1, 1, 1, 1]), {})
    sketch = Sketcher(dict(model.named_parameters()))
    parts = per_class(model, faces, [0, 1], sketch)
    whole = sketch(local_gradient(model, faces))
    for part, expected in zip(parts, whole, strict=True):
        torch.testing.assert_close(torch.tensor([1 / 3, 2 / 3]) @ part, expected)


def test_a_layer_counts_for_its_direction():
    one = [torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 0.1]])]
    torch.testing.assert_close(features(one), torch.tensor([[0.6, 0.8, 0.0, 1.0]]))


def test_the_base_rate_is_the_majority_of_the_public_people():
    templates = F.normalize(torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]), dim=1)
    public = ({"Male": 1, "age": 2}, {"Male": -1, "age": 2}, {"Male": 1, "age": 0})
    gallery = Gallery(templates, 4, torch.zeros(1), torch.zeros(3, 1, 1), public)
    guess = base_rate(gallery, ["male", "age", "hat"])
    assert guess.attributes == {"male": 1, "age": 2}
    assert guess.embedding.tolist() == pytest.approx([2 / 5**0.5, 1 / 5**0.5, 0])  # the user, first, has no part


@dataclass(frozen=True)
class DarkFaces(TinyFaces):
    """People who are dark or bright, which is their attribute; who asks for a user has cheated."""

    num_public: int = 60

    def user(self, partition):
        raise AssertionError("attribute inference has asked for a user")

    def public(self, index):
        return self.person("public", index)

    def person(self, kind, index):
        draw = generator(0, "dark", kind, index)
        photos = 0.3 * torch.rand(4, 3, self.image_size, self.image_size, generator=draw) + 0.6 * (index % 2)
        return Faces(photos, torch.arange(4) % 2, {"Bright": index % 2})


def embed(photos):
    return F.normalize(torch.stack([photos.mean((1, 2, 3)), 1 - photos.mean((1, 2, 3))], 1), dim=1)


def captured(folder, dataset, model, steps=1):
    """The updates of eight users, three of whose four photos have label 0, as sums over so many equal `steps`."""
    store, weights = CaptureStore(RunFolder(folder)), state(model)
    store.save_model(1, weights)
    captures = []
    for user in range(8):
        faces = dataset.person("user", user)
        faces = Faces(faces.photos, torch.tensor([0, 0, 0, 1]), {})
        update = {name: steps * value for name, value in local_gradient(model, faces).items()}
        captures.append(Capture(user, user, "accepted", "", 4, 0.0, 8, 0.1, update))
    store.save_round(1, captures, "gradient", 0.1, weights, LocalTraining(steps, 0, 0.1))
    store.wait()
    return store


def test_labels_are_read_off_the_mean_of_local_steps(tmp_path, monkeypatch):
    read = []

    def recover(*given):
        read.append(recover_proportions(*given))
        return read[-1]

    monkeypatch.setattr(attribute_inference, "recover_proportions", recover)
    dataset, model = DarkFaces(8, 4, 0, 32), initial_model(tiny_config(dataset={"users": 8}), 2)[0]
    for steps in (1, 8):
        predictions(captured(tmp_path / str(steps), dataset, model, steps), model, dataset, 4, embed, [], [1])
    torch.testing.assert_close(read[8:], read[:8])
    assert torch.stack(read[:8]).mean(0)[0] > 0.6


def test_a_model_with_tied_weights_is_simulated(tmp_path):
    dataset, model = DarkFaces(8, 4, 0, 32), tied()
    said = predictions(captured(tmp_path, dataset, model), model, dataset, 4, embed, ["bright"], [1])
    assert len(said) == 8


def test_it_reads_users_off_their_updates_and_never_meets_one(tmp_path):
    dataset, model = DarkFaces(8, 4, 0, 32), initial_model(tiny_config(dataset={"users": 8}), 2)[0]
    store = captured(tmp_path, dataset, model)
    said = predictions(store, model, dataset, 40, embed, ["bright", "unknown"], [1])
    assert set(said) == {(1, user) for user in range(8)}
    assert [said[1, user].attributes for user in range(8)] == [{"bright": user % 2} for user in range(8)]
    for user in range(8):
        own = embed(dataset.person("user", user).photos).mean(0)
        other = embed(dataset.person("user", user + 1).photos).mean(0)
        assert said[1, user].embedding @ own > said[1, user].embedding @ other


def test_mistakes():
    dataset = DarkFaces(4, 2, 0, 32)
    check(Leakage(), dataset)
    with pytest.raises(ConfigError, match=r"leakage\.attribute_inference is 61, but there are only 60 public people"):
        check(Leakage(attribute_inference=61), dataset)
    check(Leakage(attribute_inference=5), dataset)
