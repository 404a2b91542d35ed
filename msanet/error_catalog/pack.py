"""Codes of errors in datasets on disk, and in packing, verifying and inspecting shards."""

from msanet.error_catalog.entry import Entry

_AGAIN = "Download or extract it again."
_REPLACE = "Replace the file or remove it from the source."

ENTRIES: dict[str, Entry] = {
    "MSA-PACK-001": Entry("The source does not exist.", "Check the path given as --source."),
    "MSA-PACK-002": Entry(
        "The source is neither a folder nor zip files.", "Give one folder, or one or more zip files, as --source."
    ),
    "MSA-PACK-003": Entry(
        "The source is not laid out as this dataset.",
        "Name the folder that holds the layout shown, or another dataset.",
    ),
    "MSA-PACK-004": Entry(
        "The source holds several versions of the dataset.", "Choose one with the option that the message names."
    ),
    "MSA-PACK-005": Entry("A file of the source does not exist.", "Restore the file."),
    "MSA-PACK-006": Entry(
        "A file of the source cannot be read for now.",
        "Check its permissions and the disk, then run the same command again to continue.",
    ),
    "MSA-PACK-007": Entry("A file of the source is too large to be an image or label.", _REPLACE),
    "MSA-PACK-008": Entry("A zip file of the source is damaged or encrypted.", _AGAIN),
    "MSA-PACK-009": Entry("A source names a file outside of itself.", "Fix the name in the archive or list."),
    "MSA-PACK-010": Entry("The --out path is a file or a mount point.", "Choose a new folder."),
    "MSA-PACK-011": Entry(
        "The --out folder holds something other than the result of this command.",
        "Choose another --out, or remove the folder.",
    ),
    "MSA-PACK-012": Entry("The folder for incomplete output holds files that msanet did not write.", "Move them away."),
    "MSA-PACK-013": Entry("Another process is packing into the same folder.", "Wait for it or stop it."),
    "MSA-PACK-014": Entry(
        "A worker process was killed, usually because the host ran out of memory.",
        "Run the same command again, with fewer --workers if memory ran out.",
    ),
    "MSA-PACK-015": Entry("The description of the dataset has an invalid name.", "Fix its description."),
    "MSA-PACK-016": Entry("The name of a split cannot be a file name.", "Rename the split."),
    "MSA-PACK-017": Entry("A split has no images.", "Check the source, or choose other --splits."),
    "MSA-PACK-018": Entry("Two samples of a split have the same name.", "Rename or remove one of them."),
    "MSA-PACK-020": Entry("The size of a shard is not a size.", "Write it like 64MB or 1GB."),
    "MSA-PACK-021": Entry("The dataset has no split of this name.", "Use one of the splits that the message lists."),
    "MSA-PACK-022": Entry("An image has no label map.", "Add the label maps, or choose other --splits."),
    "MSA-PACK-023": Entry(
        "An image has no instance map.", "Add the instance maps, or remove the split from --instances."
    ),
    "MSA-PACK-024": Entry("A label or instance map differs in size from its image.", "Replace one of them."),
    "MSA-PACK-025": Entry("An image has an unknown file extension.", "Convert it to one of the formats listed."),
    "MSA-PACK-027": Entry("An image or label of the source is damaged or incomplete.", _REPLACE),
    "MSA-PACK-028": Entry("A MATLAB file of the source cannot be read.", _AGAIN),
    "MSA-PACK-029": Entry("A package that this dataset needs is not installed.", "Install the package named."),
    "MSA-PACK-031": Entry("The classes file is not valid.", "Write it like the example in the message."),
    "MSA-PACK-032": Entry("The classes file has an id, name or color twice.", "Fix the file."),
    "MSA-PACK-033": Entry("The classes file has the name of a built-in dataset.", "Choose another name."),
    "MSA-PACK-034": Entry(
        "The JSON of a sample contradicts its key, index or image.", "Copy the shard again, or pack the dataset again."
    ),
    "MSA-PACK-035": Entry(
        "A label has a color that the classes file does not list.",
        "Add the color to a class or to ignore, or fix the label.",
    ),
    "MSA-PACK-036": Entry("An annotation file of MS-COCO cannot be read.", _AGAIN),
    "MSA-PACK-037": Entry(
        "Objects are of categories that their file does not have, or splits disagree about the categories.",
        "Fix the categories of the annotation files.",
    ),
    "MSA-PACK-038": Entry("Images or annotations of MS-COCO are missing.", "Restore them."),
    "MSA-PACK-039": Entry(
        "--subset names a split that is not packed, or more images than it has.", "Fix the split, or ask for fewer."
    ),
    "MSA-PACK-040": Entry("An object of MS-COCO cannot be drawn.", "Fix the annotation or remove the object."),
    "MSA-PACK-041": Entry("A list names an image that the source does not have.", "Restore the files or fix the list."),
    "MSA-PACK-042": Entry("--pool is not usable as given.", "Give it alone, with a share between 0 and 1."),
    "MSA-PACK-043": Entry("The folder is not SBD.", "Name the folder benchmark_RELEASE as --sbd."),
    "MSA-PACK-044": Entry("There are no lists of images.", "Copy them there, or name their folder with --lists."),
    "MSA-PACK-045": Entry("An annotation has an unknown part of a person.", "Replace the file."),
    "MSA-PACK-046": Entry("An option is out of range.", "Choose a value in the range that the message gives."),
    "MSA-PACK-047": Entry("A sample that should be shown is damaged.", "See all errors with the verify command."),
    "MSA-PACK-048": Entry(
        "A dataset differs from what was packed.",
        "Copy the shards named again with their indexes, move foreign files away, or pack the dataset again.",
    ),
    "MSA-PACK-049": Entry("A sample differs from its index.", "Copy the shard again, or pack the dataset again."),
    "MSA-PACK-050": Entry("A packed label has values that are not classes.", "Pack the dataset again."),
    "MSA-PACK-101": Entry(
        "A mask has lossy compression, which changes the values at every edge.",
        "Export the masks again as PNG; a JPEG that is converted to PNG keeps its wrong values.",
    ),
    "MSA-PACK-102": Entry(
        "A mask's values, channels or pages cannot be ids of classes.",
        "Save one image with the class of each pixel as a value from 0 to 255.",
    ),
    "MSA-PACK-103": Entry(
        "The palette of a mask fits neither the ids nor the colors of the classes.",
        "Add its colors to the classes file, remove the colors there if the indices are the ids, or save the mask as grey ids.",
    ),
    "MSA-PACK-104": Entry(
        "A grey mask holds values unlike the other masks, which hold 0 and 255 or colors of classes.",
        "Threshold masks with smoothed edges; give all masks the same values; `ignore: [255]` in the classes file says that "
        "the values are ids and 255 does not count.",
    ),
    "MSA-PACK-105": Entry(
        "Transparent and opaque pixels of a mask have the same color, so that it is not known which one is meant.",
        "Save the mask without an alpha channel.",
    ),
    "MSA-PACK-106": Entry(
        "A photo in a shard has an EXIF orientation that was not applied when an earlier version packed it.",
        "Pack the dataset again; photos are turned upright then.",
    ),
    "MSA-PACK-201": Entry(
        "Several samples of the source are bad; each has its own line with the code of its fault.",
        "Fix or replace the files in bad-samples.jsonl and run the same command again, which continues; or add --skip-bad.",
    ),
    "MSA-PACK-202": Entry(
        "Most samples of a shard are bad, so that packing the others would make no sense.",
        "Check that the source, its labels and the options belong together.",
    ),
    "MSA-PACK-203": Entry(
        "More samples are bad than --max-bad-fraction allows, or all of a split.",
        "Fix the files in bad-samples.jsonl, or raise --max-bad-fraction.",
    ),
    "MSA-PACK-204": Entry("A list of images is not a text file.", "Replace it by a list with one name a line."),
    "MSA-PACK-205": Entry(
        "The file in which an annotation tool lists its classes is not valid.",
        "Fix it, or say the classes with --classes.",
    ),
    "MSA-PACK-206": Entry(
        "The folder of masks holds other files: polygons, boxes or tables.", "Export the annotations as masks."
    ),
    "MSA-PACK-207": Entry(
        "Nothing says what the values or colors of the masks are.", "Write a classes file and give it as --classes."
    ),
    "MSA-PACK-208": Entry(
        "A folder is laid out as PASCAL VOC, but has other classes.",
        "Pack it as `folder`, which reads the classes from the file that the annotation tool wrote.",
    ),
    "MSA-PACK-209": Entry(
        "An annotation file of MS-COCO's form has two images or categories of one id or name.",
        "Fix the file, or export it again.",
    ),
    "MSA-PACK-210": Entry(
        "No object of an annotation file has an outline: it was made for detection.", "Export the segmentation."
    ),
}
