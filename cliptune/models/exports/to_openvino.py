"""A folder for OpenVINO: each tower as `openvino_model.xml`, with what its inputs are made by."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from cliptune.extras import import_openvino
from cliptune.models.artifact import TOWERS
from cliptune.models.exports.to_open_clip import config_for
from cliptune.models.loading import ClipModel
from cliptune.models.names import CONFIG_FILE
from cliptune.models.onnx import export_towers
from cliptune.models.tokenizers import save_text_config, save_tokenizer

USAGE = """
import openvino

core = openvino.Core()
text = core.compile_model("clip-text/openvino_model.xml", "CPU")  # input_ids int64 [N, L]
vision = core.compile_model("clip-vision/openvino_model.xml", "CPU")  # pixel_values [N, 3, H, W]
"""


def write_openvino(model: ClipModel, folder: Path) -> None:
    """Write `model` into the empty folder `folder`, in float32.

    Raises:
        Unavailable: `cliptune[openvino]` is not installed.
    """
    openvino = import_openvino("export to OpenVINO")
    with tempfile.TemporaryDirectory() as scratch:
        for tower in TOWERS:
            (Path(scratch) / tower).mkdir()
            (folder / tower).mkdir()
        export_towers(model, Path(scratch))
        for tower in TOWERS:
            converted = openvino.convert_model(Path(scratch) / tower / "model.onnx")
            target = folder / tower / "openvino_model.xml"
            openvino.save_model(converted, target, compress_to_fp16=False)
    save_tokenizer(model.tokenizer, folder / "tokenizer", model.folder)
    save_text_config(model.clip, folder / "tokenizer")
    written = {
        "model_cfg": config_for(model, str(folder / "tokenizer")),
        "preprocess_cfg": model.preprocessing.to_dict(),
    }
    (folder / CONFIG_FILE).write_text(json.dumps(written, indent=2), encoding="utf-8")
