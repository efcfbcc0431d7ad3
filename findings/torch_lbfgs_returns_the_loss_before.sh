#!/usr/bin/env bash
# torch 2.15.0, torch.optim.LBFGS, the optimiser of the first gradient inversions.
# Guessed: optimiser.step(closure) returns the loss where the step ends, or at least the lowest that it has seen.
# Seen: it returns the loss at which the step began, though one step is up to max_iter (here 20) iterations.
# So an attack that picks the best of its restarts by what the last step returned picks by the losses one step earlier,
#   and can keep the worse picture: here the start that returns 17 is at 6.59, the one that returns 401 at 0.002.
# Output seen:
#   from (-3.0, 8.9): began at 17, returned 17, is at 6.59
#   from (2.0, 2.0): began at 401, returned 401, is at 0.00182
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.3.5
cat > "$folder/try.py" <<'PYTHON'
import torch

torch.set_num_threads(1)


def rosenbrock(x):
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


for start in ((-3.0, 8.9), (2.0, 2.0)):
    x = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([x], max_iter=20, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = rosenbrock(x)
        loss.backward()
        return loss

    began = rosenbrock(x).item()
    returned = optimiser.step(closure).item()
    print(f"from {start}: began at {began:.3g}, returned {returned:.3g}, is at {rosenbrock(x).item():.3g}")
PYTHON
"$folder/venv/bin/python" "$folder/try.py" 2>/dev/null | tee "$folder/seen"
grep -Eqx "from \(-3.0, 8.9\): began at 17, returned 17, is at 6\.[0-9]+" "$folder/seen"
grep -Eqx "from \(2.0, 2.0\): began at 401, returned 401, is at 0\.0[0-9]+" "$folder/seen"
