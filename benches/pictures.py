#!/usr/bin/env python3
"""Reads photographs and resizes the square in their middle to 256 x 256 RGB bytes, as `convoy bench --data` does, in Python: with the
Pillow (or Pillow-SIMD) that is installed, and with torchvision if it is there. Prints milliseconds of processor time for a picture, of
one thread: the median of five passes.

    python3 -m venv /tmp/pillow && /tmp/pillow/bin/pip install pillow
    /tmp/pillow/bin/python benches/pictures.py ./pictures
"""

import io
import statistics
import sys
import time
from pathlib import Path

SIDE, MOST, PASSES = 256, 4096, 3


def pillow():
    import PIL
    from PIL import Image

    def read(data):
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        width, height = picture.size
        side = min(width, height)
        box = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
        return picture.resize((SIDE, SIDE), Image.BILINEAR, box=box).tobytes()

    return f"Pillow{'-SIMD' if 'post' in PIL.__version__ else ''} {PIL.__version__}", read


def torchvision():
    import torch
    import torchvision
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms.v2 import functional

    torch.set_num_threads(1)

    def read(data):
        picture = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
        picture = functional.center_crop(picture, min(picture.shape[1:]))
        return functional.resize(picture, [SIDE, SIDE], antialias=True)

    return f"torchvision {torchvision.__version__}", read


def main():
    files = sorted(path for path in Path(sys.argv[1]).rglob("*.jpg"))[:MOST]
    pictures = [path.read_bytes() for path in files]
    for library in [pillow, torchvision]:
        try:
            name, read = library()
        except ImportError:
            continue
        times = []
        for _ in range(PASSES):
            start = time.process_time()
            for data in pictures:
                read(data)
            times.append((time.process_time() - start) / len(pictures) * 1e3)
        print(f"{name}: {statistics.median(times):.2f} ms a picture ({min(times):.2f} to {max(times):.2f})")


if __name__ == "__main__":
    main()
