"""What a file really is, by its first bytes.

A model's file is often something else under the right name: a pointer of Git LFS, the web page of a download, an
archive, a model of another framework. The readers of TNN's files and of ONNX refuse these with an error of their
syntax; :func:`identified` says instead what the file is and what to do about it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tnn_serving.errors import FormatError
from tnn_serving.formats.reading import opened

HEAD_BYTES = 4096
"""How much of a file is looked at."""

BEGINNING = 60
"""How many characters of a text a message shows."""

FileSource = str | os.PathLike[str] | bytes


@dataclass(frozen=True, slots=True)
class Content:
    """A kind of file: its name in a sentence, and what to do about such a file in a model's place."""

    name: str
    advice: str


_SWAPPED = "the .tnnproto is the text, the .tnnmodel the binary file: they may be swapped"
_UNPACK = "unpack it and give the files in it"
_EXPORT = "export the network to ONNX, or convert it with TNN's converter"
_DOWNLOAD = "the download saved a page instead of the file: use the address of the file itself"
_ANSWER = "a server's error message may have been saved instead of the file: look into it"
_AGAIN = "the copy or download did not finish: get the file again"
_BINARY = "a copy or download in text mode has damaged it: get the file again in binary mode"
_METADATA = "the model is in the file of the same name without `._` in front"

TNNPROTO = Content("a .tnnproto", _SWAPPED)
TNNMODEL = Content("a .tnnmodel", _SWAPPED)
ONNX = Content("an ONNX model", "give it the suffix .onnx: ONNX models are served too")

_LFS = Content("a Git LFS pointer", "`git lfs pull` fetches the file")
_ZIP = Content("a zip archive", _UNPACK)
_PYTORCH = Content("a PyTorch checkpoint", _EXPORT)
_MAC_METADATA = Content("metadata that macOS keeps beside a file (AppleDouble)", _METADATA)
_EMPTY = Content("an empty file", _AGAIN)
_ZEROS = Content("a file of zero bytes", _AGAIN)
_CRLF = Content("a binary file with every line feed replaced by CRLF", _BINARY)
_RECODED = Content("a .tnnmodel recoded as text", _BINARY)
_UTF16 = Content("UTF-16 text", "save it as UTF-8")
_HTML = Content("an HTML page", _DOWNLOAD)
_XML = Content("an XML document", _ANSWER)
_JSON = Content("a JSON document", _ANSWER)
_TEXT = Content("a text file", _ANSWER)
_OPENVINO = Content("an OpenVINO model", _EXPORT)
_LINK = Content("the path of another file", "Git writes a link so where it cannot make one: copy the file itself")

_SIGNATURES: tuple[tuple[int, bytes, Content], ...] = (
    (0, b"version https://git-lfs.github.com/spec/", _LFS),
    (0, b"version https://hawser.github.com/spec/", _LFS),
    (0, b"# xet version", Content("a pointer of Git Xet", "`git xet checkout` fetches the file")),
    (0, b"/annex/objects/", Content("a git-annex pointer", "`git annex get` fetches the file")),
    (0, b"\x1f\x8b", Content("gzip data", "unpack it: `gunzip`, or `tar -xzf` for a .tar.gz")),
    (0, b"BZh", Content("bzip2 data", "unpack it: `bunzip2`, or `tar -xjf` for a .tar.bz2")),
    (0, b"\xfd7zXZ\0", Content("xz data", "unpack it: `unxz`, or `tar -xJf` for a .tar.xz")),
    (0, b"\x28\xb5\x2f\xfd", Content("Zstandard data", "unpack it: `unzstd`, or `tar --zstd -xf` for a .tar.zst")),
    (0, b"\x04\x22\x4d\x18", Content("LZ4 data", "unpack it: `unlz4`")),
    (257, b"ustar", Content("a tar archive", "unpack it with `tar -xf` and give the files in it")),
    (0, b"7z\xbc\xaf\x27\x1c", Content("a 7z archive", _UNPACK)),
    (0, b"Rar!\x1a\x07", Content("a RAR archive", _UNPACK)),
    (0, b"PK\x05\x06", Content("an empty zip archive", _AGAIN)),
    (0, b"PK\x07\x08", _ZIP),
    (0, b"\x89HDF\r\n\x1a\n", Content("an HDF5 file, such as a Keras model", _EXPORT)),
    (4, b"TFL3", Content("a TensorFlow Lite model", _EXPORT)),
    (4, b'\0\0\0\0{"', Content("a safetensors file", _EXPORT)),
    (0, b"GGUF", Content("a GGUF file", "such language models are not supported")),
    (0, b"7767517", Content("an ncnn .param", _EXPORT)),
    (0, b"\x93NUMPY", Content("a NumPy array", _EXPORT)),
    (0, b"\x89PNG\r\n\x1a\n", Content("a PNG picture", "give the model's file")),
    (0, b"\xff\xd8\xff", Content("a JPEG picture", "give the model's file")),
    (0, b"GIF8", Content("a GIF picture", "give the model's file")),
    (0, b"%PDF-", Content("a PDF document", "give the model's file")),
    (0, b"\x7fELF", Content("a program or library (ELF)", "give the model's file")),
    (0, b"\0\x05\x16\x07", _MAC_METADATA),
    (0, b"\0\x05\x16\0", _MAC_METADATA),
    (0, b"\0\0\0\1Bud1", Content("a .DS_Store of macOS", "give the model's file")),
    (0, b"bplist00", Content("a property list of macOS", "give the model's file")),
    (0, b"L\0\0\0\1\x14\x02\0", Content("a Windows shortcut", "give the file that it points to")),
    (0, b"[InternetShortcut]", Content("an internet shortcut", _DOWNLOAD)),
    (0, b"\xff\xfe\0\0", Content("UTF-32 text", "save it as UTF-8")),
    (0, b"\0\0\xfe\xff", Content("UTF-32 text", "save it as UTF-8")),
)
"""Offset and bytes of what cannot begin a file of TNN's or ONNX."""

# The zip archives of PyTorch: torch.save writes NAME/data.pkl first, TorchScript NAME/data/0 or NAME/code.
_PYTORCH_ENTRY = re.compile(rb"PK\x03\x04.{26}[^/]+/(data\.pkl|data/|code/|constants|version|byteorder|\.)", re.DOTALL)
# Protocols 2 to 5; the byte behind is an operation, which keeps the number of a .tnnmodel's entries apart.
_PICKLE = re.compile(rb"\x80[\x02-\x05][^\0]")
# ir_version, then one of the fields of a ModelProto in the order of their numbers.
_ONNX = re.compile(rb"\x08[\x01-\x3f][\x12\x1a\x22\x28\x32\x3a\x42\x72]|\s*ir_version: ")
_TNNMODEL = re.compile(rb"[\x02\x04]\0\xbc\xfa")
# The same four bytes behind a conversion from Latin-1 to UTF-8, or with U+FFFD for what is not UTF-8.
_TNNMODEL_AS_TEXT = re.compile(rb"[\x02\x04]\0(\xc2\xbc\xc3\xba|\xef\xbf\xbd)")
_TNNPROTO = re.compile(rb'[\s"]*([^\s",]+ ){3}"?420662477[02]\b')
_MARKUP = re.compile(rb"<[?!a-zA-Z]")
_HTML_TAG = re.compile(rb"<(!doctype html|html|head|body|script)\b", re.IGNORECASE)
_JSON_START = re.compile(rb"[{\[]\s*[\"{}\[\]\w-]")
_PATH = re.compile(rb"[^\r\n\t,\"<>]{1,1000}\.(tnnproto|tnnmodel|onnx)", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")


def identify(head: bytes) -> Content | None:
    """What a file is whose first :data:`HEAD_BYTES` these are; ``None`` if they do not tell."""
    if not head:
        return _EMPTY
    for at, signature, content in _SIGNATURES:
        if head.startswith(signature, at):
            return content
    if head.startswith(b"PK\3\4"):
        return _PYTORCH if _PYTORCH_ENTRY.match(head) else _ZIP
    if _PICKLE.match(head):
        return Content("a Python pickle, such as an old PyTorch checkpoint", _EXPORT)
    if len(head) > 4 and not any(head):
        return _ZEROS
    if _is_utf16(head):
        return _UTF16
    if _TNNMODEL_AS_TEXT.match(head):
        return _RECODED
    if not _is_text(head):
        if 4 <= head.count(b"\n") == head.count(b"\r\n"):
            return _CRLF
        return TNNMODEL if _TNNMODEL.match(head) else ONNX if _ONNX.match(head) else None
    return _text(head.removeprefix(b"\xef\xbb\xbf").strip())


def _text(text: bytes) -> Content | None:
    if _MARKUP.match(text):
        return _HTML if _HTML_TAG.search(text) else _OPENVINO if b"<net " in text else _XML
    if _JSON_START.match(text):
        return _JSON
    if _PATH.fullmatch(text):
        return _LINK
    return TNNPROTO if _TNNPROTO.match(text) else ONNX if _ONNX.match(text) else None


def _is_text(head: bytes) -> bool:
    """Whether these are characters of UTF-8, the last of which may be cut, and no control characters."""
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            return False
        text = head[: error.start].decode("utf-8")
    return not _CONTROL.search(text)


def _is_utf16(head: bytes) -> bool:
    """Whether nearly every second byte is 0, as in UTF-16 of ASCII characters, and no other one."""
    body = head[2:] if head.startswith((b"\xff\xfe", b"\xfe\xff")) else head
    even, odd = body[::2], body[1::2]
    halves = ((even, odd), (odd, even))
    return len(odd) > 1 and any(0 not in ascii and high.count(0) >= 0.9 * len(high) for ascii, high in halves)


@contextmanager
def identified(source: FileSource, wanted: Content) -> Iterator[None]:
    """Says of a file that cannot be read as ``wanted`` what it is instead, where its first bytes tell.

    Raises:
        FormatError: of the class that reading raised, naming the content and what to do; or the error of reading.
    """
    try:
        yield
    except FormatError as error:
        head = head_of(source)
        if head is None:
            raise
        found, beginning = identify(head), None
        if found is None and wanted is not TNNPROTO and _is_text(head):
            found, beginning = _TEXT, repr(head.decode("utf-8", "replace").strip()[:BEGINNING])
        if found is None or found is wanted:
            raise
        raise type(error)(f"{found.name}, not {wanted.name}", found=beginning, hint=found.advice) from error


def head_of(source: FileSource) -> bytes | None:
    """The first :data:`HEAD_BYTES` of a file; ``None`` for what is no file or cannot be read."""
    if isinstance(source, bytes):
        return source[:HEAD_BYTES]
    try:
        with opened(source) as (file, _):
            return file.read(HEAD_BYTES)
    except FormatError:
        return None
