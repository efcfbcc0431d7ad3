#!/usr/bin/env bash
# flwr 1.41.0 with ray 2.55.1, `flwr run` of a ServerApp that ends with sys.exit, in both of the SuperLink's engines.
# Guessed: `sys.exit(0)` is a run that has completed and `sys.exit(3)` one that has failed, with the code in its details.
# Seen: the other way round. In a simulation `sys.exit(3)` is "finished:completed", since a thread ends by it without a
#   word. In a deployment `sys.exit(0)` leaves the run "running" for a minute and then "finished:failed: No heartbeat
#   received from the task", since only what is an Exception is reported (flwr/superlink/runtime/run_serverapp.py).
# So an app that was written as a script, or a library in it that exits where its input is missing, looks like success
#   in a simulation, and like a lost machine in a deployment. Return, or raise an exception.
# Output seen:
#   simulation, sys.exit(3): finished:completed
#   deployment, sys.exit(0): running after 20 s
#   deployment, sys.exit(0): finished:failed, No heartbeat received from the task
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${superlink:-}" 2>/dev/null && wait; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'flwr[simulation]==1.41.0'
export PATH="$folder/venv/bin:$PATH" FLWR_HOME="$folder/home" FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
mkdir -p "$folder/app/ends" "$FLWR_HOME"
cat > "$folder/app/pyproject.toml" <<'TOML'
[project]
name = "ends"
version = "1.0.0"
dependencies = ["flwr==1.41.0"]

[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[tool.flwr.app]
publisher = "somebody"

[tool.flwr.app.components]
serverapp = "ends.server:app"
clientapp = "ends.client:app"

[tool.flwr.app.config]
code = 0
TOML
touch "$folder/app/ends/__init__.py"
printf 'from flwr.clientapp import ClientApp\n\napp = ClientApp()\n' > "$folder/app/ends/client.py"
cat > "$folder/app/ends/server.py" <<'PYTHON'
import sys

from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    sys.exit(context.run_config["code"])
PYTHON
export RAY_USAGE_STATS_ENABLED=0
port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
printf '[superlink.own]\naddress = "127.0.0.1:%s"\ninsecure = true\n' "$port" > "$FLWR_HOME/config.toml"
start() {
  flower-superlink --insecure --host 127.0.0.1 --port "$port" --disable-runtime-dependency-installation "$@" \
    > "$folder/log" 2>&1 &
  superlink=$!
  for _ in $(seq 60); do
    python -c "import urllib.request as r; r.urlopen('http://127.0.0.1:$port/health')" 2> /dev/null && break
    sleep 0.5
  done
}
told() {  # what Flower says of the run
  flwr ls own --format json | python -c '
import json, sys
run = json.load(sys.stdin)["runs"][0]
print(run["status"], *[run["status-details"]] * (run["status-details"] != "N/A"), sep=", ")'
}
ended() {
  for _ in $(seq 60); do
    said=$(told)
    case $said in finished*) break ;; esac
    sleep 2
  done
  echo "$said"
}

{
  start --simulation
  size="num-supernodes=1 client-resources-num-cpus=1"
  flwr run "$folder/app" own --run-config "code=3" --federation-config "$size" > /dev/null
  echo "simulation, sys.exit(3): $(ended)"
  kill "$superlink"
  wait "$superlink" || true
  start
  flwr run "$folder/app" own --run-config "code=0" > /dev/null
  sleep 20
  echo "deployment, sys.exit(0): $(told) after 20 s"
  echo "deployment, sys.exit(0): $(ended)"
  kill "$superlink"
  wait "$superlink" || true
  superlink=
} > "$folder/seen"
cat "$folder/seen"
grep -qx "simulation, sys.exit(3): finished:completed" "$folder/seen"
grep -qx "deployment, sys.exit(0): running after 20 s" "$folder/seen"
grep -qx "deployment, sys.exit(0): finished:failed, No heartbeat received from the task" "$folder/seen"
