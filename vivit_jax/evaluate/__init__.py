# SPDX-License-Identifier: Apache-2.0
"""Multi-view testing: from batches of views to metrics and a report."""
