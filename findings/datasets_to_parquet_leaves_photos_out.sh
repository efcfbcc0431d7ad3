#!/usr/bin/env bash
# datasets 5.2.0, Dataset.to_parquet of photos that are files, as load_dataset("imagefolder") gives them.
# Guessed: the parquet file holds the photos, as those on the hub do.
# Seen: it holds their absolute paths, and no byte of a photo; nothing is said. On the machine that wrote it all is well,
#   since datasets follows the paths. Elsewhere, or when the folder has moved, every photo is FileNotFoundError.
# So a data set of faces that was handed over, or archived in place of its folder, is empty. Photos given as bytes are kept.
# Output seen:
#   from_dict: photos in the file: 0 of 4
#   imagefolder: photos in the file: 0 of 4
#   given as bytes: photos in the file: 4 of 4
#   the folder has moved: FileNotFoundError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    datasets==5.2.0 pyarrow==26.0.1 pillow==12.3.0 numpy==2.3.5
cat > "$folder/try.py" <<'PYTHON'
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
from PIL import Image

datasets.disable_progress_bars()
root = Path(sys.argv[1])
for index in range(4):
    file = root / "faces" / f"person{index % 2}" / f"{index}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(index).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(file)
files = sorted((root / "faces").rglob("*.png"))
photos = datasets.Features({"image": datasets.Image()})
ways = {
    "from_dict": datasets.Dataset.from_dict({"image": list(map(str, files))}, features=photos),
    "imagefolder": datasets.load_dataset(
        "imagefolder", data_dir=str(root / "faces"), split="train", cache_dir=str(root / "cache")
    ),
    "given as bytes": datasets.Dataset.from_dict(
        {"image": [{"bytes": file.read_bytes(), "path": None} for file in files]}, features=photos
    ),
}
for name, way in ways.items():
    way.to_parquet(root / f"{name}.parquet")
    stored = pq.read_table(root / f"{name}.parquet")["image"].to_pylist()
    print(f"{name}: photos in the file: {sum(one['bytes'] is not None for one in stored)} of {len(stored)}")
(root / "faces").rename(root / "moved")
try:
    datasets.Dataset.from_parquet(str(root / "imagefolder.parquet"), cache_dir=str(root / "again"))[0]["image"]
    print("the folder has moved: read")
except FileNotFoundError as error:
    print(f"the folder has moved: {type(error).__name__}")
PYTHON
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" "$folder/try.py" "$folder/work" 2>/dev/null | tee "$folder/seen"
grep -qx "from_dict: photos in the file: 0 of 4" "$folder/seen"
grep -qx "imagefolder: photos in the file: 0 of 4" "$folder/seen"
grep -qx "given as bytes: photos in the file: 4 of 4" "$folder/seen"
grep -qx "the folder has moved: FileNotFoundError" "$folder/seen"
