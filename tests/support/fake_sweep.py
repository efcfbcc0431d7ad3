"""The table of a sweep, made up: every user leaks what the defense, its strength and the attacker's knowledge say."""

import numpy as np
import pandas as pd

KNOWLEDGE = {"attack": "none", "attack-knowledge-mechanism": "mechanism", "attack-knowledge-parameters": "parameters"}
LEAKS = {  # (defense, strength): similarity that each knowledge reaches, accuracy, epsilon
    ("none", ""): ((0.8, 0.8, 0.8), 0.9, None),
    ("blind", "keep 0.1"): ((0.3, 0.7, 0.7), 0.85, None),
    ("blind", "keep 0.01"): ((0.05, 0.6, 0.65), 0.6, None),
    ("noise", "std 0.1"): ((0.5, 0.5, 0.5), 0.7, 1000.0),
    ("noise", "std 1.0"): ((0.0, 0.0, 0.0), 0.2, 10.0),
}


def fake_sweep(users: int = 10, seeds: int = 1) -> pd.DataFrame:
    draw = np.random.default_rng(0)
    rows = []
    for (defense, strength), (levels, accuracy, epsilon) in LEAKS.items():
        for seed in range(seeds):
            for (label, known), level in zip(KNOWLEDGE.items(), levels, strict=True):
                for user in range(users):
                    for arm, mean in {"attack": level, "wrong_update": 0.0, "own_photo": 0.9}.items():
                        similarity = mean + draw.normal(0, 0.03)
                        rows.append(
                            {
                                "run": "r", "seed": seed, "round": 1, "user": user, "capture": user,
                                "label": label, "attack": "attack", "knowledge": known, "arm": arm,
                                "facial_similarity": similarity, "rank": 1 if similarity > 0.3 else 50,
                                "gallery_size": 100,
                                "cell": f"{defense}-{strength.replace(' ', '_')}-{seed}", "defense": defense,
                                "strength": strength, "accuracy": accuracy, "epsilon": epsilon,
                                "epsilon_run": epsilon, "mechanism": None if epsilon is None else "gaussian",
                                "delta": 1e-5, "known_to_nobody": "", "distorted": False,
                                "matching_loss": 0.01, "group_size": 1, "face_probability": 0.9,
                                "sharpness_middle": 0.6,
                            }
                        )  # fmt: skip
    return pd.DataFrame(rows).astype({"rank": "Int64", "epsilon": "float64", "epsilon_run": "float64"})
