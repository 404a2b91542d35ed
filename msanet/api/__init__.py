"""The Python API: what `import msanet` gives, and what the commands of msanet.cli call once they have read their words."""
