#!/usr/bin/env bash
# pyarrow 26.0.1, FixedShapeTensorArray (the tensor column in which photos go into Parquet).
# Expected: from_numpy_ndarray and to_numpy_ndarray are each other's inverse: what is not contiguous is copied, says the
#   documentation.
# Seen: photos with the channels last that are mirrored by a negative stride come back with the right shape and each
#   photo's own pixels, but these in wrong places: neither the mirrored picture nor the one before. So do photos with the
#   channels first that are turned upside down. No error, no warning. With the channels first, mirroring is right.
# So a table of faces that are mirrored for augmentation, or to test an embedder, holds rubbish, and a check of shapes,
#   of the mean or of the range passes. A copy made first is kept right.
# Output seen:
#   channels last, mirrored: same shape True, same pixels True, same picture False
#   channels last, mirrored, copied first: same shape True, same pixels True, same picture True
#   channels first, mirrored: same shape True, same pixels True, same picture True
#   channels first, upside down: same shape True, same pixels True, same picture False
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1 numpy==2.3.5
cat > "$folder/try.py" <<'PYTHON'
import numpy as np
import pyarrow as pa

last = np.arange(2 * 4 * 5 * 3, dtype=np.float32).reshape(2, 4, 5, 3)
first = np.ascontiguousarray(last.transpose(0, 3, 1, 2))
views = {
    "channels last, mirrored": last[:, :, ::-1],
    "channels last, mirrored, copied first": last[:, :, ::-1].copy(),
    "channels first, mirrored": first[:, :, :, ::-1],
    "channels first, upside down": first[:, :, ::-1],
}
for name, photos in views.items():
    back = pa.FixedShapeTensorArray.from_numpy_ndarray(photos).to_numpy_ndarray()
    pixels = all(np.array_equal(np.sort(a, axis=None), np.sort(b, axis=None)) for a, b in zip(back, photos))
    picture = np.array_equal(back, photos)
    print(f"{name}: same shape {back.shape == photos.shape}, same pixels {pixels}, same picture {picture}")
PYTHON
"$folder/venv/bin/python" "$folder/try.py" 2>/dev/null | tee "$folder/seen"
for name in "channels last, mirrored" "channels first, upside down"; do
  grep -qx "$name: same shape True, same pixels True, same picture False" "$folder/seen"
done
for name in "channels last, mirrored, copied first" "channels first, mirrored"; do
  grep -qx "$name: same shape True, same pixels True, same picture True" "$folder/seen"
done
