"""Names of source files as Unicode text, which is all that a dataset holds.

Pure. File systems and buckets allow names that are no text: a POSIX name is bytes, of which Python
makes lone surrogates where they are not UTF-8.
"""

__all__ = ["unicode_name"]


def unicode_name(name: str) -> str:
    """Return a name as Unicode text: one that is not text is escaped as in a URL.

    >>> unicode_name("50 %.jpg"), unicode_name("50 %" + chr(0xDCFF) + ".jpg")
    ('50 %.jpg', '50 %25%FF.jpg')
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return "".join(map(_escaped, name))
    return name


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as Python's surrogateescape has it
        return f"%{code - 0xDC00:02X}"
    if character == "%" or 0xD800 <= code <= 0xDFFF:
        return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))
    return character
