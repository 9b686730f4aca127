"""Every kind of signal through a whole run, from the command line."""

import csv
import json

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import save_file

from curate.cli import main
from curate.demo.corpus import Corpus
from curate.demo.server import serve
from curate.store import Store
from curate.verify import verify


@pytest.fixture
def place(tmp_path, free_port):
    corpus = Corpus(0, 60, free_port)
    written = corpus.write(tmp_path / "web")
    (tmp_path / "good").mkdir()
    save_file({"weight": torch.randn(1, 256), "bias": torch.zeros(1)}, tmp_path / "taste.safetensors")
    return corpus, written, tmp_path
