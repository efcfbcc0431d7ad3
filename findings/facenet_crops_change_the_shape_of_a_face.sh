#!/usr/bin/env bash
# facenet-pytorch 2.5.3 with torch 2.15.0, extract_face, which MTCNN calls for each face that it has found.
# Guessed: the crop is a square around the box of the face, so that the face keeps its shape.
# Seen: the box itself is stretched to a square, and with it a margin, by a factor for each side. MTCNN's boxes of
#   upright faces are higher than wide, so faces come out too broad: in a box
#   of 90 x 120 a circle becomes a third wider than high. By how much hangs on the box: two photos of a person differ.
# So similarities of such crops are not those of crops that other detectors, or a photo cropped once, give; a leak
#   measured with an embedder shifts with how the face was cut out. No option of extract_face keeps the shape.
# Output seen:
#   box 90 x 90, margin 0: the circle is 108 wide, 108 high
#   box 90 x 120, margin 0: the circle is 108 wide, 81 high
#   box 90 x 120, margin 20: the circle is 95 wide, 71 high
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  facenet-pytorch==2.5.3 torch==2.15.0 torchvision==0.29.2 numpy==2.3.5
cat > "$folder/try.py" <<'PYTHON'
import torch
from facenet_pytorch.models.utils.detect_face import extract_face
from PIL import Image, ImageDraw

torch.set_num_threads(1)
picture = Image.new("RGB", (240, 240))
ImageDraw.Draw(picture).ellipse((90, 90, 150, 150), fill="white")
for box, margin in (([75, 75, 165, 165], 0), ([75, 60, 165, 180], 0), ([75, 60, 165, 180], 20)):
    inside = extract_face(picture, box, image_size=160, margin=margin)[0] > 127
    width, height = int(inside.any(dim=0).sum()), int(inside.any(dim=1).sum())
    size = f"{box[2] - box[0]} x {box[3] - box[1]}"
    print(f"box {size}, margin {margin}: the circle is {width} wide, {height} high")
PYTHON
"$folder/venv/bin/python" "$folder/try.py" 2>/dev/null | tee "$folder/seen"
grep -qx "box 90 x 90, margin 0: the circle is 108 wide, 108 high" "$folder/seen"
grep -qx "box 90 x 120, margin 0: the circle is 108 wide, 81 high" "$folder/seen"
grep -qx "box 90 x 120, margin 20: the circle is 95 wide, 71 high" "$folder/seen"
