"""Dataset on disk -> shards, by `python -m sharding NAME ...`: one reader a dataset, one writer for all.

tree.py     a source: a folder or zip files
readers/    which image belongs to which label, per dataset (one file each, and one dict)
plan.py     which sample goes into which shard, before anything is written
shard.py    one planned shard to one tar and its index; runs in a worker process
bad_samples.py, reuse.py   what is bad, and what is kept for the next try
workers.py  many shards in parallel processes
writer.py   the whole dataset: whole or not at all, continued where a run stopped
"""
