"""What this program calls itself; kept free of imports, because Docker asks often."""

VERSION = "0.1.0"
PROTOCOL = 1
SUMMARY = "Move a running container to another host's Docker while it runs"
