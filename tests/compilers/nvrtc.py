"""NVRTC, NVIDIA's compiler of kernels, at the orders of src/backend/cuda/translate.rs.

    nvrtc.py FOLDER ARCHITECTURE... < TEXTS

Each line of TEXTS is a kernel's text, as JSON. Answers with a line of JSON for each: null, or what NVRTC of FOLDER says against it for one of the
architectures, such as sm_90.
"""

import ctypes
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from ctypes import byref, c_char_p, c_size_t, c_void_p
from pathlib import Path


class Nvrtc:
    def __init__(self, folder):
        [library] = Path(folder).glob("libnvrtc.so.*")
        self.library = ctypes.CDLL(str(library))

    def check(self, text, architecture):
        """None, or what is wrong with a text."""
        program, size = c_void_p(), c_size_t()
        if self.library.nvrtcCreateProgram(byref(program), text.encode(), b"kernel.cu", 0, None, None):
            return "NVRTC makes no program"
        options = [f"--gpu-architecture={architecture}".encode(), b"--std=c++17"]
        failed = self.library.nvrtcCompileProgram(program, len(options), (c_char_p * len(options))(*options))
        self.library.nvrtcGetProgramLogSize(program, byref(size))
        log = ctypes.create_string_buffer(size.value)
        self.library.nvrtcGetProgramLog(program, log)
        self.library.nvrtcGetCUBINSize(program, byref(size))
        self.library.nvrtcDestroyProgram(byref(program))
        if not failed and size.value == 0:
            return f"{architecture}: no machine code"
        return f"{architecture}: {log.value.decode(errors='replace')}" if failed else None


def main():
    nvrtc = Nvrtc(sys.argv[1])

    def check(line):
        answers = (nvrtc.check(json.loads(line), architecture) for architecture in sys.argv[2:])
        return next((answer for answer in answers if answer), None)

    with ThreadPoolExecutor() as threads:
        for answer in threads.map(check, sys.stdin.read().splitlines()):
            print(json.dumps(answer))


main()
