"""Codes of errors in networks, losses and weights."""

from msanet.error_catalog.entry import Entry

ENTRIES: dict[str, Entry] = {
    "MSA-MODEL-001": Entry(
        "No network has this name, or it cannot be wrapped by attention_to_scale.",
        "Choose one of the names that the error lists.",
    ),
    "MSA-MODEL-002": Entry(
        "The network does not have this option.",
        "Fix the name of the option; docs/models.md lists the options of each network.",
    ),
    "MSA-MODEL-003": Entry(
        "An option of the network has a value of the wrong type or outside its range.",
        "Give a value as the error describes it.",
    ),
    "MSA-MODEL-004": Entry(
        "A text option of the network cannot be parsed.",
        "Write it in the form that the error shows, such as `model.scales=1,0.75,0.5`.",
    ),
    "MSA-MODEL-005": Entry(
        "The wrapped network has no feature of this name.",
        "Choose one of the features that the error lists, or remove `model.features`.",
    ),
    "MSA-MODEL-006": Entry(
        "`model.attention_window` is not a multiple of `model.attention_pool`.",
        "Set the window to 0 (exact attention) or to a multiple of the pool.",
    ),
    "MSA-MODEL-007": Entry(
        "The file with the weights does not exist.",
        "Check the path; give the `model.safetensors` of a checkpoint, or the folder it lies in.",
    ),
    "MSA-MODEL-008": Entry(
        "The file with the weights cannot be read: it is damaged or truncated.",
        "Copy the file again, or use another checkpoint of the run.",
    ),
    "MSA-MODEL-009": Entry(
        "The safetensors file has no msanet metadata, so nothing says which network its weights belong to.",
        "Give the `model.safetensors` of a checkpoint written by msanet.",
    ),
    "MSA-MODEL-010": Entry(
        "The model metadata in the file is damaged.",
        "Use another checkpoint of the run.",
    ),
    "MSA-MODEL-011": Entry(
        "The model metadata describes a network that cannot be built, such as one with sizes beyond 64 bits.",
        "Use another checkpoint of the run.",
    ),
    "MSA-MODEL-012": Entry(
        "The classes of the checkpoint are not those of the dataset.",
        "Evaluate on a dataset with the same classes in the same order, or train on this one.",
    ),
    "MSA-MODEL-013": Entry(
        "The tensors in the file are those of another network.",
        "Use the checkpoint with the model settings that it was trained with.",
    ),
    "MSA-MODEL-014": Entry(
        "The checkpoint was written by a newer version of msanet, whose metadata this version cannot read.",
        "Upgrade msanet to the version that the error names, or newer.",
    ),
    "MSA-MODEL-015": Entry(
        "The file for `model.pretrained` contains neither a checkpoint of msanet nor torchvision's VGG-16, "
        "ResNet-50 or ResNet-101.",
        "Give one of these files. A Git LFS pointer has to be fetched first.",
    ),
    "MSA-MODEL-016": Entry(
        "The pretrained weights do not fit the network.",
        "Use the network that the error names, or give this one the options that the weights were trained with.",
    ),
    "MSA-MODEL-017": Entry(
        "The pretrained weights contain NaN or infinity.",
        "Use another file or an earlier checkpoint.",
    ),
    "MSA-MODEL-018": Entry(
        "The pickle contains more than tensors, and loading it could run code of whoever made it.",
        "If you trust the file, save its `state_dict` as .safetensors and give that file.",
    ),
    "MSA-MODEL-019": Entry(
        "`loss.class_weights` does not have one number for each class.",
        "Add or remove weights, or set it to `none` or `median_frequency`.",
    ),
    "MSA-MODEL-020": Entry(
        "A network with windowed attention cannot be exported for images of any size.",
        "Export it for one size of images with `--size`.",
    ),
    "MSA-MODEL-501": Entry(
        "The checkpoint's network is code of a package or file, which is imported only if you name it.",
        "If you trust that code, add `--plugin NAME` with the name that the error gives.",
    ),
    "MSA-MODEL-502": Entry(
        "The module, file, library's network or attribute that `model.name` names does not exist.",
        "Use one of the names that the error lists, or install the package.",
    ),
    "MSA-MODEL-503": Entry(
        "Importing the module that `model.name` names raised an exception.",
        "Fix that module: it has to import on its own.",
    ),
    "MSA-MODEL-504": Entry(
        "The factory that `model.name` names does not take the number of classes.",
        "Give it an argument `num_classes`.",
    ),
    "MSA-MODEL-505": Entry(
        "The library of the network is not installed; it is an optional extra.",
        "Install the extra that the error names.",
    ),
    "MSA-MODEL-506": Entry(
        "The constructor of the network raised an exception with these options.",
        "Change the options of `model`, or fix the constructor.",
    ),
    "MSA-MODEL-507": Entry(
        "The factory that `model.name` names returned something else than a `torch.nn.Module`.",
        "Return the module.",
    ),
    "MSA-MODEL-508": Entry(
        "The network raised an exception on images of every size that was tried.",
        "Fix it so that it takes (N, C, H, W) images, or change the options of `model`.",
    ),
    "MSA-MODEL-509": Entry(
        "`model.auxiliary_weights` has another length than the network has auxiliary outputs in training.",
        "Give one number for each.",
    ),
    "MSA-MODEL-510": Entry(
        "`model.classifier` does not name a module of the network.",
        "Use one of the modules that the error lists.",
    ),
    "MSA-MODEL-511": Entry(
        "The network raised an exception in a small training step.",
        "Fix it, or change the options of `model`.",
    ),
    "MSA-MODEL-512": Entry(
        "The new network's logits contain NaN or infinity.",
        "Check its initialization.",
    ),
    "MSA-MODEL-513": Entry(
        "The network's output holds no logits with one channel for each class.",
        "Return a tensor (N, num_classes, H, W), a tuple that begins with one, a mapping with `out` or `logits`, or an object with "
        "`.logits`.",
    ),
    "MSA-MODEL-514": Entry(
        "An option that the network's constructor needs is not set.",
        "Set it under `model`.",
    ),
}
