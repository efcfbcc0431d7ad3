#!/usr/bin/env bash
# ray 2.55.1, a program that is started from a folder in which a package happens to have an installed one's name.
# Guessed: workers look for modules where the driver does, in that order. `python /elsewhere/main.py` does not search the
#   current folder at all, so they do not either.
# Seen: the driver's current folder comes first on its workers' sys.path, before the script's own folder and before
#   site-packages. The driver imports the installed `six`, its workers the `six.py` of the current folder, without a
#   word; of two `settings.py` the driver reads its own, its workers the other.
# So what a task computes depends on the folder from which the command was given: who keeps a `models.py` beside the data
#   runs that on the workers, and the driver never shows it.
# Output seen:
#   driver: six of site-packages, settings of program
#   worker: six of data, settings of data
#   worker's path begins: data program
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ray==2.55.1 six==1.17.0
mkdir "$folder/program" "$folder/data"
echo 'here = "program"' > "$folder/program/settings.py"
echo 'here = "data"' > "$folder/data/settings.py"
echo '"""A folder or file of the user that has nothing to do with the installed six."""' > "$folder/data/six.py"
cat > "$folder/program/main.py" <<'PYTHON'
import sys
from pathlib import Path

import ray


def found():
    import settings
    import six

    return f"six of {Path(six.__file__).parent.name}, settings of {settings.here}"


def begins():
    return " ".join(Path(path).name for path in sys.path[:2])


ray.init(num_cpus=1, include_dashboard=False, logging_level="ERROR")
print("driver:", found())
print("worker:", ray.get(ray.remote(found).remote()))
print("worker's path begins:", ray.get(ray.remote(begins).remote()))
PYTHON
cd "$folder/data"
RAY_USAGE_STATS_ENABLED=0 "$folder/venv/bin/python" "$folder/program/main.py" 2>/dev/null | tee "$folder/seen"
grep -qx "driver: six of site-packages, settings of program" "$folder/seen"
grep -qx "worker: six of data, settings of data" "$folder/seen"
grep -qx "worker's path begins: data program" "$folder/seen"
