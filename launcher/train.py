"""Train a segmentation network.

    deepspeed launcher/train.py --config jobs/recipes/camvid.yaml data.path=SHARDS run.dir=RUN [key=value ...]

`deepspeed` may be left out (one process). The same command again resumes. A signal makes a run save and end with code 75.
"""

import msanet.whole_imports  # noqa: F401
from msanet import distributed
from msanet.cli import train_config
from msanet.distributed.supervisor import supervise
from msanet.training.train import train

if __name__ == "__main__":
    settings = supervise(train_config(__doc__))
    with distributed.session(settings.run.timeout):
        train(settings)
