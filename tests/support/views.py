# SPDX-License-Identifier: Apache-2.0
"""The views of one video as a prediction reads them."""

from vivit_jax.data.examples import Reading
from vivit_jax.data.pipeline import evaluation_batches
from vivit_jax.inference.predict import experiment, make_protocol, unlabelled


def read_views(source, video, temporal_views=4, spatial_views=3):
  """Returns the pixels of all views, uint8 [V, F, H, W, 3], and their `Reading`."""
  protocol = make_protocol(source, temporal_views, spatial_views)
  (batch,) = evaluation_batches(
    unlabelled([video]),
    experiment(source, protocol),
    temporal_views=temporal_views,
    spatial_views=spatial_views,
    batch_size=protocol.views,
  )
  assert batch['mask'].all(), batch['failures']
  assert (batch['label'] == batch['label'][0]).all()
  return batch['video'], Reading(*batch['label'][0])
