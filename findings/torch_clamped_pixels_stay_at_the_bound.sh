#!/usr/bin/env bash
# torch 2.15.0, torch.clamp, which keeps the pixels of a reconstruction in their range.
# Guessed: a pixel that lies on the bound is inside the range, so its gradient passes (1), and it can go back.
# Seen: with bounds given as numbers the gradient there is 0; with the same bounds as tensors it is a half. Started from
#   a photo with a white pixel, 1.0, descent brings that pixel to its target with the one and never moves it with the
#   other. A pixel a hair below the bound moves with both.
# So an inversion that clamps inside its loss and starts at a clipped picture, a warm start, leaves all saturated pixels
#   as they are, and the loss that is left reads as a limit of what the update tells.
# Output seen:
#   bounds as numbers: gradient at 1.0 is 0.0; from 1.0 to 1.00, from 0.999 to 0.20
#   bounds as tensors: gradient at 1.0 is 0.5; from 1.0 to 0.20, from 0.999 to 0.20
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.3.5
cat > "$folder/try.py" <<'PYTHON'
import torch

torch.set_num_threads(1)
low, high = -torch.ones(1), torch.ones(1)
bounded = {"numbers": lambda x: x.clamp(-1.0, 1.0), "tensors": lambda x: x.clamp(low, high)}


def descended(bound, start):
    pixel = torch.tensor([start], requires_grad=True)
    optimiser = torch.optim.Adam([pixel], lr=0.05)
    for _ in range(200):
        optimiser.zero_grad()
        ((bound(pixel) - 0.2) ** 2).sum().backward()
        optimiser.step()
    return pixel.item()


for name, bound in bounded.items():
    pixel = torch.ones(1, requires_grad=True)
    (slope,) = torch.autograd.grad(bound(pixel).sum(), pixel)
    ends = [descended(bound, start) for start in (1.0, 0.999)]
    print(f"bounds as {name}: gradient at 1.0 is {slope.item()}; from 1.0 to {ends[0]:.2f}, from 0.999 to {ends[1]:.2f}")
PYTHON
"$folder/venv/bin/python" "$folder/try.py" 2>/dev/null | tee "$folder/seen"
grep -qx "bounds as numbers: gradient at 1.0 is 0.0; from 1.0 to 1.00, from 0.999 to 0.20" "$folder/seen"
grep -qx "bounds as tensors: gradient at 1.0 is 0.5; from 1.0 to 0.20, from 0.999 to 0.20" "$folder/seen"
