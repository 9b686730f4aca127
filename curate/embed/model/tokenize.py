"""Tokenizes captions as open_clip's own tokenizer does, in bounded time.

`SimpleTokenizer` cleans and merges the whole caption, then cuts the tokens to the context. Here a caption is read only
as far as the context needs, and words are merged by the `tokenizers` package, in O(n log n). open_clip merges all
occurrences of the pair of lowest rank before it looks for the next pair; `tokenizers` merges one occurrence at a time.
Both give the same tokens, as every token of the vocabulary is the result of one merge only, and of lower rank than the
merges that use it.
"""

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from open_clip.tokenizer import SimpleTokenizer
from tokenizers.models import BPE
from torch import Tensor

from curate.embed.model.cut import cut

READ_FIRST = (600, 2_000)
"""Most characters of a caption that are read before the whole is: the tokens of a context mostly come from fewer."""

_CACHED = 32
"""Characters of the longest word whose tokens are remembered."""

_BLANK_LINES = re.compile(r"^[ \t\r\x00-\x08\x0b\x0e-\x1f\x7f\ufeff]*\n", re.MULTILINE)
"""Lines without tokens, which ftfy would read one by one."""

_LAST_SPACE = re.compile(r"\s(?=\S*$)")


def bounded(tokenizer: Any) -> Callable[[Sequence[str]], Tensor]:
    """Returns a function that tokenizes texts as `tokenizer` does, int64[n, context], after `cut`.

    Args:
        tokenizer: as `open_clip.get_tokenizer` returns it. Those of Hugging Face tokenize the cut text themselves.
    """
    # Types are compared exactly: a subclass may compute something else.
    if type(tokenizer) is SimpleTokenizer and tokenizer.reduction_fn is None:
        tokenizer = BytePairs(tokenizer)
    return lambda texts: tokenizer([cut(text) for text in texts])


class BytePairs:
    """Tokenizes texts as a `SimpleTokenizer` without a reduction mask."""

    def __init__(self, tokenizer: SimpleTokenizer) -> None:
        merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)
        self._model = BPE(vocab=tokenizer.encoder, merges=merges, end_of_word_suffix="</w>")
        self._special = {tokenizer.decoder[token]: token for token in tokenizer.all_special_ids}
        self._clip = tokenizer
        self._remembered = functools.lru_cache(maxsize=1 << 16)(self._merged)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Returns int64[n, context]: start token, tokens, end token, zeros; cut to the context, the end token kept."""
        clip = self._clip
        context = int(clip.context_length)
        tokens = torch.zeros(len(texts), context, dtype=torch.long)
        for row, text in enumerate(texts):
            whole = [clip.sot_token_id, *self._encoded(text, context - 2)[: context - 2], clip.eot_token_id]
            tokens[row, : len(whole)] = torch.tensor(whole)
        return tokens

    def _encoded(self, text: str, most: int) -> list[int]:
        """Returns the first `most` tokens of a text, or more, or all where there are fewer."""
        tokens: list[int] = []
        for beginning in _beginnings(_BLANK_LINES.sub("", text)):
            tokens = []
            for word in self._clip.pat.finditer(self._clip.clean_fn(beginning)):
                tokens += self._remembered(word[0]) if len(word[0]) <= _CACHED else self._merged(word[0])
                if len(tokens) > most:
                    return tokens
        return tokens

    def _merged(self, word: str) -> list[int]:
        if word in self._special:
            return [self._special[word]]
        encoder = self._clip.byte_encoder
        return [token.id for token in self._model.tokenize("".join(encoder[byte] for byte in word.encode()))]


def _beginnings(text: str) -> Iterator[str]:
    """Yields beginnings of a text that end with a word; at last the whole text."""
    for length in READ_FIRST:
        if length < len(text):
            last = _LAST_SPACE.search(text, 0, length)
            if last:
                # ftfy resolves no escapes in a line with "<", which it takes for HTML.
                is_html = last[0] != "\n" and "<" in text[last.end() :].partition("\n")[0]
                yield f"{text[: last.end()]}{'<' if is_html else ''}"
    yield text
