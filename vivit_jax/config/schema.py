# SPDX-License-Identifier: Apache-2.0
"""Every setting of an experiment, with its type, default, unit and source."""

import dataclasses
from itertools import accumulate
from typing import Annotated, Literal

from vivit_jax.config.augment import (
  Augment,
  Count,
  CountOrZero,
  Fraction,
  Layers,
  NonNegative,
  Range,
  Rate,
  Seed,
)
from vivit_jax.config.clip import Clip as Clip
from vivit_jax.config.clip import Preprocessing, Sampling
from vivit_jax.config.model import SIZES as SIZES
from vivit_jax.config.model import Attention as Attention
from vivit_jax.config.model import Model as Model
from vivit_jax.config.model import Size as Size
from vivit_jax.config.surroundings import Checkpoint, Faults, Log

TaskKind = Literal['single_label', 'multi_label', 'masked']


@dataclasses.dataclass(frozen=True)
class Task:
  """What is predicted: one softmax per head (`single_label`), or one sigmoid per class.

  `masked` predicts the pixels of hidden patches, see Masked. It needs no labels and has no classes.
  """

  kind: TaskKind = 'single_label'
  # Manifest columns, one head each. A masked task uses them only for the nearest-neighbor probe.
  heads: tuple[str, ...] = ('label',)
  # Expected number of classes per head; () = the number of names in classes/, which is then
  # recorded in the run's config.json.
  classes: tuple[Count, ...] = (400,)
  joint: str | None = None  # name of the metric 'all heads right', e.g. 'action' = verb + noun


@dataclasses.dataclass(frozen=True)
class Masked:
  """Masked pretraining (VideoMAE, arXiv 2203.12602); used if task.kind is `masked`."""

  # Fraction of the places of the patch grid that are hidden, in all tubelets of a clip (tubes).
  ratio: Annotated[float, Range(0.0, 1.0)] = 0.9
  # The decoder's transformer; the defaults are VideoMAE's for ViT-B.
  decoder_attention: Literal[
    'spatio_temporal', 'factorised_self_attention', 'factorised_dot_product'
  ] = 'spatio_temporal'
  decoder_layers: Layers = 4
  decoder_width: Count = 384
  decoder_mlp_dim: Count = 1536
  decoder_heads: Count = 6
  # tubelet: pixels of a patch less their mean, divided by their deviation, for each channel alone
  # (VideoMAE); patch: over all its channels together (MAE, arXiv 2111.06377); pixels: in [0, 1].
  target: Literal['tubelet', 'patch', 'pixels'] = 'tubelet'
  # Training videos that the nearest-neighbor probe of an evaluation looks at; 0 = no probe. Only if
  # task.heads names labels.
  probe_videos: CountOrZero = 2000


@dataclasses.dataclass(frozen=True)
class MovingDigits:
  """The built-in data set (see data/moving_digits.py), used if data.source is moving_digits."""

  train_videos: Count = 1600
  validation_videos: Count = 160
  test_videos: Count = 240
  seed: CountOrZero = 0


@dataclasses.dataclass(frozen=True)
class Data:
  """Location and reading of videos."""

  source: str = 'manifests'  # or moving_digits, or a user's 'module:name', see docs/python.md
  root: str | None = None  # folder of train.csv, validation.csv, test.csv and classes/; or gs://
  moving_digits: MovingDigits = MovingDigits()
  # Head whose classes are shown equally often in training; epochs still count examples.
  balance: str | None = None
  freeze_time: bool = False  # control experiment: repeat the first frame of each clip
  # Decoding processes; 0 = threads of the trainer; None = cores - 1 (threads on a single core)
  workers: CountOrZero | None = None
  decode_timeout_seconds: Annotated[float, Range(0.1, 1e6)] = 60.0  # per video (workers > 0)
  max_bad_fraction: Fraction = 0.1  # stop if more than this fraction of the videos cannot be read


@dataclasses.dataclass(frozen=True)
class Train:
  """Optimization; the defaults are the paper's Kinetics recipe (Table 7, supplement A)."""

  batch_size: Count = 64  # clips over all devices and hosts
  # Number of parts of the batch that are processed sequentially: less memory, same update.
  grad_accum_steps: Count = 1
  epochs: NonNegative = 30.0
  warmup_epochs: NonNegative = 2.5  # linear
  steps: Count | None = None  # instead of epochs; the warm-up is scaled accordingly
  optimizer: Literal['sgd', 'adamw'] = 'sgd'
  learning_rate: NonNegative = 0.1  # peak, then cosine decay
  warmup_start: Fraction = 0.0  # initial learning rate, as a fraction of the peak
  final_rate: Fraction = 0.0  # final learning rate, as a fraction of the peak
  momentum: Rate = 0.9  # sgd
  # adamw: decay of the averaged squares of gradients; 0.95 in masked pretraining.
  second_moment_decay: Rate = 0.999
  weight_decay: NonNegative = 0.0  # adamw: decoupled; matrices only
  grad_clip_norm: NonNegative = 1.0  # maximum norm of the gradient; 0 = off
  # 0: clip the gradient of the whole batch. n: clip the gradients of n equal parts of the batch
  # before averaging them, as in Scenic with n = number of devices.
  grad_clip_groups: CountOrZero = 0
  label_smoothing: Rate = 0.0
  # Class weights in the loss, e.g. (('fall', 5.0),); others have 1. Write 'head:class' if several
  # heads have the class.
  class_weights: tuple[tuple[str, NonNegative], ...] = ()
  balanced_loss: bool = False  # weights proportional to 1 / videos of the class
  # Learning rate of a layer relative to the next higher one, arXiv 2106.08254 appendix; 1 = off.
  layer_decay: Fraction = 1.0
  ema_decay: Rate = 0.0  # of the EMA weights, which are then evaluated; 0 = off
  # Path prefixes of frozen parameters, e.g. ('tokenizer', 'spatial') as in arXiv 2306.04822;
  # everything except 'head' gives a linear probe.
  freeze: tuple[str, ...] = ()
  log_every: Count = 20  # steps
  evaluate_every: Count = 1000  # steps; one view of each validation video
  checkpoint_every: Count = 500  # steps
  # Evaluations in a row without a new best top1 or mAP (ties: loss) after which the run ends.
  patience: Count | None = None


@dataclasses.dataclass(frozen=True)
class Mix:
  """Mixup and CutMix of clips and labels within a batch, computed in the step."""

  mixup: NonNegative = 0.0  # alpha of Beta(alpha, alpha), arXiv 1710.09412; 0 = off
  cutmix: NonNegative = 0.0  # likewise, arXiv 1905.04899; one box for all frames of a clip
  cutmix_fraction: Fraction = 0.5  # fraction of groups with CutMix, if both are on
  # Consecutive clips in the batch that share one draw; clip i is blended with the i-th last one.
  # 2 = pairs; in Scenic, a group is the clips of one device.
  group_size: Annotated[int, Range(2)] = 2


@dataclasses.dataclass(frozen=True)
class Evaluate:
  """Multi-view testing, paper section 4.2: logits averaged over views."""

  temporal_views: Count = 4
  spatial_views: Count = 3  # crops along the longer side
  # Shorter side of frames before the crop, in pixels; None = augment.crop.short_side, e.g. 256 for
  # crops of 224 (Scenic's min_resize, for both).
  short_side: Count | None = None
  batch_size: Count = 64  # views over all devices and hosts


def usual_views(wants: Preprocessing) -> tuple[int, int]:
  """Returns temporal and spatial test views: the weights' own, or else the paper's 4 x 3."""
  temporal, spatial = Evaluate.temporal_views, Evaluate.spatial_views
  # With whole frames, all crops would be equal.
  return wants.views or (temporal, 1 if wants.resize == 'whole_frame' else spatial)


@dataclasses.dataclass(frozen=True)
class Mesh:
  """Number of devices per mesh axis; one axis may be -1 = all remaining; see docs/scale.md."""

  data: Annotated[int, Range(-1)] = -1  # data parallel: each device has its own clips
  fsdp: Annotated[int, Range(-1)] = 1  # as data, with large parameters sharded over the axis
  # Devices that share a clip, each with some of its frames; they must be on one host, which decodes
  # whole clips.
  context: Annotated[int, Range(-1)] = 1


@dataclasses.dataclass(frozen=True)
class CheckpointFacts:
  """Facts about a checkpoint, given by the caller; None = taken from its tensors or side-car.

  If tensors, side-car and caller contradict each other, the checkpoint is rejected.
  """

  attention: Attention | None = None
  order: Literal['space_time', 'time_space'] | None = None
  heads: Count | None = None
  gelu: Literal['tanh', 'exact'] | None = None
  norm_epsilon: NonNegative | None = None
  tokenizer: Literal['tubelet', 'uniform_frame_sampling', 'image'] | None = None
  frames: Count | None = None  # of the clip that matches the positions
  height: Count | None = None  # pixels
  width: Count | None = None
  stride: Count | None = None  # in frames of the video
  sampling: Sampling | None = None  # how frames are chosen, as in Clip
  # Some Hugging Face processors have another value range than the weights' training. For example,
  # ViViT's maps 0..255 to [-1, 1] and then subtracts 0.5 and divides by 0.5 again.
  value_range: Literal['trained', 'processor'] = 'trained'
  head: bool = True  # False = ignore the classifier, to initialize another model


@dataclasses.dataclass(frozen=True)
class Init:
  """Weights to start from (paper section 3.4), without step and optimizer state."""

  checkpoint: str | None = None  # any path for load_pretrained
  # checkpoint: settings of model and clip that stand at their defaults become those of the weights,
  # with a pooling that a classifier can have.
  architecture: Literal['config', 'checkpoint'] = 'config'
  # How they are resized, see weights/positions.py. init: learned anew, where what matters looks the
  # same at every place (docs/pretraining.md).
  positions: Literal['linear', 'scenic', 'init'] = 'linear'
  # For factorised_self_attention from a model without temporal attention. zero_projection: it has
  # no effect initially (paper). copy: copied from spatial attention (Scenic).
  temporal_attention: Literal['zero_projection', 'copy'] = 'zero_projection'
  # cls of the spatial stage, for factorised_encoder from an image model; Scenic has another name
  # for it and therefore does not load it.
  spatial_cls: Literal['load', 'init'] = 'load'
  # auto: load from a video model with the same number of classes, but not from an image model,
  # whose classes differ even if their number is the same.
  head: Literal['auto', 'load', 'init'] = 'auto'
  facts: CheckpointFacts = CheckpointFacts()


@dataclasses.dataclass(frozen=True)
class Config:
  """All settings of an experiment."""

  seed: Seed = 0
  task: Task = Task()
  model: Model = Model()
  clip: Clip = Clip()
  masked: Masked = Masked()
  data: Data = Data()
  augment: Augment = Augment()
  train: Train = Train()
  mix: Mix = Mix()
  log: Log = Log()
  evaluate: Evaluate = Evaluate()
  checkpoint: Checkpoint = Checkpoint()
  faults: Faults = Faults()
  mesh: Mesh = Mesh()
  init: Init = Init()

  @property
  def test_short_side(self) -> int:
    """Shorter side of frames in validation, testing and prediction, in pixels."""
    crop = self.augment.crop
    return self.evaluate.short_side or crop.short_side or self.clip.usual_short_side


def head_slices(task: Task) -> dict[str, slice]:
  """Returns the slice of each head along the last axis of the logits [B, sum(classes)]."""
  stops = list(accumulate(task.classes))
  starts = [0, *stops[:-1]]
  return {head: slice(*ends) for head, *ends in zip(task.heads, starts, stops, strict=True)}
