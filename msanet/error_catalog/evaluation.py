"""Codes of errors in evaluation, statistics and reports."""

from msanet.error_catalog.entry import Entry

ENTRIES: dict[str, Entry] = {
    "MSA-EVAL-001": Entry(
        "The network's confidence is NaN: its weights are not finite or it has diverged.",
        "Use an earlier checkpoint.",
    ),
    "MSA-EVAL-002": Entry(
        "A prediction is void (255) on a labeled pixel, which the protocol does not allow.",
        "Predict a class everywhere, or choose another `evaluation.protocol`.",
    ),
    "MSA-EVAL-003": Entry(
        "A label or a prediction contains values that are not train ids.",
        "Convert it to train ids; 255 stands for ignored pixels.",
    ),
    "MSA-EVAL-004": Entry(
        "An instance map contains an id that is not an id of Cityscapes.",
        "Use the `_instanceIds.png` that belongs to the label.",
    ),
    "MSA-EVAL-005": Entry(
        "`--merge` names a class that the dataset does not have.",
        "Fix the name; the error shows the nearest one or lists all.",
    ),
    "MSA-EVAL-006": Entry(
        "The groups of `--merge` overlap, or one has the name of a class outside it.",
        "List each class in one group only, and give the group another name.",
    ),
    "MSA-EVAL-007": Entry(
        "The per-image counts of the evaluation do not exist.",
        "Run the evaluation first; it writes `evaluation-<split>.npz`.",
    ),
    "MSA-EVAL-008": Entry(
        "The file is damaged, not written by msanet, or of another format version.",
        "Run the evaluation again.",
    ),
    "MSA-EVAL-009": Entry(
        "The per-image counts in the file contradict each other.",
        "Run the evaluation again.",
    ),
    "MSA-EVAL-010": Entry(
        "The protocol belongs to a dataset with other classes.",
        "Set `evaluation.protocol=default`.",
    ),
    "MSA-EVAL-011": Entry(
        "Some images were missed or counted more than once.",
        "Do not use these scores; run the evaluation again, and report it as a bug if it happens again.",
    ),
    "MSA-EVAL-012": Entry(
        "The two runs were evaluated on different datasets, splits or classes.",
        "Compare runs that were evaluated on the same split of the same dataset.",
    ),
    "MSA-EVAL-013": Entry(
        "The two runs were evaluated on different images.",
        "Evaluate both on the same shards.",
    ),
    "MSA-EVAL-014": Entry(
        "The labels of the same images differ between the two runs.",
        "Evaluate both on the same shards.",
    ),
    "MSA-EVAL-015": Entry(
        "The evaluation contains no images.",
        "Run the evaluation again on a split that has images.",
    ),
    "MSA-EVAL-016": Entry(
        "The image is too large for the file format.",
        "Crop the image, or remove this output from `--write`.",
    ),
    "MSA-EVAL-017": Entry(
        "The video cannot be decoded.",
        "Replace or remove the file.",
    ),
    "MSA-EVAL-018": Entry(
        "Frames cannot be written to an MPEG-4 video because of their size or rate.",
        "Write an image for each frame instead, with `--write palette`.",
    ),
}
