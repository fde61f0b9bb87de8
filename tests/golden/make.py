#!/usr/bin/env python3
"""Writes the fixtures that tests/golden.rs compares convoy with: PyTorch is an oracle from outside the crate.

    python3 -m venv /tmp/torch && /tmp/torch/bin/pip install torch numpy safetensors
    /tmp/torch/bin/python tests/golden/make.py --seed 0 --out tests/golden/data

Run by hand, not in CI. `--seed` changes the values and the shapes; `CONVOY_GOLDEN=DIR cargo test --release --test golden`
checks another folder. What is in a file: fixture.py.
"""

import argparse
from pathlib import Path

import fused
import mixing
import networks
import operators
import optimizers
import residual
from fixture import Maker


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="changes values and shapes (default 0)")
    parser.add_argument("--out", default=Path(__file__).parent / "data", help="folder to write (default: data/ here)")
    arguments = parser.parse_args()
    make = Maker(arguments.seed, arguments.out)
    # New ones come last: what is drawn before stays as it is.
    for part in operators.ALL + optimizers.ALL + networks.ALL + residual.ALL + mixing.ALL + fused.ALL + operators.LATER:
        part(make)
    make.write()


if __name__ == "__main__":
    main()
