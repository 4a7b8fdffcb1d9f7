"""What a data set is like before a model is trained on it: `tomtat data check`, and the recipes of `tomtat init`."""

from tomtat.checking.check import check_data
from tomtat.checking.report import Report
from tomtat.checking.sources import Split, name_splits

__all__ = ["Report", "Split", "check_data", "name_splits"]
