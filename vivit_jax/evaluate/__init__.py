# SPDX-License-Identifier: Apache-2.0
"""Multi-view testing: from a stream of views to metrics and a report."""
