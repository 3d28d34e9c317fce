"""The formats in which models come: from what lies at a name to a config and weights.

`source` finds which format it is; `checkpoints` and `torchscript` read files of weights without
running code; `openclip_folder`, `huggingface` and `openai` say what each format means.
"""
