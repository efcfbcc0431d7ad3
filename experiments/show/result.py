"""A finished run in a notebook: a row of faces, and a short summary in HTML."""

from collections.abc import Sequence
from html import escape
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from safetensors import SafetensorError
from torch import Tensor

from attacker.capture.store import read_reconstruction
from attacker.observation import pixels
from clients.datasets import open_dataset
from experiments.show import images
from experiments.show.report.captions import headline
from experiments.show.report.gallery import sender
from experiments.show.report.run_data import RunData
from experiments.show.report.svg import DASH
from experiments.statistics.significance import Finding
from experiments.statistics.verdict import counted, exact
from fl_sim.config import ConfigError

TILE, GAP, TEXT = 128, 12, 15  # pixels of the row of faces
USERS, ROWS = 3, 8  # that a summary shows


def faces(
    run_data: RunData, user: int, server_round: int | None = None, with_private_photos: bool = False
) -> Image.Image:
    """A private photo of `user` and each attack's picture in one round, with its rank and similarity, in a row."""
    rounds = sorted(_rounds(run_data, user))
    number = server_round if server_round is not None else rounds[0] if rounds else 0
    if number not in rounds:
        what = f"rounds {rounds}" if rounds else f"users {_users(run_data)}"
        when = f" in round {number}" if rounds else ""
        raise ConfigError(f"user {user} was not attacked{when} in {run_data.run.root}; attacked are {what}")
    tiles: list[tuple[Tensor | None, str, str]] = []
    if run_data.config.dataset.name == "synthetic" or with_private_photos:
        dataset = open_dataset(run_data.config.dataset, run_data.config.seed)
        tiles.append((dataset.user(user).private.photos[0], f"user {user}", "private photo"))
    for label in sorted(run_data.labels, key=lambda label: label in run_data.priors):
        row = run_data.row(label, number, user)
        tiles.append((_picture(run_data, label, number, row, user), label, _told(row)))
    return _sheet(tiles)


def html(run_data: RunData, problems: Sequence[str]) -> str:
    """The verdict, a small table and the faces of the first users; no private photo of a real person."""
    parts = [f"<p><strong>{escape(headline(run_data).sentence)}</strong></p>"]
    parts += [f"<p>Failed: {escape(problem)}</p>" for problem in problems]
    answers = [one for one in run_data.findings if one.arm == "attack" and one.server_round is not None]
    if answers:
        heads = "".join(f"<th>{head}</th>" for head in ("attack", "round", "similarity [95 %]", "identified [95 %]"))
        rows = "".join(_table_row(one) for one in answers[:ROWS])
        parts.append(f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>")
    if len(answers) > ROWS:
        parts.append(f"<p>{len(answers) - ROWS} more rows are in <code>.leakage</code>.</p>")
    for user in _users(run_data)[:USERS]:
        # A sixth of a PNG: notebooks are kept in repositories.
        source = images.data_uri(faces(run_data, user), "JPEG", quality=90)
        parts.append(f'<img alt="user {user} and what each attack drew" src="{source}"><br>')
    parts.append(f"<p>{escape(str(run_data.run.report))}</p>")
    return f"<div>{''.join(parts)}</div>"


def _users(run_data: RunData) -> list[int]:
    return [] if run_data.leakage is None else sorted({int(user) for user in run_data.leakage["user"]})


def _rounds(run_data: RunData, user: int) -> set[int]:
    if run_data.leakage is None:
        return set()
    return {int(value) for value in run_data.leakage.loc[run_data.leakage["user"] == user, "round"]}


def _picture(run_data: RunData, label: str, number: int, row: dict[str, Any], user: int) -> Tensor | None:
    try:
        return read_reconstruction(run_data.run, label, number, sender(row, user)).images[0]
    except (OSError, ValueError, SafetensorError):
        return None  # it failed, or the file is damaged


def _told(row: dict[str, Any]) -> str:
    similarity, rank = (float("nan") if row.get(key) is None else row[key] for key in ("facial_similarity", "rank"))
    try:
        return f"rank {int(rank)}, {float(similarity):.2f}"
    except (TypeError, ValueError):  # pandas.NA, NaN
        return "no picture" if row else ""


def _table_row(one: Finding) -> str:
    mean = one.similarity.spelled() if one.similarity.known else DASH
    cells = (one.attack, str(one.server_round), mean, f"{counted(one.named, one.users)} {exact(one.share)}")
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def _sheet(tiles: list[tuple[Tensor | None, str, str]]) -> Image.Image:
    """The tiles (image (3, H, W) in [0, 1], two lines of text) in a row, on white."""
    font = ImageFont.load_default(12)
    width = max(TILE, *(int(font.getlength(line)) for _, *lines in tiles for line in lines)) + GAP
    sheet = Image.new("RGB", (width * len(tiles) - GAP, TILE + 2 * TEXT + 6), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (image, *lines) in enumerate(tiles):
        left = place * width
        shown = pixels(torch.full((3, 1, 1), 0.9) if image is None else image)
        sheet.paste(images.picture(shown).resize((TILE, TILE), Image.Resampling.LANCZOS), (left, 0))
        for number, line in enumerate(lines):
            draw.text((left, TILE + 3 + number * TEXT), line, "black", font)
    return sheet
