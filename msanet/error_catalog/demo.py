"""Codes of errors in the demo page."""

from msanet.error_catalog.entry import Entry

ENTRIES: dict[str, Entry] = {
    "MSA-DEMO-001": Entry(
        "The request for maps is incomplete.",
        "Reload the page.",
    ),
    "MSA-DEMO-002": Entry(
        "The server keeps only the last images, and this one is not among them.",
        "Drop the image again.",
    ),
    "MSA-DEMO-003": Entry(
        "The requested pixel is outside the image.",
        "Move back over the image.",
    ),
    "MSA-DEMO-004": Entry(
        "The image has more megapixels than the page accepts.",
        "Make it smaller, or start the page with a larger `--max-megapixels`.",
    ),
    "MSA-DEMO-005": Entry(
        "A side of the image is longer than browsers can show.",
        "Cut the image into parts.",
    ),
    "MSA-DEMO-006": Entry(
        "Flask is not installed.",
        "Run `pip install 'msanet[demo]'`.",
    ),
    "MSA-DEMO-007": Entry(
        "The server cannot listen on this host and port.",
        "Choose another `--port`; 0 takes any free one.",
    ),
}
