"""A run folder as a finished run leaves it, made up in a second: real synthetic faces, invented numbers."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from attacker.capture.store import write_reconstruction
from attacker.observation import Reconstruction
from clients.datasets import open_dataset
from experiments.evaluate.realism import SHARPNESS, SWD
from fl_sim.config import Config, parse
from fl_sim.runs import RunFolder, write_manifest
from fl_sim.seeds import generator

ATTRIBUTES = {"glasses": 2, "beard": 2, "hair_color": 5, "age_group": 3, "skin_tone": 3}
ARMS = {"prior_only": 0.02, "wrong_update": 0.05, "public_mean": 0.08, "own_photo": 0.72, "own_mean": 0.69}
ATTACKS = {"user_diffusion": 0.55, "inverting_gradients": 0.27}  # facial similarity in round 1
COLUMNS = ("run", "seed", "round", "user", "attack", "arm")


def fake_run(
    root: Path,
    users: int = 3,
    rounds: int = 2,
    image_size: int = 32,
    photos: int = 4,
    leaks: bool = True,
    draws: int = 0,
    frames: int = 0,
) -> RunFolder:
    """`leaks` False: every attack scores as its controls do. `draws`: so many by user_diffusion, at most `photos`.

    `frames`: so many of each inversion, from grey to what it finds.
    """
    run = RunFolder(root)
    root.mkdir(parents=True)
    run.config.write_text(
        f'name = "{root.name}"\n[dataset]\nusers = {users}\nphotos = {photos}\nimage_size = {image_size}\n'
        f'[federation]\nrounds = {rounds}\n[attacks.user_diffusion]\nprior = "synthetic64"\n'
        "[attacks.inverting_gradients]\n[attacks.prior_only]\n"
    )
    config = parse(Config, {"dataset": {"users": users, "photos": photos, "image_size": image_size}})
    write_manifest(run, seed=0, threat_model={"local_steps": 1, "aggregated": False, "not_adapted_to": {}})
    accuracy = [0.5 + 0.32 * (1 - 0.6**r) for r in range(1, rounds + 1)]
    pd.DataFrame(
        {
            "round": range(1, rounds + 1),
            "accuracy": accuracy,
            "loss": [0.7 - a / 4 for a in accuracy],
            "examples": users * photos,
            "accepted": users,
            "rejected": [1] + [0] * (rounds - 1),
            "seconds": 1.25,
        }
    ).to_parquet(run.rounds)
    run.captures.mkdir()
    row = {"round": 1, "user": 1, "node": "123", "status": "rejected", "reason": "'head.weight' holds NaN or Inf"}
    (run.captures / "index.jsonl").write_text(json.dumps(row) + "\n")
    draw = generator(0, "fake-run")
    _leakage(root.name, users, rounds, leaks, draws, draw).to_parquet(run.leakage)
    dataset = open_dataset(config.dataset, config.seed)
    for user in range(users):
        private = dataset.user(user).private.photos
        for server_round in range(1, rounds + 1):
            for label, noise in {"user_diffusion": 0.05, "inverting_gradients": 0.25, "prior_only": 0.02}.items():
                source = dataset.public(user).photos[0] if label == "prior_only" else private.mean(0)
                image = (source + noise * server_round * torch.randn(source.shape, generator=draw)).clamp(0, 1)
                made = Reconstruction(torch.stack([image, image.flip(-1)]), torch.tensor([0.6, 0.4]), 0.1, 2.0)
                if draws and label == "user_diffusion":
                    images = torch.stack([private[0], image])
                    made = replace(made, images=images, draws=private[:draws], determined=private.mean(0))
                if frames and label != "prior_only":
                    end = made.images[0] if made.determined is None else made.determined
                    made = replace(made, frames=0.5 + (end - 0.5) * torch.linspace(0, 1, frames)[:, None, None, None])
                write_reconstruction(run, label, server_round, user, made, {"name": label})
    return run


def _leakage(name: str, users: int, rounds: int, leaks: bool, draws: int, draw: torch.Generator) -> pd.DataFrame:
    rows = []
    truth = {attribute: torch.randint(classes, (users,), generator=draw) for attribute, classes in ATTRIBUTES.items()}
    for server_round in range(1, rounds + 1):
        for user in range(users):
            for attack, start in ATTACKS.items():
                level = start * 0.85 ** (server_round - 1) if leaks else 0.04
                several = {"all_images": level + 0.04, "best_image": level + 0.08}
                drawn = draws if attack == "user_diffusion" else 0
                if drawn:
                    several["determined"] = level + 0.02
                for arm, mean in {"attack": level, **several, **ARMS}.items():
                    similarity = mean + 0.06 * _normal(draw)
                    hit = similarity > 0.3
                    row = dict(zip(COLUMNS, (name, 0, server_round, user, attack, arm), strict=True))
                    rank = 1 if hit else int(2 + 99 * _uniform(draw))
                    row |= {
                        "knowledge": "none",
                        "group_size": 1,
                        "epsilon": float("nan"),
                        "epsilon_audited": float("nan"),
                        "delta": 1e-5,
                        "facial_similarity": similarity,
                        "similarity_min": similarity - 0.1,
                        "similarity_max": similarity + 0.1,
                        "in_batch_min": 0.52,
                        "in_batch_max": 0.96,
                        "rank": rank,
                        "gallery_size": 100,
                        "verified_at_far_1e2": hit,
                        "verified_at_far_1e3": similarity > 0.45,
                        "psnr": 12 + 8 * similarity,
                        "ssim": 0.2 + 0.4 * similarity,
                        "lpips": float("nan"),
                        "face_probability": 0.9,
                        **dict.fromkeys(SHARPNESS, 0.8),
                        **dict.fromkeys(SWD, 6.0),
                        "matching_loss": 0.02 if arm in {"attack", *several} else float("nan"),
                        "seconds": float("nan"),
                    }
                    if arm in {"attack", *several}:
                        row["seconds"] = 9.0 if attack == "user_diffusion" else 4.0
                    for attribute, classes in ATTRIBUTES.items():
                        true = int(truth[attribute][user])
                        knows = _uniform(draw) < (0.85 if hit else 0.2)
                        row[f"attr_{attribute}_true"] = true
                        row[f"attr_{attribute}_inferred"] = true if knows else int(_uniform(draw) * classes)
                        if drawn and arm == "attack":
                            row[f"attr_{attribute}_share"] = (drawn - int(_uniform(draw) * drawn / 2)) / drawn
                    if drawn and arm == "attack":
                        row |= {"draws": drawn, "draws_similarity": similarity - 0.02, "draws_spread": 0.06}
                    rows.append(row)
    return pd.DataFrame(rows)


def _normal(draw: torch.Generator) -> float:
    return float(torch.randn((), generator=draw))


def _uniform(draw: torch.Generator) -> float:
    return float(torch.rand((), generator=draw))
