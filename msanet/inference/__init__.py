"""A trained network applied to images: predictor, writers, attention maps, CRF, submissions, export."""
