#!/usr/bin/env bash
# diffusers 0.42.1 with torch 2.15.0: add_noise of DPMSolverMultistepScheduler, UniPCMultistepScheduler and
#   DEISMultistepScheduler, on the same betas as DDPMScheduler.
# Guessed: add_noise at timestep t is sqrt(abar_t) x + sqrt(1 - abar_t) noise for each of them, as for DDPMScheduler and
#   DDIMScheduler, whether or not timesteps for sampling were set; at worst an error where t is not among those.
# Seen: a scheduler as it is made or loaded, as a training loop uses it, adds the noise of timestep 999 - t: little at
#   t = 880, hardly anything else at t = 120. Once set_timesteps(20) was called, the 20 timesteps of the list are
#   right, and every other one gets the noise of the last of them. No error, no warning; EulerDiscreteScheduler, which
#   cannot look up such a timestep either, raises.
# So a denoiser trained with the scheduler it samples with learns faces on a schedule that runs backwards: told that
#   a picture is nearly clean it has seen only noise.
# Output seen (standard deviation of the noise in x_t at t = 120, 500 and 880):
#   DDPMScheduler: made 0.38 0.96 1.00, after set_timesteps(20) 0.38 0.96 1.00
#   DDIMScheduler: made 0.38 0.96 1.00, after set_timesteps(20) 0.38 0.96 1.00
#   DPMSolverMultistepScheduler: made 1.00 0.96 0.38, after set_timesteps(20) 0.17 0.96 0.17
#   UniPCMultistepScheduler: made 1.00 0.96 0.38, after set_timesteps(20) 0.17 0.96 0.17
#   DEISMultistepScheduler: made 1.00 0.96 0.38, after set_timesteps(20) 0.17 0.96 0.17
#   right is 0.38 0.96 1.00
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check diffusers==0.42.1 torch==2.15.0 numpy==2.3.5
cat > "$folder/try.py" <<'PYTHON'
import diffusers
import torch

NAMES = ("DDPM", "DDIM", "DPMSolverMultistep", "UniPCMultistep", "DEISMultistep")
times = torch.tensor([120, 500, 880])
photos, noise = torch.zeros(3, 3, 8, 8), torch.ones(3, 3, 8, 8)


def seen(scheduler):
    return " ".join(f"{float(x[0, 0, 0]):.2f}" for x in scheduler.add_noise(photos, noise, times))


for name in NAMES:
    scheduler = getattr(diffusers, f"{name}Scheduler")(num_train_timesteps=1000)
    made = seen(scheduler)
    scheduler.set_timesteps(20)
    print(f"{name}Scheduler: made {made}, after set_timesteps(20) {seen(scheduler)}")
abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)[times]
print("right is", " ".join(f"{float(x):.2f}" for x in (1 - abar).sqrt()))
PYTHON
"$folder/venv/bin/python" "$folder/try.py" 2>/dev/null | tee "$folder/seen"
for name in DPMSolver UniPC DEIS; do
    grep -qx "${name}MultistepScheduler: made 1.00 0.96 0.38, after set_timesteps(20) 0.17 0.96 0.17" "$folder/seen"
done
grep -qx "DDPMScheduler: made 0.38 0.96 1.00, after set_timesteps(20) 0.38 0.96 1.00" "$folder/seen"
grep -qx "right is 0.38 0.96 1.00" "$folder/seen"
