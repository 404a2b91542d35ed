"""Codes of errors in prediction, attention maps and export."""

from msanet.error_catalog.entry import Entry

ENTRIES: dict[str, Entry] = {
    "MSA-INFER-001": Entry(
        "The network has no attention maps or scale weights to write.",
        "Remove `maps` from `--write`, or use attention_to_scale or msanet with `model.attention=full`.",
    ),
    "MSA-INFER-002": Entry(
        "`--query` was given for a network whose maps do not belong to a pixel.",
        "Remove `--query`.",
    ),
    "MSA-INFER-003": Entry(
        "`--query` names a pixel outside the image.",
        "Give a row and a column inside the image, counted from 0.",
    ),
    "MSA-INFER-004": Entry(
        "The device is out of memory for one image.",
        "Set or reduce `evaluation.window`, `evaluation.window_batch`, `evaluation.resize` or `evaluation.scales`, or set "
        "`evaluation.precision=bf16`.",
    ),
    "MSA-INFER-005": Entry(
        "An optional package is not installed.",
        "Run the pip command that the error shows.",
    ),
    "MSA-INFER-006": Entry(
        "The exported model's output differs from PyTorch's, so no file was written.",
        "Choose another format with `--to`, or another version of the exporter's packages.",
    ),
    "MSA-INFER-007": Entry(
        "This version of PyTorch cannot export the network for images of any size.",
        "Export it for one size with `--size`, or upgrade PyTorch.",
    ),
    "MSA-INFER-008": Entry(
        "A file is not named like an image of the benchmark's test set.",
        "Give the files of the test set under their original names.",
    ),
    "MSA-INFER-009": Entry(
        "The network was trained on classes other than those of the benchmark.",
        "Train on the benchmark's dataset, or remove `--submission`.",
    ),
    "MSA-INFER-010": Entry(
        "The output folder contains files that the benchmark's script would take for results.",
        "Choose another folder for `--out`.",
    ),
    "MSA-INFER-011": Entry(
        "An image cannot be read.",
        "Check the file and its permissions.",
    ),
}
