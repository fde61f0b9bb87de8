"""Runs NAME.onnx on the pictures NAME.u8 for every network in a folder; writes NAME.logits and NAME.probabilities, f32.

    run_onnx.py FOLDER         with onnxruntime and numpy on PYTHONPATH
"""

import pathlib
import sys

import numpy
import onnxruntime

for path in sorted(pathlib.Path(sys.argv[1]).glob("*.onnx")):
    session = onnxruntime.InferenceSession(path)
    (pictures,) = session.get_inputs()
    assert (pictures.name, pictures.type, pictures.shape[0]) == ("pictures", "tensor(uint8)", "N"), pictures
    given = numpy.fromfile(path.with_suffix(".u8"), numpy.uint8).reshape([-1, *pictures.shape[1:]])
    for name, values in zip(["logits", "probabilities"], session.run(["logits", "probabilities"], {"pictures": given})):
        values.tofile(path.with_suffix("." + name))
print("onnxruntime", onnxruntime.__version__)
