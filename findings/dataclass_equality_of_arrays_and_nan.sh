#!/usr/bin/env bash
# CPython 3.12 and 3.13, numpy 2.4.6: `==` of dataclasses that hold arrays or NaN.
# Guessed: two dataclasses are equal as the tuples of their fields are, in every Python that a project supports.
# Seen: up to 3.12 the fields are compared as tuples, where a field that is the same object counts as equal. From 3.13 on
#   they are compared one by one. So a shallow copy equals its original up to 3.12. From 3.13 on it does not if a field is
#   NaN; with an array among the fields `==` raises, or returns an array where that is the last field.
# So a test or a cache that compares records of a run passes on 3.12 and fails on 3.13, and `if a == b` of two updates that
#   share a gradient ends in "the truth value of an array is ambiguous".
# Output seen:
#   3.12: NaN True, array then number True, number then array True
#   3.13: NaN False, array then number ValueError, number then array [ True  True]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check uv==0.12.24
cat > "$folder/try.py" <<'PYTHON'
import copy
import sys
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ArrayFirst:
    gradient: np.ndarray
    loss: float


@dataclass(frozen=True)
class ArrayLast:
    loss: float
    gradient: np.ndarray


def of_a_copy(record):
    try:
        return copy.copy(record) == record
    except ValueError:
        return "ValueError"


zeros = np.zeros(2)
print(
    "{}.{}:".format(*sys.version_info),
    f"NaN {of_a_copy(ArrayLast(float('nan'), None))},",
    f"array then number {of_a_copy(ArrayFirst(zeros, 0.0))},",
    f"number then array {of_a_copy(ArrayLast(0.0, zeros))}",
)
PYTHON
for version in 3.12 3.13; do # uv finds these Pythons, or fetches them
    "$folder/venv/bin/uv" run --quiet --no-project --python "$version" --with numpy==2.4.6 "$folder/try.py"
done | tee "$folder/seen"
grep -qx "3.12: NaN True, array then number True, number then array True" "$folder/seen"
grep -qxF "3.13: NaN False, array then number ValueError, number then array [ True  True]" "$folder/seen"
