"""The one place that makes system calls which Python's own library does not offer."""
