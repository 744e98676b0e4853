"""Large buffers on the CPU: kept by the process instead of given back to the system after every use."""

import ctypes
import platform

__all__ = ["keep_large_buffers"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names and numbers of glibc's malloc.h
LARGEST = 2**31 - 1


def keep_large_buffers() -> bool:
    """Tell glibc to reuse freed memory of any size; returns whether that was possible (Linux with glibc).

    By default every tensor above 32 MB is mapped anew, and the system clears its pages at first touch: at
    512 x 512 pixels and 64 channels this takes longer than the element-wise operation itself. The price is a
    process that does not shrink again before its end.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST)) and bool(mallopt(M_TRIM_THRESHOLD, LARGEST))
