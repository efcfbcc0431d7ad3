#!/usr/bin/env bash
# opacus 1.6.0 with torch 2.15.0, ModuleValidator.fix, which makes a model fit for per-sample gradients.
# Guessed: fix() puts group norm in the place of batch norm and takes the learnt scale and shift over, which both have.
# Seen: scale and shift are 1 and 0 again, and of a model in eval mode the new layers are in training mode while the rest
#   is not. There is no warning. A layer whose parameters are all frozen stays batch norm, with what it learnt.
# So a face model that was trained before loses part of what it knew when it is made private, and the accuracy lost is
#   put down to the noise; and whether it does hangs on what is frozen at the time of the call.
# Output seen:
#   before: BatchNorm2d, scale 3.0, shift -1.0, training mode False
#   trained, after: GroupNorm, scale 1.0, shift 0.0, training mode True
#   frozen, after: BatchNorm2d, scale 3.0, shift -1.0, training mode False
#   0 warnings
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check opacus==1.6.0 torch==2.15.0 numpy==2.3.5
cat > "$folder/try.py" <<'PYTHON'
import warnings

import torch
from opacus.validators import ModuleValidator
from torch import nn

torch.set_num_threads(1)
model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
nn.init.constant_(model[1].weight, 3.0)
nn.init.constant_(model[1].bias, -1.0)
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    fixed = ModuleValidator.fix(model)
    frozen = ModuleValidator.fix(model.requires_grad_(False))
for name, norm in (("before", model[1]), ("trained, after", fixed[1]), ("frozen, after", frozen[1])):
    print(f"{name}: {type(norm).__name__}, scale {norm.weight[0].item()}, shift {norm.bias[0].item()}, "
          f"training mode {norm.training}")
print(f"{len(warned)} warnings")
PYTHON
"$folder/venv/bin/python" "$folder/try.py" 2>/dev/null | tee "$folder/seen"
grep -qx "before: BatchNorm2d, scale 3.0, shift -1.0, training mode False" "$folder/seen"
grep -qx "trained, after: GroupNorm, scale 1.0, shift 0.0, training mode True" "$folder/seen"
grep -qx "frozen, after: BatchNorm2d, scale 3.0, shift -1.0, training mode False" "$folder/seen"
grep -qx "0 warnings" "$folder/seen"
