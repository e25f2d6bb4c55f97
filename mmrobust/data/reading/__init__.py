"""Reads data files of strangers: nothing in them is executed, and memory and time are bounded."""

from mmrobust.data.reading.reader import FileContent, cannot_read, read_file

__all__ = ["FileContent", "cannot_read", "read_file"]
