"""DXC, the compiler of HLSL for DX12, at the orders of src/backend/wgpu/translate.rs.

    dxc.py LIBRARY < TEXTS

Each line of TEXTS is JSON: a compute shader as `text`, the name of its function as `entry`, and whether it uses 16-bit floats as `f16`. Answers with a line of JSON
for each: null, or what DXC says against it.
"""

import ctypes
import json
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from ctypes import POINTER, byref, c_char_p, c_int32, c_size_t, c_uint32, c_void_p, c_wchar_p

# As wgpu calls it, for the least of the shader models that have what a shader uses.
ARGUMENTS = ["-HV", "2018", "-no-warnings", "-Ges"]
UTF8 = 65001
# Of dxcapi.h: the class of the compiler, and the interfaces IDxcCompiler3 and IDxcResult.
COMPILER = "73e22d93-e6ce-47f3-b5bf-f0664f39c1b0"
COMPILER3 = "228b4687-5a6a-4730-900c-9702b2203f54"
RESULT = "58346cda-dde7-4497-9461-6f87af5e0659"


class Source(ctypes.Structure):
    """DxcBuffer."""

    _fields_ = [("text", c_char_p), ("size", c_size_t), ("encoding", c_uint32)]


def guid(text):
    return (ctypes.c_ubyte * 16)(*uuid.UUID(text).bytes_le)


def method(this, index, result, *types):
    """The method at a place in the table of a COM object."""
    table = ctypes.cast(ctypes.cast(this, POINTER(c_void_p))[0], POINTER(c_void_p))
    function = ctypes.CFUNCTYPE(result, c_void_p, *types)(table[index])
    return lambda *arguments: function(this, *arguments)


def succeed(code):
    if code < 0:
        raise OSError(f"DXC fails with {code & 0xFFFFFFFF:#x}")


class Dxc:
    """One compiler; each thread needs its own."""

    def __init__(self, library):
        create = ctypes.CDLL(library).DxcCreateInstance
        create.restype = c_int32
        self.compiler = c_void_p()
        succeed(create(guid(COMPILER), guid(COMPILER3), byref(self.compiler)))

    def check(self, text, entry, f16):
        """None, or what is wrong with the function `entry` of a text."""
        source = text.encode()
        source = Source(source, len(source), UTF8)
        model = ["-T", "cs_6_2", "-enable-16bit-types"] if f16 else ["-T", "cs_6_0"]
        arguments = ["-E", entry, *model, *ARGUMENTS]
        arguments = (c_wchar_p * len(arguments))(*arguments)
        result, status, errors = c_void_p(), c_int32(), c_void_p()
        compile = method(self.compiler, 3, c_int32, c_void_p, c_void_p, c_uint32, c_void_p, c_void_p, c_void_p)
        succeed(compile(byref(source), arguments, len(arguments), None, guid(RESULT), byref(result)))
        succeed(method(result, 3, c_int32, c_void_p)(byref(status)))
        succeed(method(result, 5, c_int32, c_void_p)(byref(errors)))
        message = ctypes.string_at(method(errors, 3, c_void_p)(), method(errors, 4, c_size_t)()) if errors else b""
        for used in (errors, result):
            if used:
                method(used, 2, c_uint32)()  # Release
        return None if status.value >= 0 else message.decode(errors="replace").rstrip("\0\n") or hex(status.value)


def main():
    local = threading.local()

    def check(line):
        if not hasattr(local, "dxc"):
            local.dxc = Dxc(sys.argv[1])
        return local.dxc.check(**json.loads(line))

    with ThreadPoolExecutor() as threads:
        for answer in threads.map(check, sys.stdin.read().splitlines()):
            print(json.dumps(answer))


main()
