# SPDX-License-Identifier: Apache-2.0
"""Reading one video file: the frames of a clip and their pixels."""
