"""When things change during meta-training: the order of the gradient."""


def second_order(epoch: int, epochs: int, anneal: float) -> bool:
    """Derivative annealing: a hard switch, first order for the first `anneal` share of the epochs (from 0).

    anneal 0 is MAML, 1 first-order MAML. Source: MAML++ (arXiv 1810.09502), section 4.

    >>> [second_order(epoch, 4, 0.5) for epoch in range(4)]
    [False, False, True, True]
    """
    return epoch >= anneal * epochs
