"""What a process of `test_weights` does: asks for the weights of a model, as a worker does when it opens."""

import hashlib
import os
from collections.abc import Mapping

import open_clip.pretrained

from curate.embed.model import weights


def ask(environment: Mapping[str, str], tag, pretrained, ready, said):
    """Puts the path and the digest of the weights.

    Args:
        environment: of the test, which a process that is forked by a server does not have.
        tag: what open_clip is to know of `pretrained`, or None where that is a path.
        pretrained: the recipe's.
        ready: a barrier: all ask at the same moment.
        said: where the answer is put.
    """
    os.environ.clear()
    os.environ.update(environment)
    if tag:
        open_clip.pretrained._PRETRAINED["ViT-B-32"][pretrained] = tag
    ready.wait()
    file = weights.find("ViT-B-32", pretrained).weights_file()
    said.put((str(file), hashlib.sha256(file.read_bytes()).hexdigest()))
