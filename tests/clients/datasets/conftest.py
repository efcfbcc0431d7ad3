"""A folder of photos that name themselves: the colour of each says whose it is and which one."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from torch import Tensor


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """`folder({"anna": 6, ...}, splits={"anna": "users"})` writes photos and faces.csv, and returns the folder."""

    def write(people: dict[str, int], splits: dict[str, str] | None = None) -> Path:
        rows = []
        for who, (name, count) in enumerate(people.items()):
            (tmp_path / name).mkdir(parents=True)
            for which in range(count):
                path = f"{name}/{which}.png"
                Image.new("RGB", (40, 50), (who, which, 200)).save(tmp_path / path)
                attributes = {"Smiling": 1 if which % 3 == 0 else -1, "Male": who % 2, "age": who}
                split = {"split": splits[name]} if splits else {}
                rows.append({"path": path, "identity": name, **split, **attributes})
        pd.DataFrame(rows).to_csv(tmp_path / "faces.csv", index=False)
        return tmp_path

    return write


@pytest.fixture
def names_of() -> Callable[[Tensor], list[tuple[int, int]]]:
    """(person, photo) numbers of photos of `folder`."""

    def read(photos: Tensor) -> list[tuple[int, int]]:
        who_and_which = (photos[:, :2, 0, 0] * 255).round().long()
        return [(int(who), int(which)) for who, which in who_and_which]

    return read
