"""Convolutions and fixed batch norms whose second derivatives cost no more than they must.

Gradient matching differentiates a gradient once more. Of the layers' formulas for that, torch's own are
made for any order and any input: they also yield the parameters' second derivatives, which nobody reads,
and take one convolution with a kernel of the size of the image. Here a convolution costs its seven passes
and no more: output, two gradients; two for the outer derivative of the gradients, two for that of the input.

    with cheap_second_order():
        gradients = torch.autograd.grad(loss(model(images)), parameters, create_graph=True)
    torch.autograd.grad(gradients, images, directions)

Layers for which torch has no second derivative get a form that has one: attention its plain kernel, hardsigmoid its
definition. Any module is served, as the calls are intercepted, not the classes; others keep torch's formulas. The
results are torch's to float rounding. A leaf parameter counts as a constant of the last derivative, which is therefore
one in images (or in what they depend on).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

convolution_backward = torch.ops.aten.convolution_backward
norm_backward = torch.ops.aten.native_batch_norm_backward


class cheap_second_order(TorchFunctionMode):
    """Within it, 2d convolutions, batch norms with fixed statistics and hardsigmoids are those of this file.

    Attention is computed step by step (the math kernel): the fused kernels have no second derivative.
    """

    def __enter__(self) -> Any:
        self._attention = sdpa_kernel(SDPBackend.MATH)
        self._attention.__enter__()
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._attention.__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.conv2d and len(args) == 7 and not isinstance(args[4], str):
            x, weight, bias, *geometry = args
            return Convolution.apply(x, weight, bias, tuple(geometry))
        if func is F.batch_norm and not kwargs.get("training", True) and kwargs.get("weight") is not None:
            x, mean, variance = args
            return Norm.apply(x, kwargs["weight"], kwargs["bias"], mean, variance, kwargs["eps"])
        if func is F.hardsigmoid or func is torch._C._nn.hardsigmoid:
            return (args[0] / 6 + 0.5).clamp(0, 1)
        return func(*args, **kwargs)


def wanted(needed: bool, value: Tensor) -> bool:
    """Whether the gradient in `value` is read: of the last derivative (no graph is made) leaves are constants."""
    return needed and (torch.is_grad_enabled() or not value.is_leaf)


def conv_grads(grad: Tensor, x: Tensor, weight: Tensor, geometry: Any, mask: list[bool]) -> Any:
    """The gradients of a convolution in x, weight and bias, as far as the mask asks for them."""
    stride, padding, dilation, groups = geometry
    bias = list(weight.shape[:1]) if mask[2] else None
    return convolution_backward(grad, x, weight, bias, stride, padding, dilation, False, (0, 0), groups, mask)


class Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return F.conv2d(x, weight, bias, *geometry)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        to_x, to_weight, to_bias = ctx.needs_input_grad[:3]
        if not torch.is_grad_enabled():
            mask = [to_x, wanted(to_weight, weight), wanted(to_bias, weight)]
            return (*conv_grads(grad, x, weight, ctx.geometry, mask), None)
        # Of the first layer's input, the images, nobody reads the first derivative.
        mask = [to_x and not x.is_leaf, to_weight, False]
        inner = ConvolutionGrads.apply(grad, x, weight, ctx.geometry, mask)
        return (*inner, grad.sum((0, 2, 3)) if to_bias else None, None)


class ConvolutionGrads(torch.autograd.Function):
    """(gradient in the output, x, weight) to those in x and weight: bilinear, so its gradients are convolutions too."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, x: Tensor, weight: Tensor, geometry: Any, mask: list[bool]) -> Any:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(grad, x, weight)
        ctx.geometry = geometry
        return conv_grads(grad, x, weight, geometry, mask)[:2]

    @staticmethod
    def backward(ctx: Any, along_x: Tensor | None, along_weight: Tensor | None) -> Any:
        grad, x, weight = ctx.saved_tensors
        to_grad = to_x = to_weight = None
        if along_weight is not None:
            to_grad = F.conv2d(x, along_weight, None, *ctx.geometry)
            if ctx.needs_input_grad[1]:
                to_x = conv_grads(grad, x, along_weight, ctx.geometry, [True, False, False])[0]
        if along_x is not None:
            more = F.conv2d(along_x, weight, None, *ctx.geometry)
            to_grad = more if to_grad is None else to_grad + more
            if wanted(ctx.needs_input_grad[2], weight):
                to_weight = conv_grads(grad, along_x, weight, ctx.geometry, [False, True, False])[1]
        return to_grad, to_x, to_weight, None, None


def norm_grads(
    grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, variance: Tensor, eps: float, mask: list[bool]
) -> Any:
    """The gradients of a batch norm with fixed statistics in x, weight and bias, as far as the mask asks for them."""
    r = (variance + eps).rsqrt()  # with channels last, CUDA wants mean and r as if a forward pass had saved them
    return norm_backward(grad, x, weight, mean, variance, mean, r, False, eps, mask)


class Norm(torch.autograd.Function):
    """Batch norm with fixed statistics: x -> (x - mean) r weight + bias, r = 1 / sqrt(variance + eps), per channel."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps = eps
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight, mean, variance = ctx.saved_tensors
        to_x, to_weight, to_bias = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():
            return (*NormGrads.apply(grad, x, weight, mean, variance, ctx.eps), None, None, None)
        mask = [to_x, wanted(to_weight, weight), wanted(to_bias, weight)]
        return (*norm_grads(grad, x, weight, mean, variance, ctx.eps, mask), None, None, None)


class NormGrads(torch.autograd.Function):
    """(gradient in the output, x, weight) to the gradients in x, weight and bias."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Any:
        ctx.save_for_backward(grad, x, weight, mean, variance)
        ctx.eps = eps
        return norm_grads(grad, x, weight, mean, variance, eps, [True, True, True])

    @staticmethod
    def backward(ctx: Any, along_x: Tensor, along_weight: Tensor, along_bias: Tensor) -> Any:
        grad, x, weight, mean, variance = ctx.saved_tensors
        shape = (-1, *[1] * (x.dim() - 2))  # (channels, 1, 1)
        r = (variance + ctx.eps).rsqrt()
        affine = F.batch_norm(x, mean, variance, along_weight, along_bias, False, 0.0, ctx.eps)
        to_grad = affine.addcmul(along_x, (weight * r).view(shape))
        to_x = grad * (along_weight * r).view(shape)
        to_weight = None
        if wanted(ctx.needs_input_grad[2], weight):
            to_weight = (along_x * grad).transpose(0, 1).flatten(1).sum(1) * r
        return to_grad, to_x, to_weight, None, None, None
