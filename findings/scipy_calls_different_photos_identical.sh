#!/usr/bin/env bash
# scipy 1.17.1, scipy.spatial.distance.cosine on photos as they are read: uint8.
# Guessed: sums overflow, so that the distances are wrong, and spread over all of 0 to 2.
# Seen: of 199 pairs of unlike pictures nine in ten are at distance 0.0 exactly, "identical" (the wrapped sums make the
#   quotient large, and what comes out below 0 is set to 0). cdist, on the same arrays and in the same module, says 0.25
#   and is right. There is a RuntimeWarning, but it speaks of an overflow in a multiplication, and is shown once.
# So whoever measures leakage in pixels is told by the pairwise function that almost any picture is the photo itself.
# Output seen:
#   cosine: 91% of 199 distances are 0.0
#   cdist: from 0.247 to 0.256
#   cosine of the same as float: from 0.247 to 0.256
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check scipy==1.17.1 numpy==2.3.5
cat > "$folder/try.py" <<'PYTHON'
import numpy as np
from scipy.spatial.distance import cdist, cosine

photos = np.random.default_rng(0).integers(0, 256, (200, 112 * 112 * 3), dtype=np.uint8)
pairwise = np.array([cosine(photos[0], other) for other in photos[1:]])
matrix = cdist(photos[:1], photos[1:], "cosine")
as_float = np.array([cosine(photos[0].astype(float), other.astype(float)) for other in photos[1:]])
print(f"cosine: {np.mean(pairwise == 0):.0%} of {len(pairwise)} distances are 0.0")
print(f"cdist: from {matrix.min():.3f} to {matrix.max():.3f}")
print(f"cosine of the same as float: from {as_float.min():.3f} to {as_float.max():.3f}")
PYTHON
"$folder/venv/bin/python" "$folder/try.py" 2>/dev/null | tee "$folder/seen"
grep -Eqx "cosine: (9[0-9]|8[5-9])% of 199 distances are 0.0" "$folder/seen"
grep -Eqx "cdist: from 0\.24[0-9]* to 0\.25[0-9]*" "$folder/seen"
grep -Eqx "cosine of the same as float: from 0\.24[0-9]* to 0\.25[0-9]*" "$folder/seen"
