# SPDX-License-Identifier: Apache-2.0
"""One video file: which frames a clip shows, and their pixels."""
