# SPDX-License-Identifier: Apache-2.0
"""Several processes as one run: how they find each other, agree, exchange data and end together."""
