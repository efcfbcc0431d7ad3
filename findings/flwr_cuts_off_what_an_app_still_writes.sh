#!/usr/bin/env bash
# flwr 1.41.0, a ServerApp on a SuperLink that lets a thread write its checkpoint and returns meanwhile.
# Guessed: the process of a ServerApp ends as every Python program does: it waits for threads that are not daemons and calls
#   what was registered with atexit; and Flower calls the run completed after that, or not at all if it was cut off.
# Seen: 5 seconds after main has returned the process is ended where it stands (os._exit in flwr/supercore/exit/exit.py):
#   the file ends in the middle, atexit is not called, nothing is said, and the run is "finished:completed". As a
#   plain program the same function writes the whole file.
# So an asynchronous checkpoint, an upload or a tracker's last flush works with the small model it was tried with, and is
#   cut off with the large one. Wait for it in main.
# Output seen:
#   plain program: 8 of 8 parts, atexit called
#   ServerApp: 4 of 8 parts, atexit not called, finished:completed
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${superlink:-}" 2>/dev/null && wait; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check flwr==1.41.0
export PATH="$folder/venv/bin:$PATH" FLWR_HOME="$folder/home" FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
mkdir -p "$folder/app/saves" "$FLWR_HOME"
cat > "$folder/app/pyproject.toml" <<'TOML'
[project]
name = "saves"
version = "1.0.0"
dependencies = ["flwr==1.41.0"]

[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[tool.flwr.app]
publisher = "somebody"

[tool.flwr.app.components]
serverapp = "saves.server:app"
clientapp = "saves.client:app"

[tool.flwr.app.config]
file = ""
TOML
touch "$folder/app/saves/__init__.py"
printf 'from flwr.clientapp import ClientApp\n\napp = ClientApp()\n' > "$folder/app/saves/client.py"
cat > "$folder/app/saves/server.py" <<'PYTHON'
import atexit
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from flwr.serverapp import ServerApp

app = ServerApp()


def add(file, line):
    with open(file, "a") as opened:
        opened.write(f"{line}\n")


def save(file):
    for number in range(8):
        time.sleep(1)
        add(file, f"part {number}")


def work(file):
    atexit.register(add, file, "atexit")
    ThreadPoolExecutor().submit(save, file)


@app.main()
def main(grid, context):
    work(context.run_config["file"])


if __name__ == "__main__":
    work(sys.argv[1])
PYTHON
port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
printf '[superlink.own]\naddress = "127.0.0.1:%s"\ninsecure = true\n' "$port" > "$FLWR_HOME/config.toml"
flower-superlink --insecure --host 127.0.0.1 --port "$port" --disable-runtime-dependency-installation \
  > "$folder/log" 2>&1 &
superlink=$!
for _ in $(seq 60); do
  python -c "import urllib.request as r; r.urlopen('http://127.0.0.1:$port/health')" 2> /dev/null && break
  sleep 0.5
done
told() {  # what Flower says of the run
  flwr ls own --format json | python -c 'import json, sys; print(json.load(sys.stdin)["runs"][0]["status"])'
}
seen() {
  echo "$1: $(grep -c part "$2") of 8 parts, atexit $(grep -q atexit "$2" || echo "not ")called${3:-}"
}

python "$folder/app/saves/server.py" "$folder/plain"
seen "plain program" "$folder/plain" | tee "$folder/seen"
flwr run "$folder/app" own --run-config "file='$folder/saved'" > /dev/null
for _ in $(seq 60); do
  case $(told) in finished*) break ;; esac
  sleep 1
done
sleep 9  # who still wrote would be done by now
seen "ServerApp" "$folder/saved" ", $(told)" | tee -a "$folder/seen"
grep -qx "plain program: 8 of 8 parts, atexit called" "$folder/seen"
grep -qxE "ServerApp: [1-7] of 8 parts, atexit not called, finished:completed" "$folder/seen"
