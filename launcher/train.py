"""Train a segmentation network.

    deepspeed launcher/train.py --config jobs/recipes/camvid.yaml data.path=SHARDS run.dir=RUN [key=value ...]

`deepspeed` may be left out (one process). The same command again goes on. A signal makes a run save and end with code 75.
"""

from tqdm import tqdm

import msanet.whole_imports  # noqa: F401
from msanet import distributed
from msanet.cli import train_config
from msanet.config import Config
from msanet.data.shard_source import ShardSource, read_manifest
from msanet.data.storage import open_storage
from msanet.distributed.preemption import PreemptionHandler, StopRequest
from msanet.distributed.supervisor import supervise
from msanet.models import build_model
from msanet.training.memory.auto_batch_size import choose_batch_plan
from msanet.training.run_folder import RunFolder
from msanet.training.trainer import Trainer


def train(config: Config) -> None:
    """From shards to checkpoints, metrics and a report; every rank runs this."""
    preemption = PreemptionHandler(config.run.preemption_grace_seconds, config.trainer.checkpoint_every_minutes)
    shards = open_storage(config.data.path or "", config.storage)
    manifest = distributed.on_main(lambda: read_manifest(shards))  # one truth for all hosts
    validation = ShardSource(shards, config.data.val_split, manifest)
    distributed.manual_seed(config.run.seed)  # the same initial weights on every rank
    model = build_model(config.model.name, manifest.num_classes, **config.model.options)
    run = RunFolder(config, manifest)
    saved = run.resume_or_initialize(model)
    trainer = Trainer(config, manifest, model, choose_batch_plan(config, manifest, saved), saved)
    run.begin(trainer.step)

    bar = tqdm(total=trainer.total_steps, initial=trainer.step, desc="train", disable=not distributed.is_main())
    with preemption, run, bar:
        for micro_batches in trainer.stream():
            if micro_batches:  # none where a validation that was given up comes first
                run.record(trainer.step + 1, micro_batches)
                trainer.train_step(micro_batches)
                bar.update()
            if trainer.should_log:
                run.log(trainer.position, trainer.training_metrics())
            if trainer.should_validate:
                run.log_evaluation(trainer.position, trainer.evaluate(validation, preemption.stop_requested))
            asked = preemption.poll()
            if asked or trainer.should_save:
                run.save(trainer.checkpoint())
            if asked is StopRequest.STOP and not trainer.is_done:
                raise distributed.Preempted


if __name__ == "__main__":
    config = train_config(__doc__)
    timeouts = distributed.Timeouts.from_config(config.run)
    if supervise(config.run.max_restarts, timeouts):
        config = config.model_copy(update={"run": config.run.model_copy(update={"resume": "auto"})})
    distributed.run_and_exit(lambda: train(config), timeouts)
