"""FOR TESTS ONLY: what SGLang 0.5.23 needs of its compiled kernels to serve DFLASH on a CPU."""

import ctypes

__version__ = "0.4.10"


def assign_extend_cache_locs_cpu(rows, table, starts, ends, out, *_):
    """Read the cache places of positions start..end-1 of each request, one after the other."""
    filled = 0
    for row, start, end in zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True):
        out[filled : filled + end - start] = table[row, start:end].to(out.dtype)
        filled += end - start


def assign_req_to_token_pool_cpu(rows, table, starts, ends, places, *_):
    """Write the cache places of positions start..end-1 of each request."""
    read = 0
    for row, start, end in zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True):
        table[row, start:end] = places[read : read + end - start].to(table.dtype)
        read += end - start


def copy_all_layer_kv_cache_cpu(addresses, strides, targets, sources):
    """Copy rows of every layer's cache; all are read before one is written."""
    for address, stride in zip(addresses.tolist(), strides.tolist(), strict=True):
        rows = [ctypes.string_at(address + row * stride, stride) for row in sources.tolist()]
        for row, content in zip(targets.tolist(), rows, strict=True):
            ctypes.memmove(address + row * stride, content, stride)


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*_, **__):
        raise NotImplementedError(f"sgl_kernel.{name} is not among the shims of these tests")

    return missing
