#!/usr/bin/env bash
# torch 2.15.0, autograd. A layer whose backward pass is marked once_differentiable, as many custom kernels are.
# Guessed: whoever differentiates its gradient again (create_graph=True) gets the decorator's error.
# Guessed next: at least where the loss is curved in the layer's outputs, so that the gradient has a graph.
# Seen: backward() raises it, but torch.autograd.grad(..., inputs) does not: the error sits on a branch that leads to no
#   input. Where the input is used elsewhere too, as in each residual network, the layer's term is left out without a
#   word: x^3 squared has the second derivative 480 at 2, and 480 + 1 comes out as 1.
# So gradient matching through such a layer can follow a wrong slope silently; a difference of gradients shows it.
# Output seen:
#   first 192.0, second by autograd.grad 1.0
#   backward(): trying to differentiate twice a function that was marked with @once_differentiable
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.3.5
cat > "$folder/try.py" <<'PYTHON'
import torch
from torch.autograd.function import once_differentiable


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * grad


x = torch.tensor(2.0, requires_grad=True)
(gradient,) = torch.autograd.grad(Cube.apply(x) ** 2, x, create_graph=True)
(second,) = torch.autograd.grad(gradient + x, x, retain_graph=True)
print(f"first {gradient.item()}, second by autograd.grad {second.item()}")
try:
    (gradient + x).backward()
    print("backward(): no error")
except RuntimeError as error:
    print(f"backward(): {error}")
PYTHON
"$folder/venv/bin/python" "$folder/try.py" 2>/dev/null | tee "$folder/seen"
grep -qx "first 192.0, second by autograd.grad 1.0" "$folder/seen"
grep -q "^backward(): trying to differentiate twice" "$folder/seen"
