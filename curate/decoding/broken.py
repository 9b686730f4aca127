"""The exceptions by which Pillow reports that bytes are not a picture that it can decode."""

import struct
import zlib

from PIL import Image

BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    EOFError,
    ArithmeticError,
    AttributeError,
    NotImplementedError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow's decoders raise on broken bytes, known from its code and from fuzzing; mostly OSError."""
