# SPDX-License-Identifier: Apache-2.0
"""Creates manifests from folders of videos and from annotation files of public data sets."""
