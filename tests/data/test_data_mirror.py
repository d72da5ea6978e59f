# SPDX-License-Identifier: Apache-2.0
"""Labels in the mirror: left and right exchanged, as words, where such a class exists."""

from vivit_jax.data.augmentation.mirror import mirrored_classes, mirrored_labels

NAMES = (  # the first six are Something-Something's
  'Pulling something from left to right',
  'Pulling something from right to left',
  'Turning the camera left while filming something',
  'Turning the camera right while filming something',
  'Turning something upside down',
  'Moving something closer to something',
  'swipe_LEFT',
  'Swipe_Right',
  'raising the left hand',
  'leftovers',
  'bright light',
)


def test_classes_that_differ_in_left_and_right_are_exchanged():
  expected = (1, 0, 3, 2, 4, 5, 7, 6, None, 9, 10)
  assert mirrored_classes(NAMES) == expected


def test_labels_are_mirrored_head_by_head_or_tag_by_tag():
  verbs, nouns = mirrored_classes(NAMES), mirrored_classes(('cup', 'left shoe', 'right shoe'))
  assert mirrored_labels((0, 1), [verbs, nouns]) == (1, 2)
  assert mirrored_labels((4, 0), [verbs, nouns]) == (4, 0)
  assert mirrored_labels((8, 0), [verbs, nouns]) is None
  assert mirrored_labels((0, 3, 4), [verbs]) == (1, 2, 4)
  assert mirrored_labels((), [verbs]) == ()
  assert mirrored_labels((4, 8), [verbs]) is None
