"""A fully connected first layer, whose gradient holds the images themselves.

Of a layer W x + b the gradients are sums over the photos x_i, with the same factors a_i (k,): of W, sum_i a_i x_i^T;
of b, sum_i a_i. The factors depend on the loss and on the rest of the model.
"""

from fl_sim.updates import Update


def first_linear(parameters: Update, image_size: int) -> tuple[str, str] | None:
    """Names of the weight (k, 3 * size^2) and bias (k,) of a first layer that sees all pixels; None if it is another.

    `parameters` are in the order of the model's.
    """
    names = list(parameters)[:2]
    shapes = [tuple(parameters[name].shape) for name in names]
    if len(names) == 2 and shapes == [(shapes[0][0], 3 * image_size**2), shapes[0][:1]]:
        return names[0], names[1]
    return None
