#!/usr/bin/env bash
# flwr 1.41.0 with uv 0.12.24, `flwr run` where it takes 2 ms to remove a file: a home folder on a network disk, imitated.
# Guessed: a ServerApp that has returned is a completed run. What Flower then tidies up, as the environment that it had
#   installed for the run, is removed after the SuperLink has been told, or does not count.
# Seen: the environment is removed first, and 5 seconds after main has returned the process is ended (exit handlers run
#   last in, first out, under the timer of flwr/supercore/exit/exit.py). Here its 4,500 files take 9: nobody tells the
#   SuperLink, which calls the run "running" for a minute and then "finished:failed: No heartbeat received from the
#   task". The files that were not yet removed stay. Where nothing is installed the same run is completed.
# So a run whose results are all there counts as failed, the more so the larger the environment: with torch it has tens of
#   thousands of files, for which 5 seconds of a local disk beside other work do not do either. Where the packages are
#   there anyway, `flower-superlink --disable-runtime-dependency-installation` helps.
# Output seen:
#   nothing installed: main returns; finished:completed; files left: none
#   environment installed: main returns; finished:failed, No heartbeat received from the task; files left: some
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${superlink:-}" 2>/dev/null && wait; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check flwr==1.41.0 uv==0.12.24
export PATH="$folder/venv/bin:$PATH" FLWR_HOME="$folder/home" FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
mkdir -p "$folder/app/slow" "$FLWR_HOME"
cat > "$folder/app/pyproject.toml" <<'TOML'
[project]
name = "slow"
version = "1.0.0"
requires-python = ">=3.11,<3.15"
dependencies = ["flwr==1.41.0"]

[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[tool.flwr.app]
publisher = "somebody"

[tool.flwr.app.components]
serverapp = "slow.server:app"
clientapp = "slow.client:app"
TOML
touch "$folder/app/slow/__init__.py"
printf 'from flwr.clientapp import ClientApp\n\napp = ClientApp()\n' > "$folder/app/slow/client.py"
cat > "$folder/app/slow/server.py" <<'PYTHON'
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    print("main returns")
PYTHON
cat > "$(python -c 'import site; print(site.getsitepackages()[0])')/sitecustomize.py" <<'PYTHON'
import os
import time

unlink = os.unlink


def slow(*arguments, **named):
    time.sleep(0.002)
    unlink(*arguments, **named)


os.unlink = slow
PYTHON
port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
printf '[superlink.own]\naddress = "127.0.0.1:%s"\ninsecure = true\n' "$port" > "$FLWR_HOME/config.toml"
once() {
  flower-superlink --insecure --host 127.0.0.1 --port "$port" "${@:2}" > "$folder/log" 2>&1 &
  superlink=$!
  for _ in $(seq 60); do
    python -c "import urllib.request as r; r.urlopen('http://127.0.0.1:$port/health')" 2> /dev/null && break
    sleep 0.5
  done
  flwr run "$folder/app" own --stream > "$folder/run" 2>&1
  for _ in $(seq 60); do
    said=$(flwr ls own --format json | python -c '
import json, sys
run = json.load(sys.stdin)["runs"][0]
print(run["status"], *[run["status-details"]] * (run["status-details"] != "N/A"), sep=", ")')
    case $said in finished*) break ;; esac
    sleep 2
  done
  left=$(find "$FLWR_HOME" -path "*runtime-envs*" -type f | wc -l)
  echo "$1: $(grep -x "main returns" "$folder/run"); $said; files left: $(test "$left" = 0 && echo none || echo some)"
  kill "$superlink"
  wait "$superlink" || true
  superlink=
}

once "nothing installed" --disable-runtime-dependency-installation > "$folder/seen"
once "environment installed" >> "$folder/seen"
cat "$folder/seen"
grep -qx "nothing installed: main returns; finished:completed; files left: none" "$folder/seen"
failed="finished:failed, No heartbeat received from the task"
grep -qx "environment installed: main returns; $failed; files left: some" "$folder/seen"
