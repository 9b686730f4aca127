"""Weights of a head as a file."""

import torch
from safetensors.torch import save_file
from torch import nn


def stored(module, path):
    state = module.state_dict() if isinstance(module, nn.Module) else module
    if path.suffix == ".safetensors":
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    else:
        torch.save(state, path)
    return str(path)
