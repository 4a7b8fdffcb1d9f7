"""Many documents: files of any format and size into a file of summaries, on this machine or on a Ray cluster.

    summarize_file("runs/mine", "big.jsonl", "summaries.jsonl")

A look over the file first (documents.py), then window after window through the summarizer (work.py, cluster.py) into a
file that a kill can't harm (output.py).
"""

from tomtat.bulk.cluster import Cluster
from tomtat.bulk.documents import Documents, look_over, open_documents
from tomtat.bulk.job import BulkReport, summarize_documents, summarize_file
from tomtat.bulk.output import rejects_path
from tomtat.bulk.settings import SummarizerSettings

__all__ = [
    "BulkReport",
    "Cluster",
    "Documents",
    "SummarizerSettings",
    "look_over",
    "open_documents",
    "rejects_path",
    "summarize_documents",
    "summarize_file",
]
