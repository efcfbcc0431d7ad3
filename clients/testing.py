"""A test-suite for defenses: ours, yours, anybody's.

    from clients.testing import check_defense

    def test_my_defense():
        check_defense({"name": "my_package.shrink:shrink", "factor": 0.5}, {"identity_when_off": {"factor": 1.0}})

Every defense must obey `LAWS`; what it promises beyond them is claimed, and checked: `CLAIMS`. What a defense declares
for all to rely on (fl_sim.traits) is a claim that it always makes. A breach is an AssertionError of one sentence.
Everything is drawn from fixed seeds: what passes once passes always.
"""

import difflib
import math
import random
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clients.defenses import Defense, apply, load_all, prepare
from clients.local_training import local_gradient
from clients.training import Private, Training, training_of
from clients.user import Faces
from fl_sim import models, seeds
from fl_sim.config import Federation
from fl_sim.traits import Traits
from fl_sim.updates import Update, flatten, norm

LAWS = """same names, shapes and dtypes out as in; finite; the input is left as it is; same seed, same result;
Python's, numpy's and torch's global generators are untouched; an update of zeros, and a minute one, are safe"""

CLAIMS = {
    "max_norm": "number: the L2 norm of what leaves is at most that (1e-6 of rounding allowed)",
    "noise_std": "number: what is added to each entry has mean 0 and this standard deviation (variance within 3 %)",
    "unbiased": "True: over the draws, the mean of what leaves is the update (within 4 standard errors)",
    "exactly_k": "fraction: that part of all entries is not zero, to the entry (round(fraction * entries), at least 1)",
    "random": "True: another seed gives another result",
    "identity_when_off": "settings with which nothing is changed, bit for bit, such as {'std': 0.0}",
}

DRAWS = 60  # of a random defense, for its mean and variance
_Claim = Callable[[Sequence[Defense], Any], None]


def check_defense(
    defense: str | Mapping[str, Any] | Sequence[Mapping[str, Any]], claims: Mapping[str, Any] | None = None
) -> None:
    """Raise AssertionError for the first law, declared trait, or claim that `defense` breaks.

    `defense` is a name, a config table, or a list of tables that are checked as one; `identity_when_off` then
    speaks of the last. ConfigError if it cannot be loaded, ValueError if there is no such claim.
    """
    tables = _tables(defense)
    loaded, claims = load_all(tables), dict(claims or {})
    if any(one.acts_on == "message" for one in loaded):
        raise ValueError(
            f"{tables[-1]['name']!r} is a Flower mod, a function of a message; only functions of an update or of a "
            "training can be checked"
        )
    for claim in claims:
        if claim not in CLAIMS:
            near = difflib.get_close_matches(claim, CLAIMS, n=1, cutoff=0.0)
            raise ValueError(f"there is no claim {claim!r}; did you mean {near[0]!r}? All: {', '.join(CLAIMS)}")
    off = claims.pop("identity_when_off", None)
    _check_data_laws(loaded)
    _check_update_laws(loaded)
    if len(loaded) == 1:
        _check_traits(loaded)
    for claim, value in claims.items():
        _CHECKS[claim](loaded, value)
    if off is not None:
        _check_off(load_all([*tables[:-1], {**tables[-1], **off}]), load_all(tables[:-1]), off)


def sample_update(scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Update:
    """An update of the LeNet for 32 pixels, 12,650 entries of which none is zero; its tensors differ in size."""
    generator = seeds.generator(0, "testing", "update")
    return {
        name: (scale * (1 + index) * torch.randn(value.shape, generator=generator)).to(dtype)
        for index, (name, value) in enumerate(_looked_at().model.named_parameters())
    }


def _tables(defense: str | Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if isinstance(defense, str):
        return [{"name": defense}]
    return [dict(defense)] if isinstance(defense, Mapping) else [dict(table) for table in defense]


def _private() -> Private:
    """A small model and the photos of one user, for defenses that look at them."""
    generator = seeds.generator(0, "testing", "photos")
    model = models.build("lenet", 2, 32, seeds.generator(0, "testing", "model"))
    faces = Faces(torch.rand(6, 3, 32, 32, generator=generator), torch.tensor([0, 1, 0, 1, 1, 0]), {})
    return Private(model, training_of(faces, 2, Federation()))


@lru_cache(maxsize=1)
def _looked_at() -> Private:
    return _private()


def _defended(loaded: Sequence[Defense], update: Update, seed: int = 0) -> Update:
    return apply(loaded, update, seed, 1, 0, _looked_at())


def _prepared(loaded: Sequence[Defense], training: Training, seed: int = 0) -> Training:
    return prepare(loaded, training, seed, 1, 0)


def _require(holds: bool, loaded: Sequence[Defense], breach: str) -> None:
    if not holds:
        raise AssertionError(f"defense {' + '.join(one.name for one in loaded)!r} {breach}")


def _global_state() -> tuple[object, ...]:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state(legacy=False)  # noqa: NPY002
    return tuple(torch_state.tolist()), str(numpy_state), random.getstate()


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Bit for bit, names and dtypes too."""
    return list(one) == list(other) and all(
        value.dtype == other[name].dtype and torch.equal(value, other[name]) for name, value in one.items()
    )


def _check_update_laws(loaded: Sequence[Defense]) -> None:
    for dtype in (torch.float32, torch.float64):
        for scale in (1.0, 1e-20, 0.0):
            update, before = sample_update(scale, dtype), _global_state()
            defended = _defended(loaded, update)
            what = "an update of zeros" if scale == 0 else f"an update of entries about {scale:g}"
            _require(_global_state() == before, loaded, "draws from a global generator; take the one passed in")
            _require(
                _equal(update, sample_update(scale, dtype)), loaded, "changes the update that it is given in place"
            )
            _require(list(defended) == list(update), loaded, "changes the names of the tensors or their order")
            for name, value in update.items():
                shape, kind = defended[name].shape, defended[name].dtype
                _require(shape == value.shape, loaded, f"makes {name!r} {tuple(shape)} of {tuple(value.shape)}")
                _require(kind == dtype, loaded, f"makes {name!r} {kind} of {dtype}")
                _require(bool(defended[name].isfinite().all()), loaded, f"makes NaN or Inf of {what} in {name!r}")
            _require(_equal(defended, _defended(loaded, update)), loaded, "gives two results for one seed")


def _check_data_laws(loaded: Sequence[Defense]) -> None:
    training, before = _private().training, _global_state()
    prepared = _prepared(loaded, training)
    photos, labels = prepared.photos, prepared.labels
    _require(_global_state() == before, loaded, "draws from a global generator; take the one passed in")
    _require(_same(training, _private().training), loaded, "changes the photos or labels that it is given in place")
    _require(photos.shape[1:] == training.photos.shape[1:], loaded, f"makes photos of shape {tuple(photos.shape)}")
    _require(photos.dtype == training.photos.dtype, loaded, f"makes photos of {photos.dtype}")
    _require(1 <= len(photos) == len(labels), loaded, f"leaves {len(photos)} photos with {len(labels)} labels")
    inside = bool(photos.isfinite().all()) and float(photos.min()) >= 0 and float(photos.max()) <= 1
    _require(inside, loaded, "makes pixels outside [0, 1]")
    sums = prepared.probabilities().sum(1)
    _require(torch.allclose(sums, torch.ones_like(sums)), loaded, "makes labels whose probabilities do not add up to 1")
    _require(_same(prepared, _prepared(loaded, training)), loaded, "gives two results for one seed")
    # Whatever comes out must be something that the user can train on.
    local_gradient(_private().model, Faces(photos, labels, {}))


def _same(one: Training, other: Training) -> bool:
    rest = (one.num_classes, one.local_epochs, one.batch_size) == (
        other.num_classes, other.local_epochs, other.batch_size,
    )  # fmt: skip
    tensors = {"photos": other.photos, "labels": other.labels}
    return rest and _equal({"photos": one.photos, "labels": one.labels}, tensors)


def _check_traits(loaded: Sequence[Defense]) -> None:
    """The one defense in `loaded` is what it declares; nothing is looked at where it declares nothing."""
    traits = loaded[0].traits
    if traits is None or loaded[0].acts_on != "update":
        return
    if traits.noise_variance is not None:
        _check_noise(loaded, sample_update(0.0, torch.float64), traits.noise_variance, "declared:")
    for scale in (1e3, 1.0, 1e-3):
        update = sample_update(scale)
        out = _defended(loaded, update)
        _check_bounds(loaded, traits, update, out)
        if traits.noise == "none":
            _check_entries(loaded, traits, out)


def _check_noise(loaded: Sequence[Defense], update: Update, expected: float, said: str) -> None:
    """Mean and variance of what is added to `update`."""
    noise = torch.cat([flatten(_defended(loaded, update, seed)) - flatten(update) for seed in range(DRAWS)])
    variance, mean = (float(value) for value in torch.var_mean(noise))
    right = abs(variance / expected - 1) <= 0.03
    _require(right, loaded, f"adds noise of variance {variance:.6g}, {said} {expected:.6g}")
    _require(abs(mean) <= 4 * math.sqrt(expected / len(noise)), loaded, f"adds noise of mean {mean:.3g}, not 0")


def _check_bounds(loaded: Sequence[Defense], traits: Traits, update: Update, out: Update) -> None:
    """Norms: at most what is declared, and what the noise adds to that."""
    if traits.noise != "none" and traits.noise_variance is None:
        return
    noise = 1.2 * math.sqrt((traits.noise_variance or 0.0) * len(flatten(update)))
    before, after = norm(update), norm(out)
    longer = traits.keeps_norm and after > (before + noise) * (1 + 1e-6)
    _require(not longer, loaded, f"makes a norm of {before:.8g} one of {after:.8g}, declared: keeps_norm")
    if traits.max_norm is not None:
        most = traits.max_norm * (math.sqrt(len(update)) if traits.per_layer else 1.0)
        small = after <= (most + noise) * (1 + 1e-6)
        _require(small, loaded, f"lets a norm of {after:.8g} out, declared: at most {most:.8g}")


def _check_entries(loaded: Sequence[Defense], traits: Traits, out: Update) -> None:
    """What is declared of the entries of `sample_update()`, of which none is zero."""
    told = traits.zeroes != "none" or traits.levels or not bool((flatten(out) == 0).any())
    _require(told, loaded, 'sets entries to zero; declare zeroes = "any"')
    if traits.signs:
        one = all(len(torch.unique(value[value != 0].abs())) <= 1 for value in out.values())
        _require(one, loaded, "sends entries of several magnitudes in a tensor, declared: signs")


def _check_max_norm(loaded: Sequence[Defense], bound: float) -> None:
    for scale in (1e3, 1.0, 1e-3):
        size = norm(_defended(loaded, sample_update(scale)))
        _require(size <= bound * (1 + 1e-6), loaded, f"lets a norm of {size:.8g} out, claimed: at most {bound:.8g}")


def _check_noise_std(loaded: Sequence[Defense], std: float) -> None:
    _check_noise(loaded, sample_update(dtype=torch.float64), std**2, "not")


def _check_unbiased(loaded: Sequence[Defense], claimed: bool) -> None:
    """Of each tensor, how far it is scaled on average; of all entries together, how far their means lie off."""
    if not claimed:
        return
    update = sample_update(dtype=torch.float64)
    draws = [_defended(loaded, update, seed) for seed in range(DRAWS)]
    for name, value in update.items():
        along = torch.stack([(draw[name] * value).sum() for draw in draws]) / value.square().sum()  # 1 on average
        error, allowed = float(along.mean()) - 1, 4 * float(along.std()) / math.sqrt(DRAWS) + 1e-9
        _require(abs(error) <= allowed, loaded, f"scales {name!r} by {1 + error:.6g} on average, not by 1")
    drawn = torch.stack([flatten(draw) for draw in draws])  # (draws, p)
    off = float((drawn.mean(0) - flatten(update)).square().sum())  # of an unbiased defense, chance on average
    chance = float(drawn.var(0).sum()) / DRAWS
    _require(
        off <= 1.5 * chance + 1e-9, loaded, f"moves the mean of entries {off / max(chance, 1e-9):.3g} times too far"
    )


def _check_exactly_k(loaded: Sequence[Defense], fraction: float) -> None:
    update = sample_update()
    total = len(flatten(update))
    expected, kept = max(1, round(fraction * total)), int(flatten(_defended(loaded, update)).count_nonzero())
    _require(kept == expected, loaded, f"lets {kept} of {total} entries out, claimed: exactly {expected}")


def _check_random(loaded: Sequence[Defense], claimed: bool) -> None:
    update, training = sample_update(), _private().training
    same = _equal(_defended(loaded, update, 0), _defended(loaded, update, 1)) and _same(
        _prepared(loaded, training, 0), _prepared(loaded, training, 1)
    )
    _require(claimed != same, loaded, "gives one result for two seeds" if same else "gives two results for two seeds")


def _check_off(loaded: Sequence[Defense], without: Sequence[Defense], off: Mapping[str, Any]) -> None:
    update, training = sample_update(), _private().training
    untouched = _equal(_defended(loaded, update), _defended(without, update))
    untouched = untouched and _same(_prepared(loaded, training), _prepared(without, training))
    _require(untouched, loaded, f"with {dict(off)!r} is not the identity, bit for bit")


_CHECKS: dict[str, _Claim] = {
    "max_norm": _check_max_norm,
    "noise_std": _check_noise_std,
    "unbiased": _check_unbiased,
    "exactly_k": _check_exactly_k,
    "random": _check_random,
}
