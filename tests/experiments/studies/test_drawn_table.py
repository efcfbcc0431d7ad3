"""The table of drawn photos: each arm's own figures, of the attack that is asked for."""

from pathlib import Path

import pandas as pd

from experiments.evaluate.realism import SHARPNESS, SWD
from experiments.studies.drawn_table import ARMS, table


def test_each_arm_has_its_own_figures_and_another_s_update_no_realism_of_its_own(tmp_path: Path) -> None:
    rows = [
        {
            "cell": "smile",
            "label": label,
            "arm": arm,
            "users": 10,
            "rank1": 0.1 * n,
            "rank1_low": 0.0,
            "rank1_high": 0.9,
        }
        | {"facial_similarity": 0.2 * n, "facial_similarity_low": 0.0, "facial_similarity_high": 1.0}
        | {"face_probability": 0.25 * n, **dict.fromkeys(SHARPNESS, 0.3 * n), **dict.fromkeys(SWD, 1.5 * n)}
        for label, shift in (("user_diffusion", 0), ("inverting_gradients", 5))
        for n, arm in enumerate(ARMS, shift)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "study.csv", index=False)
    lines = table({"trained": tmp_path / "study.csv"}).splitlines()[2:]
    assert len(lines) == len(ARMS)
    drawn = lines[list(ARMS).index("attack")]
    assert drawn == (
        "| trained, smile | a photo drawn given it | 0.20 [0.00, 1.00] | 1 of 10 [0, 90 %] | 0.25 | 0.30 0.30 0.30 "
        "| 1.5 1.5 1.5 |"
    )
    assert lines[list(ARMS).index("wrong_update")].endswith("| 2 of 10 [0, 90 %] |  |  |  |")
