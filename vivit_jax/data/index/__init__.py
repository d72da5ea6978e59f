# SPDX-License-Identifier: Apache-2.0
"""Manifests from folders of videos and from the annotation files of public data sets."""
