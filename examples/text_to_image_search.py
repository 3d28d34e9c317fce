"""Text-to-image search via CLIP: fine-tune a model, watch the run, fetch the model, encode.

This is Finetuner's guide of that name, running on your own machine: `import cliptune as
finetuner`, typed documents (`DocList[ClipDoc]`) in place of DocumentArray, and the built-in
catalogue of drawn fashion products in place of a data set in somebody's cloud.

    python examples/text_to_image_search.py
"""

import os

from docarray import DocList

import cliptune as finetuner
from cliptune import ClipDoc
from cliptune.callback import EvaluationCallback, WiSEFTCallback

EPOCHS = int(os.environ.get("EPOCHS", "5"))

# --- Data ---------------------------------------------------------------------------------------
# Each document is one title with one picture of the product; several pictures of a product share
# its title, and so its label. Your own data: a CSV file, a folder of pictures, or documents:
#     finetuner.push(DocList[ClipDoc]([ClipDoc(text="red dress", uri="dress.jpg"), …]), "my-data")

train_data = finetuner.pull("catalogue-train")
eval_data = finetuner.pull("catalogue-eval")
query_data = finetuner.pull("catalogue-queries")
index_data = finetuner.pull("catalogue-index")
print(len(train_data), len(eval_data), len(query_data), len(index_data))

# --- Backbone model -----------------------------------------------------------------------------

finetuner.describe_models()

# --- Fine-tuning --------------------------------------------------------------------------------
# A run is a process of its own, and `fit` returns at once. The built-in model is small and wants
# a large learning rate; for OpenAI's CLIP (model="clip-base-en") start from 1e-5 or less.

run = finetuner.fit(
    model="builtin",
    train_data="catalogue-train",
    eval_data="catalogue-eval",
    epochs=EPOCHS,
    learning_rate=5e-4,
    loss="CLIPLoss",
    device="cpu",
    to_onnx=True,
    callbacks=[
        EvaluationCallback(
            model="clip-text",
            index_model="clip-vision",
            query_data="catalogue-queries",
            index_data="catalogue-index",
            gather_examples=True,
        )
    ],
)

# --- Monitoring ---------------------------------------------------------------------------------

print(run.status())
for entry in run.stream_logs():
    print(entry)

# From another process, or on another day:
run = finetuner.get_run(run.name)
print(run.status())

# --- Evaluating ---------------------------------------------------------------------------------

print(run.logs())
run.display_metrics()
run.display_examples(k=3)  # some queries' results, kept by gather_examples

# --- Saving -------------------------------------------------------------------------------------

artifact = run.save_artifact("clip-model")
print(artifact)

# --- Inference ----------------------------------------------------------------------------------
# A picture is given by its bytes, a local path or a `data:` URI; nothing is fetched from the web.

text_da = DocList[ClipDoc]([ClipDoc(text="some text to encode")])
image_da = DocList[ClipDoc]([ClipDoc(image=index_data[0].image, uri=index_data[0].uri)])

clip_text_encoder = finetuner.get_model(artifact=artifact, select_model="clip-text")
clip_image_encoder = finetuner.get_model(artifact=artifact, select_model="clip-vision")

finetuner.encode(model=clip_text_encoder, data=text_da)
finetuner.encode(model=clip_image_encoder, data=image_da)

print(text_da.embedding[0].shape)  # (256,)
print(image_da.embedding[0].shape)  # (256,)

# --- Inference with ONNX ------------------------------------------------------------------------
# Without `select_model` both towers come, and each document goes through the right one.

model = finetuner.get_model(artifact, is_onnx=True)
both = finetuner.encode(model=model, data=text_da + image_da)
print(both.embedding[0] @ both.embedding[1])  # the cosine of the text and the picture

# --- WiSE-FT ------------------------------------------------------------------------------------
# Mixes the weights of the pre-trained and the fine-tuned model (alpha 0 and 1 are these two), to
# keep what the pre-trained one knew beyond your data.

run = finetuner.fit(
    model="builtin",
    train_data="catalogue-train",
    eval_data="catalogue-eval",
    epochs=EPOCHS,
    learning_rate=5e-4,
    loss="CLIPLoss",
    device="cpu",
    callbacks=[
        EvaluationCallback(query_data="catalogue-queries", index_data="catalogue-index"),
        WiSEFTCallback(alpha=0.5),
    ],
)
print(run.wait())
run.display_metrics()
print(run.save_artifact("clip-model"))
