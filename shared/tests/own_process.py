"""Calling a function in a separate process, so that a crash or a hang fails one test only."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

__all__ = ["in_own_process"]


def in_own_process(function, *args, **options):
    """The function's result, or its exception, from a freshly started interpreter."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args, **options).result(timeout=200)
