"""When things change during meta-training: the order of the gradient, the weights of the steps' losses."""


def second_order(epoch: int, epochs: int, anneal: float) -> bool:
    """Derivative annealing: a hard switch, first order for the first `anneal` share of the epochs (from 0).

    anneal 0 is MAML, 1 first-order MAML. Source: MAML++ (arXiv 1810.09502), section 4.

    >>> [second_order(epoch, 4, 0.5) for epoch in range(4)]
    [False, False, True, True]
    """
    return epoch >= anneal * epochs


def step_weights(epoch: int, epochs: int, msl: float, steps: int) -> list[float]:
    """Weight of the query loss after each inner step: equal at first, annealed to the last step alone.

    The multi-step loss lasts for the first `msl` share of the epochs (from 0). Source: MAML++ (arXiv 1810.09502),
    section 4; no step but the last falls below 0.03 / steps while it lasts, as in its repository.

    >>> step_weights(0, 4, 0.5, 2), step_weights(1, 4, 0.5, 2), step_weights(2, 4, 0.5, 2)
    ([0.5, 0.5], [0.25, 0.75], [0.0, 1.0])
    """
    last = msl * epochs
    early = max((1 - epoch / last) / steps, 0.03 / steps) if epoch < last else 0.0
    return [early] * (steps - 1) + [1 - early * (steps - 1)]
