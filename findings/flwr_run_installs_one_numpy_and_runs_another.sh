#!/usr/bin/env bash
# flwr 1.41.0 with uv 0.12.24, `flwr run` of an app that pins numpy, on a SuperLink that has another numpy.
# Guessed: the app runs with what it pins, since the SuperLink installs an environment for the run; or it is told that it
#   cannot, as its requirement of `flwr` is ("Skipping ...").
# Seen: numpy 2.3.5 is installed for the run, and importlib.metadata says so, but the app computes with the SuperLink's
#   numpy 2.4.6: Flower has imported it before it puts the new environment first on sys.path. There is no warning. What
#   Flower does not import itself (six here) is the pinned one.
# So a run whose versions were noted down by importlib.metadata names a numpy that it did not use, and an app that pins
#   numpy to repeat a result, or for an extension built against it, gets whatever the SuperLink's machine has.
# Output seen:
#   pinned numpy==2.3.5 six==1.16.0
#   metadata says numpy 2.3.5, six 1.16.0
#   imported is numpy 2.4.6 of the SuperLink, six 1.16.0 of the run
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${superlink:-}" 2>/dev/null && wait; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check flwr==1.41.0 uv==0.12.24 numpy==2.4.6
export PATH="$folder/venv/bin:$PATH" FLWR_HOME="$folder/home" FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
mkdir -p "$folder/app/pins" "$FLWR_HOME"
cat > "$folder/app/pyproject.toml" <<'TOML'
[project]
name = "pins"
version = "1.0.0"
requires-python = ">=3.11,<3.15"
dependencies = ["numpy==2.3.5", "six==1.16.0"]

[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[tool.flwr.app]
publisher = "somebody"

[tool.flwr.app.components]
serverapp = "pins.server:app"
clientapp = "pins.client:app"
TOML
touch "$folder/app/pins/__init__.py"
printf 'from flwr.clientapp import ClientApp\n\napp = ClientApp()\n' > "$folder/app/pins/client.py"
cat > "$folder/app/pins/server.py" <<'PYTHON'
from importlib.metadata import version

import numpy
import six
from flwr.serverapp import ServerApp

app = ServerApp()


def imported(module):
    whose = "run" if "runtime-envs" in module.__file__ else "SuperLink"
    return f"{module.__name__} {module.__version__} of the {whose}"


@app.main()
def main(grid, context):
    print(f"metadata says numpy {version('numpy')}, six {version('six')}")
    print(f"imported is {imported(numpy)}, {imported(six)}")
PYTHON
port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
printf '[superlink.own]\naddress = "127.0.0.1:%s"\ninsecure = true\n' "$port" > "$FLWR_HOME/config.toml"
flower-superlink --insecure --host 127.0.0.1 --port "$port" > "$folder/log" 2>&1 &
superlink=$!
for _ in $(seq 60); do
  python -c "import urllib.request as r; r.urlopen('http://127.0.0.1:$port/health')" 2> /dev/null && break
  sleep 0.5
done

echo "pinned numpy==2.3.5 six==1.16.0"
flwr run "$folder/app" own --stream > "$folder/run" 2>&1
grep -E "^(metadata says|imported is) " "$folder/run" | tee "$folder/seen"
grep -qx "metadata says numpy 2.3.5, six 1.16.0" "$folder/seen"
grep -qx "imported is numpy 2.4.6 of the SuperLink, six 1.16.0 of the run" "$folder/seen"
if grep -i "warning.*numpy" "$folder/run"; then exit 1; fi
