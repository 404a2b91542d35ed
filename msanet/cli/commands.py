"""Every command of `msanet`, in the order of its help."""

GROUPS: dict[str, dict[str, str]] = {
    "Data": {
        "pack": "turn a dataset on disk into shards",
        "verify": "check every byte of packed shards",
        "inspect": "show what packed shards contain, or what a training sees of them, as tables and a sheet of samples",
        "generate": "draw street scenes in the layout of Cityscapes, to try things out without a download",
    },
    "Training": {
        "train": "train a segmentation network, or resume its training",
        "sweep": "search for good settings by many trainings (Ray Tune)",
        "doctor": "check data and settings before a training is started",
        "replay": "repeat a training step that failed, and find where",
        "recipes": "list the recipes that --config takes by name, or print one",
    },
    "Evaluation": {
        "evaluate": "evaluate a trained network on a split",
        "score": "score label maps that any program predicted: all figures of an evaluation, without a network",
        "rescore": "compute the metrics of an evaluation again, by another protocol or with merged classes",
        "compare": "compare two evaluations on the same images, with confidence intervals",
        "worst": "list the images with the lowest IoU of an evaluation",
    },
    "Use": {
        "predict": "segment images, GeoTIFFs and videos",
        "export": "export a trained network as ONNX, OpenVINO, torch.export or safetensors, also in int8",
        "push": "push a trained network, with its scores, to a repository of the Hugging Face Hub",
        "pull": "download a network that was pushed to the Hugging Face Hub",
        "serve": "serve a page in which to drop images and see their segmentation",
        "demo": "generate, pack, train, evaluate: all of it on this machine, in minutes",
    },
}
"""Title -> commands of this group, each with its purpose in one line. Command NAME is `main` of msanet/cli/NAME.py."""

COMMANDS = {name: purpose for group in GROUPS.values() for name, purpose in group.items()}

DISTRIBUTED = ("train", "evaluate")
"""Commands that run on any number of ranks: an interrupt (Ctrl-C) ends a rank at once until a training handles it itself."""

RESUMABLE = ("pack", "demo")
"""Commands that continue where they were interrupted."""
