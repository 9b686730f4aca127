"""What torch raises where memory does not hold a batch, raised on purpose."""

import torch


class TooLarge:
    """Raises, where a module is given more rows than memory holds."""

    def __init__(self, module, holds, error):
        self.seen, self.holds, self.error = [], holds, error
        self.hook = module.register_forward_pre_hook(self)

    def __call__(self, _module, args):
        self.seen.append(len(args[0]))
        if len(args[0]) > self.holds:
            raise self.error


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: tried 99 bytes"),
    torch.AcceleratorError("CUDA error: out of memory"),
    MemoryError(),
]
