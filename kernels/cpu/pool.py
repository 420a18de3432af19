"""The pooling kernels of the contract; each has a file of its own."""

from .pooling.avg_pool import (
    avg_pool_backward,
    avg_pool_backward_at_once,
    avg_pool_forward,
    avg_pool_forward_at_once,
)
from .pooling.max_pool_backward import max_pool_backward, max_pool_backward_at_once
from .pooling.max_pool_forward import max_pool_forward, max_pool_forward_at_once
from .pooling.unpool import max_unpool_backward, max_unpool_forward
from .pooling.winners import check_index_in_window, check_winner, index_to_winner, winner_to_index

__all__ = [
    "avg_pool_backward", "avg_pool_backward_at_once", "avg_pool_forward",
    "avg_pool_forward_at_once", "check_index_in_window", "check_winner",
    "index_to_winner", "max_pool_backward", "max_pool_backward_at_once", "max_pool_forward",
    "max_pool_forward_at_once",
    "max_unpool_backward",
    "max_unpool_forward", "winner_to_index",
]  # fmt: skip
