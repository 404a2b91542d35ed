"""Codes of errors in reading shards: manifest, batches, pictures, storage."""

from msanet.error_catalog.entry import Entry

_COPY = "Copy the file again from where the dataset was packed, or pack the dataset again."
_IMAGE = "Replace the file or remove it from the source, and pack the dataset again."
_DIVIDE = "Use one of the values that the message lists, or another number of ranks."

ENTRIES: dict[str, Entry] = {
    "MSA-DATA-001": Entry("The dataset has no split of this name.", "Use one of the splits that the message lists."),
    "MSA-DATA-002": Entry("The folder holds no dataset.json.", "Name a folder of shards, or pack a dataset into it."),
    "MSA-DATA-003": Entry("A file of the dataset is missing.", _COPY),
    "MSA-DATA-004": Entry("The manifest or the index of a shard is damaged, or of another format version.", _COPY),
    "MSA-DATA-005": Entry(
        "A manifest or index is larger than any that msanet writes.", "Check the path: this is another file."
    ),
    "MSA-DATA-006": Entry("The ranks cannot be divided into groups of context_parallel_size.", _DIVIDE),
    "MSA-DATA-007": Entry("The global batch size is not a multiple of the number of ranks or groups.", _DIVIDE),
    "MSA-DATA-008": Entry("The micro-batch size does not divide the samples of each rank.", _DIVIDE),
    "MSA-DATA-009": Entry(
        "The training split has fewer samples than one global batch.", "Lower trainer.global_batch_size."
    ),
    "MSA-DATA-010": Entry(
        "A loader process was killed, usually because the host ran out of memory.",
        "Lower data.num_workers or data.prefetch_factor and run the same command again to resume.",
    ),
    "MSA-DATA-011": Entry("Images of different sizes cannot be batched.", "Set data.crop to one size."),
    "MSA-DATA-012": Entry("A sample has not exactly one image and one label.", "Pack the dataset again."),
    "MSA-DATA-013": Entry("The image and the label of a sample differ in size.", "Pack the dataset again."),
    "MSA-DATA-014": Entry("Bytes of a shard differ from those that were packed.", _COPY),
    "MSA-DATA-015": Entry(
        "The index of a shard belongs to another version of the shard.", "Copy the shard and its index again."
    ),
    "MSA-DATA-016": Entry("The index of a shard has samples out of order or with invalid names.", _COPY),
    "MSA-DATA-017": Entry("An image or label cannot be decoded.", _IMAGE),
    "MSA-DATA-018": Entry("An image has no pixels, or too many.", "Split it into smaller images."),
    "MSA-DATA-019": Entry("An image is stored in a way that decoders disagree about.", "Save it again as PNG."),
    "MSA-DATA-020": Entry("A label is a color image without a palette.", "Convert its colors to class ids."),
    "MSA-DATA-021": Entry("An instance map is not a 16-bit image.", "Use the *_instanceIds.png file."),
    "MSA-DATA-022": Entry(
        "The package imagecodecs, which writes tiled TIFF, is not installed.",
        "Install it, or pack with --codec original.",
    ),
    "MSA-DATA-023": Entry(
        "A label holds values that are not ids of the dataset.", "Fix the label, or choose the dataset that it is of."
    ),
    "MSA-DATA-024": Entry(
        "The address has *** where its password or key belongs, as in a file of a run.",
        "Give the complete address: data.path=... for training, --data for evaluation.",
    ),
    "MSA-DATA-025": Entry(
        "The address of the shards is not valid, or has a query, fragment or key in it.",
        "Use the plain address of a folder; percent-encode special characters of a password.",
    ),
    "MSA-DATA-026": Entry("Addresses of this kind cannot be read.", "Copy the shards to one of the kinds listed."),
    "MSA-DATA-027": Entry("The package for this kind of storage is not installed.", "Install the package named."),
    "MSA-DATA-028": Entry(
        "A file could not be downloaded before the timeout, after several attempts.",
        "Check the server and the network, or raise storage.download_timeout_seconds.",
    ),
    "MSA-DATA-029": Entry("A remote file does not exist.", "Fix data.path, or upload the file."),
    "MSA-DATA-030": Entry("The server or store denies access to a file.", "Check the credentials and permissions."),
    "MSA-DATA-031": Entry(
        "A remote file changed while the run reads it.",
        "Restore the old file, or start a new run. Write new shards into a new folder.",
    ),
    "MSA-DATA-032": Entry("The server answered with an unexpected HTTP status.", "Fix data.path."),
    "MSA-DATA-033": Entry("A remote file is shorter than the manifest says.", "Upload the shard again."),
    "MSA-DATA-034": Entry(
        "The server ignores Range requests, so every read would transfer a complete shard.",
        "Use a server that serves ranges, or copy the shards to a local folder.",
    ),
    "MSA-DATA-035": Entry(
        "The address cannot be reached as given: its redirects, certificate or request is refused.",
        "Fix data.path; name the certificate of the server in SSL_CERT_FILE.",
    ),
    "MSA-DATA-036": Entry(
        "The proxy in the environment is of a kind that is not supported.",
        "Use an http:// or https:// proxy, or add the server to no_proxy.",
    ),
    "MSA-DATA-037": Entry(
        "The cache folder belongs to another user.", "Set storage.cache_dir to a folder of your own on a local disk."
    ),
    "MSA-DATA-038": Entry("A shard or index that the manifest lists cannot be opened.", _COPY),
    "MSA-DATA-039": Entry("A shard cannot be read from the disk.", "Check the disk, or copy the shard again."),
    "MSA-DATA-101": Entry(
        "A photo has more than 8 bits per channel, of which most levels would be lost.",
        "Convert it to 8 bits over the range of values that matters, for all photos of a dataset in the same way.",
    ),
    "MSA-DATA-102": Entry(
        "A photo has more channels than grey, RGB and alpha, or is a stack of several pictures.",
        "Save the three channels, or the picture, that you mean as an RGB image.",
    ),
    "MSA-DATA-103": Entry(
        "All pixels of the training split are ignored, so nothing can be learned from it.",
        "Check the ids and colors of its masks (msanet inspect shows them) and pack it again, or choose another split.",
    ),
}
