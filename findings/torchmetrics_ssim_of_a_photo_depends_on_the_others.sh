#!/usr/bin/env bash
# torchmetrics 1.9.0 with torch 2.15.0, structural_similarity_index_measure without data_range, `reduction="none"`.
# Guessed: the range that is then "determined from the image (max - min)" is each pair's own, so that what a pair scores is
#   the same alone and among others.
# Seen: it is the largest range of the whole batch. Three reconstructions that are mostly noise score 0.02, and 0.92 once a
#   fourth in their batch has diverged to values of 15. There is no warning. With data_range=1.0 they score the same
#   either way.
# So where reconstructions are not clamped, one that failed makes the attack look better on everybody else, and scores of
#   one picture differ between batch sizes. (PSNR of this version asks for data_range.)
# Output seen:
#   alone: 0.02 0.02 0.02
#   beside a diverged one: 0.92 0.92 0.92
#   data_range=1.0, beside a diverged one: 0.02 0.02 0.02
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torchmetrics==1.9.0 torch==2.15.0 numpy==2.3.5
cat > "$folder/try.py" <<'PYTHON'
import torch
from torchmetrics.functional.image import structural_similarity_index_measure as ssim

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
across = torch.linspace(0.2, 0.8, 64).expand(1, 64, 64)
photos = torch.stack([across, across.mT, (across + across.mT) / 2])
noisy = (photos + 0.3 * torch.randn(photos.shape, generator=generator)).clamp(0, 1)
diverged = 10 * torch.randn(1, 1, 64, 64, generator=generator).clamp(-1.5, 1.5)
among, targets = torch.cat([noisy, diverged]), torch.cat([photos, photos[:1]])
for name, scores in (
    ("alone", [ssim(one[None], photo[None], reduction="none")[0] for one, photo in zip(noisy, photos)]),
    ("beside a diverged one", ssim(among, targets, reduction="none")[:3]),
    ("data_range=1.0, beside a diverged one", ssim(among, targets, reduction="none", data_range=1.0)[:3]),
):
    print(f"{name}:", *(f"{score:.2f}" for score in scores))
PYTHON
"$folder/venv/bin/python" -W error::UserWarning "$folder/try.py" | tee "$folder/seen"
grep -qx "alone: 0.02 0.02 0.02" "$folder/seen"
grep -qxE "beside a diverged one: 0.9[0-9] 0.9[0-9] 0.9[0-9]" "$folder/seen"
grep -qx "data_range=1.0, beside a diverged one: 0.02 0.02 0.02" "$folder/seen"
