"""Train a segmentation network.

    deepspeed launcher/train.py --config jobs/recipes/camvid.yaml data.path=SHARDS run.dir=RUN [key=value ...]

`deepspeed` may be left out (one process). The same command again goes on. A signal makes a run save and end with code 75.
"""

from tqdm import tqdm

import msanet.whole_imports  # noqa: F401
from msanet import distributed
from msanet.command_line import train_config
from msanet.config import Config
from msanet.data.source import ShardSource, read_manifest
from msanet.data.storage import open_storage
from msanet.models import build_model
from msanet.training.micro_batch import fitting_batches
from msanet.training.restarts import restarting
from msanet.training.run import RunFolder
from msanet.training.stopping import EXIT_REQUEUE, Ask, Watch
from msanet.training.trainer import Trainer


def train(config: Config) -> None:
    """From shards to checkpoints, metrics and a report; every rank runs this."""
    watch = Watch(config.run.grace, config.trainer.checkpoint_minutes)
    shards = open_storage(config.data.path or "", config.storage)
    manifest = distributed.on_main(lambda: read_manifest(shards))  # one truth for all hosts
    validation = ShardSource(shards, config.data.val_split, manifest)

    distributed.manual_seed(config.run.seed)  # the same initial weights on every rank
    model = build_model(config.model.name, manifest.num_classes, **config.model.options)
    run = RunFolder(config, manifest)
    saved = run.resume_or_initialise(model)
    trainer = Trainer(config, manifest, model, fitting_batches(config, manifest, saved), saved)
    run.begin(trainer.step)

    bar = tqdm(total=trainer.total_steps, initial=trainer.step, desc="train", disable=not distributed.is_main())
    with watch, run, bar:
        for micro_batches in trainer.stream():
            if micro_batches:  # none where a validation that was given up comes first
                run.record(trainer.step + 1, micro_batches)
                trainer.train_step(micro_batches)
                bar.update()
            if trainer.is_to_be_logged:
                run.log(trainer.position, trainer.training_figures())
            if trainer.is_to_be_judged:
                run.log_evaluation(trainer.position, trainer.evaluate(validation, watch.is_told_to_stop))
            asked = watch.asks()
            if asked or trainer.is_to_be_saved:
                run.save(trainer.checkpoint())
            if asked is Ask.STOP and not trainer.is_done:
                raise SystemExit(EXIT_REQUEUE)


if __name__ == "__main__":
    settings = restarting(train_config(__doc__))
    with distributed.session(settings.run.timeout):
        train(settings)
